//! Handlers on pools in axum, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post};
use axum::{Json, Router};
use futures::future::join_all;
use onelane::offload::{BlockingPool, Cancelled, CpuPool, OffloadError, OffloadErrorKind, Priority, TaskContext};
use onelane::web::axum::{GuardLayer, blocking_handler, cpu_handler};
use onelane::web::{Refusal, RefusalReason, cpu_handler_pool, handler_pool};
use onelane::{EndpointGuard, run_blocking};
use serde_json::{Value, json};
use tower::ServiceExt;

use Listening::{Plain, Watched};
use support::gate::Gate;
use support::http::{Client, ClientResponse, Disconnect, Listening, bytes, eventually, serve};

type Numbers = Query<std::collections::HashMap<String, u64>>;

fn pool(running: usize, queued: usize) -> BlockingPool {
    BlockingPool::builder("test").max_running(running).max_queued(queued).build()
}

/// A handler that blocks until the test releases it.
fn held(gate: &Arc<Gate>) -> impl Fn() -> &'static str + Clone + Send + Sync + 'static {
    let gate = Arc::clone(gate);
    move || {
        gate.pass();
        "done"
    }
}

async fn ask(route: MethodRouter, request: impl AsRef<[u8]>) -> ClientResponse {
    Client::sending(serve(Plain, Router::new().route("/", route)).await, request).await.response().await
}

fn is_problem(response: &ClientResponse, status: u16, kind: &str, retry_after: Option<&str>) {
    let problem = response.json();
    assert_eq!((response.status, &problem["status"], &problem["type"]), (status, &json!(status), &json!(kind)));
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    assert_eq!(response.header("retry-after"), retry_after);
    for member in ["title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {problem}");
    }
}

mod function {
    use super::*;

    fn sum(State(base): State<u64>, Path(id): Path<u64>, Query(query): Numbers, Json(body): Json<u64>) -> Json<Value> {
        Json(json!({ "sum": base + id + query["add"] + body }))
    }

    fn app(pool: &BlockingPool) -> Router {
        Router::new().route("/{id}", post(blocking_handler(sum).on(pool))).with_state(1000)
    }

    #[tokio::test]
    async fn gets_the_values_of_its_extractors_including_state_and_body() {
        let address = serve(Plain, app(handler_pool())).await;
        let head =
            "POST /200?add=30 HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n";
        let response = Client::sending(address, format!("{head}4")).await.response().await;
        assert_eq!((response.status, response.json()), (200, json!({ "sum": 1234 })));
        assert_eq!(response.header("content-type"), Some("application/json"));
    }

    #[tokio::test]
    async fn is_not_called_if_an_extractor_rejects() {
        let pool = pool(1, 0);
        let address = serve(Plain, app(&pool)).await;
        for (request, status) in
            [(support::http::post("/text?add=1", b"1"), 400), (support::http::post("/1?add=1", b"1"), 415)]
        {
            assert_eq!(Client::sending(address, request).await.response().await.status, status);
        }
        // The same as without a pool.
        let refused = Client::sending(address, support::http::post("/1?add=x", b"1")).await.response().await;
        let bare = Router::new().route("/", get(async |_: Numbers| ()));
        let bare = Client::sending(serve(Plain, bare).await, support::http::get("/?add=x")).await.response().await;
        assert_eq!((refused.status, refused.text()), (bare.status, bare.text()));
        assert_eq!(pool.stats().started, 0);
    }

    #[tokio::test]
    async fn takes_up_to_sixteen_extractors() {
        let none = || "none";
        let eight = |m: Method, u: Uri, h: HeaderMap, a: Method, b: Method, c: Method, d: Method, body: Bytes| {
            let same = [a, b, c, d].iter().all(|other| *other == m);
            format!("{m} {u} {} {same} {}", h["host"].to_str().unwrap_or_default(), body.len())
        };
        type M = Method;
        #[rustfmt::skip]
        let sixteen = |_: M, _: M, _: M, _: M, _: M, _: M, _: M, _: M, _: M, _: M, _: M, _: M, _: M, _: M, _: M, body: String| body;
        assert_eq!(ask(get(blocking_handler(none)), support::http::get("/")).await.text(), "none");
        let response = ask(post(blocking_handler(eight)), support::http::post("/", b"body")).await;
        assert_eq!(response.text(), "POST / test true 4");
        assert_eq!(ask(post(blocking_handler(sixteen)), support::http::post("/", b"last")).await.text(), "last");
        // A whole request is a valid last extractor too.
        let whole = |request: Request| request.uri().path().to_owned();
        assert_eq!(ask(get(blocking_handler(whole)), support::http::get("/")).await.text(), "/");
    }

    #[tokio::test]
    async fn returns_its_own_error() {
        let response =
            ask(get(blocking_handler(|| Err::<(), _>((StatusCode::IM_A_TEAPOT, "no")))), support::http::get("/")).await;
        assert_eq!((response.status, response.text()), (418, "no"));
    }

    /// The threads on which it was extracted, on which it was called, and on which its response was made.
    struct Threads(ThreadId, ThreadId);

    struct Extracted(ThreadId);

    impl<S: Sync> FromRequest<S> for Extracted {
        type Rejection = StatusCode;

        async fn from_request(_: Request, _: &S) -> Result<Self, StatusCode> {
            Ok(Self(thread::current().id()))
        }
    }

    impl IntoResponse for Threads {
        fn into_response(self) -> Response {
            let here = thread::current().id();
            format!("{:?} {:?} {:?}", self.0, self.1, here).into_response()
        }
    }

    #[tokio::test]
    async fn and_its_response_run_on_the_pool_and_its_extractors_do_not() {
        let function = |extracted: Extracted| Threads(extracted.0, thread::current().id());
        let routes = [post(blocking_handler(function)), post(cpu_handler(function))];
        for route in routes {
            let response = ask(route, support::http::post("/", b"")).await;
            let threads: Vec<_> = response.text().split(' ').collect();
            let here = format!("{:?}", thread::current().id());
            assert_eq!(threads[0], here, "its extractor runs on the runtime, which is this thread");
            assert_ne!(threads[1], here, "it is called on another thread");
            assert_eq!(threads[1], threads[2], "its response is made on the thread on which it was called");
        }
    }

    #[tokio::test]
    async fn finds_the_runtime_and_its_context_on_the_pool() {
        let function = || {
            let cx = TaskContext::current().map(|cx| cx.label().map(str::to_owned));
            let response = tokio::runtime::Handle::current().block_on(async { "from the runtime" });
            format!("{cx:?} {response}")
        };
        for route in [get(blocking_handler(function).label("it")), get(cpu_handler(function).label("it"))] {
            assert_eq!(ask(route, support::http::get("/")).await.text(), "Some(Some(\"it\")) from the runtime");
        }
    }

    #[tokio::test]
    async fn does_not_block_other_requests() {
        let gate = Gate::new();
        let pool = pool(4, 0);
        let app = Router::new()
            .route("/held", get(blocking_handler(held(&gate)).on(&pool)))
            .route("/", get(async || "at once"));
        let address = serve(Plain, app).await;
        let mut four = Vec::new();
        for _ in 0..4 {
            four.push(Client::sending(address, support::http::get("/held")).await);
        }
        eventually("all four run", || gate.started() == 4).await;
        assert_eq!(Client::sending(address, support::http::get("/")).await.response().await.text(), "at once");
        assert_eq!(gate.finished(), 0);
        gate.release(4);
        for client in &mut four {
            assert_eq!(client.response().await.text(), "done");
        }
    }

    #[tokio::test]
    async fn of_a_cpu_handler_runs_on_the_threads_of_run_cpu() {
        let name = || thread::current().name().unwrap_or_default().to_owned();
        let response = ask(get(cpu_handler(name)), support::http::get("/")).await;
        assert!(response.text().starts_with("cpu-"), "{}", response.text());
        assert!(std::ptr::eq(&**cpu_handler_pool().limiter(), &**CpuPool::global().limiter()));
        assert_eq!(cpu_handler_pool().stats().name, "cpu-handlers");
        let own = CpuPool::builder("own").build();
        let response = ask(get(cpu_handler(name).on(&own)), support::http::get("/")).await;
        assert!(response.text().starts_with("own-"), "{}", response.text());
    }
}

mod limits {
    use super::*;

    #[tokio::test]
    async fn request_beyond_the_queue_is_refused_at_once() {
        let (gate, pool) = (Gate::new(), pool(1, 1));
        let app = Router::new().route("/", get(blocking_handler(held(&gate)).on(&pool)));
        let address = serve(Plain, app).await;
        let mut running = Client::sending(address, support::http::get("/")).await;
        eventually("the request runs", || gate.started() == 1).await;
        let mut queued = Client::sending(address, support::http::get("/")).await;
        eventually("the request waits", || pool.stats().queued == 1).await;
        let refused = Client::sending(address, support::http::get("/")).await.response().await;
        is_problem(&refused, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#pool-full", Some("1"));
        gate.release(2);
        assert_eq!((running.response().await.status, queued.response().await.status), (200, 200));
        assert_eq!((gate.started(), gate.most_inside()), (2, 1));
    }

    /// 40 requests run, 400 wait, and the next one is refused.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn default_handler_pool_is_bounded_and_separate_from_the_one_of_run_blocking() {
        assert_eq!(handler_pool().stats().name, "handlers");
        let gate = Gate::new();
        let app: Router = Router::new().route("/", get(blocking_handler(held(&gate))));
        let ask = || app.clone().oneshot(Request::new(Body::empty()));
        let waiting: Vec<_> = (0..440).map(|_| tokio::spawn(ask())).collect();
        eventually("40 run", || gate.started() == 40).await;
        eventually("400 wait", || handler_pool().stats().queued == 400).await;
        let refused = ask().await.expect("a router has no errors");
        assert_eq!(refused.status(), 503);
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(gate.started(), 40);
        assert_eq!(run_blocking(|| 7).await, Ok(7), "the task does not queue behind the handlers");
        gate.release(440);
        for response in join_all(waiting).await {
            assert_eq!(response.expect("no panic").expect("a router has no errors").status(), 200);
        }
        assert_eq!((gate.started(), gate.most_inside()), (440, 40));
    }

    /// The requests behind the running one are admitted only after their timeout.
    async fn behind_one_that_runs(limit: impl Fn(Arc<Gate>, &BlockingPool) -> MethodRouter) -> (ClientResponse, usize) {
        let (gate, pool) = (Gate::new(), pool(1, 8));
        let app = Router::new()
            .route("/first", get(blocking_handler(held(&gate)).on(&pool)))
            .route("/", limit(Arc::clone(&gate), &pool));
        let address = serve(Plain, app).await;
        let mut first = Client::sending(address, support::http::get("/first")).await;
        eventually("the request runs", || gate.started() == 1).await;
        let response = Client::sending(address, support::http::get("/")).await.response().await;
        gate.release(2);
        assert_eq!(first.response().await.status, 200);
        pool.run(|| ()).await.expect("a thread is free again");
        (response, gate.started())
    }

    #[tokio::test]
    async fn request_that_waits_too_long_for_a_thread_is_refused_and_never_runs() {
        let limit = |gate: Arc<Gate>, pool: &BlockingPool| {
            get(blocking_handler(held(&gate)).on(pool).max_wait(Duration::from_millis(30)))
        };
        let (response, started) = behind_one_that_runs(limit).await;
        is_problem(&response, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#timeout", Some("1"));
        assert_eq!(started, 1);
    }

    #[tokio::test]
    async fn request_that_has_not_begun_within_its_timeout_is_refused_and_never_runs() {
        let limit = |gate: Arc<Gate>, pool: &BlockingPool| {
            get(blocking_handler(held(&gate)).on(pool).timeout(Duration::from_millis(30)))
        };
        let (response, started) = behind_one_that_runs(limit).await;
        is_problem(&response, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#timeout", Some("1"));
        assert_eq!(started, 1);
    }

    #[tokio::test]
    async fn request_that_runs_too_long_gets_504_and_its_function_is_cancelled() {
        for cpu in [false, true] {
            let gate = Gate::new();
            let function = {
                let gate = Arc::clone(&gate);
                move || {
                    gate.pass_unless_cancelled();
                    // Its result would be in time if it saw first that its time is over.
                    thread::sleep(Duration::from_millis(100));
                }
            };
            // Long enough for it to begin.
            let limit = Duration::from_millis(500);
            let route = if cpu {
                get(cpu_handler(function).timeout(limit))
            } else {
                get(blocking_handler(function).timeout(limit))
            };
            let response = ask(route, support::http::get("/")).await;
            is_problem(&response, 504, "https://docs.rs/onelane/latest/onelane/web/index.html#took-too-long", None);
            eventually("the function has seen the cancellation", || gate.cancelled() == 1).await;
        }
    }

    /// The function may see that its time is over slightly before the server does.
    #[tokio::test]
    async fn function_that_stops_when_its_time_is_over_gets_504_as_well() {
        let function = || -> Result<(), Cancelled> {
            let cx = TaskContext::current().expect("the function runs on a pool");
            loop {
                cx.checkpoint()?;
                thread::sleep(Duration::from_millis(1));
            }
        };
        let mut stopped = 0;
        for _ in 0..20 {
            let response =
                ask(get(blocking_handler(function).timeout(Duration::from_millis(5))), support::http::get("/")).await;
            // On a busy machine the function may not even begin in such a short time.
            if response.status != 503 {
                is_problem(&response, 504, "https://docs.rs/onelane/latest/onelane/web/index.html#took-too-long", None);
                stopped += 1;
            }
        }
        assert!(stopped > 0);
    }

    #[tokio::test]
    async fn higher_priorities_run_first() {
        let (gate, pool) = (Gate::new(), pool(1, 8));
        let handler = |name: &'static str, priority| {
            let gate = Arc::clone(&gate);
            get(blocking_handler(move || gate.pass_as(name)).on(&pool).priority(priority))
        };
        let app = Router::new()
            .route("/low", handler("low", Priority::Low))
            .route("/normal", handler("normal", Priority::Normal))
            .route("/high", handler("high", Priority::High));
        let address = serve(Plain, app).await;
        let mut clients = vec![Client::sending(address, support::http::get("/low")).await];
        eventually("one request runs", || gate.started() == 1).await;
        for (waiting, path) in [(1, "/low"), (2, "/normal"), (3, "/high")] {
            clients.push(Client::sending(address, support::http::get(path)).await);
            eventually("the request waits", || pool.stats().queued == waiting).await;
        }
        gate.release(4);
        for client in &mut clients {
            assert_eq!(client.response().await.status, 200);
        }
        assert_eq!(gate.names(), ["low", "high", "normal", "low"]);
    }

    #[tokio::test]
    async fn label_appears_in_the_statistics_while_it_runs() {
        let (gate, pool) = (Gate::new(), pool(1, 1));
        let app = Router::new().route("/", get(blocking_handler(held(&gate)).on(&pool).label("report")));
        let mut client = Client::sending(serve(Plain, app).await, support::http::get("/")).await;
        eventually("the request runs", || gate.started() == 1).await;
        assert_eq!(pool.stats().tasks[0].label, "report");
        gate.release(1);
        assert_eq!(client.response().await.status, 200);
    }
}

mod failures {
    use super::*;

    #[tokio::test]
    async fn panic_is_500_and_the_pool_survives() {
        let pool = pool(1, 1);
        let app = Router::new()
            .route("/", get(blocking_handler(|| -> &'static str { panic!("panic requested by the test") }).on(&pool)))
            .route("/well", get(blocking_handler(|| "well").on(&pool)));
        let mut client = Client::sending(serve(Plain, app).await, support::http::get("/")).await;
        is_problem(
            &client.response().await,
            500,
            "https://docs.rs/onelane/latest/onelane/web/index.html#panicked",
            None,
        );
        client.send(support::http::get("/well")).await;
        assert_eq!(client.response().await.text(), "well", "on the same connection");
    }

    #[tokio::test]
    async fn panic_while_making_the_response_is_500_too() {
        struct Bomb;
        impl IntoResponse for Bomb {
            fn into_response(self) -> Response {
                panic!("panic requested by the test")
            }
        }
        let response = ask(get(blocking_handler(|| Bomb)), support::http::get("/")).await;
        is_problem(&response, 500, "https://docs.rs/onelane/latest/onelane/web/index.html#panicked", None);
    }

    #[tokio::test]
    async fn closed_pool_refuses_with_503() {
        let pool = pool(1, 1);
        pool.close();
        let response = ask(get(blocking_handler(|| "never").on(&pool)), support::http::get("/")).await;
        is_problem(&response, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#closed", None);
    }

    #[tokio::test]
    async fn refusal_can_be_changed() {
        let pool = pool(1, 1);
        pool.close();
        let handler = blocking_handler(|| "never").on(&pool).on_refusal(|refusal: Refusal, _| {
            let RefusalReason::Offload(error) = refusal.reason() else { panic!("{:?}", refusal.reason()) };
            assert_eq!(*error, OffloadErrorKind::Closed);
            refusal.with_status(599).with_body("text/plain", "gone home")
        });
        let response = ask(get(handler), support::http::get("/")).await;
        assert_eq!((response.status, response.text()), (599, "gone home"));
    }

    #[tokio::test]
    async fn errors_of_run_blocking_become_the_same_response_in_an_ordinary_handler() {
        async fn panics() -> Result<String, OffloadError> {
            let greeting = run_blocking(|| -> &str { panic!("panic requested by the test") }).await?;
            Ok(format!("{greeting}, world"))
        }
        is_problem(
            &ask(get(panics), support::http::get("/")).await,
            500,
            "https://docs.rs/onelane/latest/onelane/web/index.html#panicked",
            None,
        );
        for (error, status, kind) in [
            (OffloadErrorKind::Cancelled, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#cancelled"),
            (OffloadErrorKind::Closed, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#closed"),
            (
                OffloadErrorKind::RuntimeShutdown,
                503,
                "https://docs.rs/onelane/latest/onelane/web/index.html#shutting-down",
            ),
            (OffloadErrorKind::NoRuntime, 500, "https://docs.rs/onelane/latest/onelane/web/index.html#no-runtime"),
        ] {
            let response =
                ask(get(async move || Err::<(), _>(OffloadError::from(error))), support::http::get("/")).await;
            is_problem(&response, status, kind, None);
        }
        let response =
            ask(get(async || Err::<(), _>(OffloadError::from(OffloadErrorKind::NoThread))), support::http::get("/"))
                .await;
        is_problem(&response, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#no-thread", Some("1"));
    }

    #[tokio::test]
    async fn clients_learn_nothing_of_the_error() {
        let pool = BlockingPool::new("secret-pool");
        let panicked = pool.task(|_| panic!("secret panic")).label("secret-label").await;
        let error = panicked.map(|never: ()| never).expect_err("the task panics").with_source("secret source");
        assert!(error.to_string().contains("secret-pool") && error.to_string().contains("secret-label"));
        let refusal = Refusal::from(error.clone());
        assert!(!refusal.to_string().contains("secret"), "{refusal}");
        let response = ask(get(async move || Err::<(), _>(error)), support::http::get("/")).await;
        is_problem(&response, 500, "https://docs.rs/onelane/latest/onelane/web/index.html#panicked", None);
        assert!(!response.text().contains("secret"), "{}", response.text());
    }

    #[tokio::test]
    async fn only_too_many_requests_count_as_overload() {
        let full = pool(1, 0);
        let gate = Gate::new();
        let running = full.task({
            let gate = Arc::clone(&gate);
            move |_| gate.pass()
        });
        let running = running.start().expect("the pool has room");
        eventually("the request runs", || gate.started() == 1).await;
        let refused = full.run(|| ()).await.expect_err("it is full");
        assert!(Refusal::from(refused).is_overload());
        gate.release(1);
        running.await.expect("the task succeeds");
        for kind in [OffloadErrorKind::Closed, OffloadErrorKind::NoRuntime, OffloadErrorKind::Cancelled] {
            assert!(!Refusal::from(OffloadError::from(kind)).is_overload());
        }
    }
}

mod disconnect {
    use super::*;

    struct Queue {
        address: SocketAddr,
        gate: Arc<Gate>,
        pool: BlockingPool,
        holder: Client,
        waiter: Client,
    }

    impl Queue {
        /// One request runs, and another one, of which this was sent, waits.
        async fn with(listening: Listening, shielded: bool, sent: &[u8]) -> Self {
            let (gate, pool) = (Gate::new(), pool(1, 8));
            let handler = || blocking_handler(held(&gate)).on(&pool);
            let with_body = {
                let held = held(&gate);
                blocking_handler(move |_: Bytes| held()).on(&pool)
            };
            let plain = if shielded { handler().shield() } else { handler() };
            let app = Router::new().route("/", any(plain)).route("/body", post(with_body));
            let address = serve(listening, app).await;
            let holder = Client::sending(address, support::http::get("/")).await;
            eventually("the request runs", || gate.started() == 1).await;
            let mut waiter = Client::connect(address).await;
            waiter.send_what_fits(sent).await;
            eventually("the request waits", || pool.stats().queued == 1).await;
            Self { address, gate, pool, holder, waiter }
        }

        async fn has_two_that_run(mut self) {
            assert_eq!(self.pool.stats().queued, 1);
            self.gate.release(2);
            assert_eq!(self.holder.response().await.status, 200);
            eventually("both ran", || self.gate.finished() == 2).await;
        }

        async fn client_disconnects(mut self, disconnect: Disconnect, what: &str) {
            self.waiter.disconnect(disconnect).await;
            let gone = format!("left the queue, {what}, {disconnect:?}");
            eventually(&gone, || self.pool.stats().queued == 0).await;
            assert_eq!((self.gate.started(), self.gate.finished()), (1, 0), "the holder continues");
            // The requests behind it are served, and it never was.
            let mut behind = Client::sending(self.address, support::http::get("/")).await;
            eventually("the request waits", || self.pool.stats().queued == 1).await;
            self.gate.release(3);
            assert_eq!((self.holder.response().await.status, behind.response().await.status), (200, 200));
            assert_eq!(self.gate.started(), 2, "{what}, {disconnect:?}");
        }
    }

    #[tokio::test]
    async fn request_whose_client_disconnects_while_it_waits_never_runs() {
        for listening in [Plain, Watched] {
            for disconnect in [Disconnect::Fin, Disconnect::Rst] {
                Queue::with(listening, false, support::http::get("/").as_bytes())
                    .await
                    .client_disconnects(disconnect, "GET")
                    .await;
                let sent = support::http::post("/body", &bytes(5000));
                Queue::with(listening, false, &sent).await.client_disconnects(disconnect, "a body that is read").await;
                let sent = support::http::post("/", &bytes(5000));
                Queue::with(listening, false, &sent)
                    .await
                    .client_disconnects(disconnect, "a body that is not read")
                    .await;
            }
        }
    }

    #[tokio::test]
    async fn request_with_much_unread_data_never_runs_with_a_watched_listener() {
        for disconnect in [Disconnect::Fin, Disconnect::Rst] {
            let sent = support::http::post("/", &bytes(60_000));
            Queue::with(Watched, false, &sent)
                .await
                .client_disconnects(disconnect, "a large body that is not read")
                .await;
            let sent = support::http::get("/").repeat(2);
            Queue::with(Watched, false, sent.as_bytes()).await.client_disconnects(disconnect, "two at once").await;
        }
    }

    #[tokio::test]
    async fn shielded_request_runs_without_its_client() {
        for listening in [Plain, Watched] {
            let mut queue = Queue::with(listening, true, support::http::get("/").as_bytes()).await;
            queue.waiter.disconnect(Disconnect::Fin).await;
            // The server notices when it closes the connection.
            assert_eq!(queue.waiter.rest().await, b"");
            queue.has_two_that_run().await;
            // A second request hides the disconnect from the server, but not from the listener.
            let mut queue = Queue::with(listening, true, support::http::get("/").repeat(2).as_bytes()).await;
            queue.waiter.disconnect(Disconnect::Fin).await;
            // More than twice as long as the listener's check interval.
            tokio::time::sleep(Duration::from_millis(500)).await;
            queue.has_two_that_run().await;
        }
    }

    #[tokio::test]
    async fn function_whose_client_disconnects_continues_and_is_cancelled() {
        for listening in [Plain, Watched] {
            for disconnect in [Disconnect::Fin, Disconnect::Rst] {
                for cpu in [false, true] {
                    let gate = Gate::new();
                    let function = {
                        let gate = Arc::clone(&gate);
                        move || gate.pass_unless_cancelled()
                    };
                    let route = if cpu { get(cpu_handler(function)) } else { get(blocking_handler(function)) };
                    let address = serve(listening, Router::new().route("/", route)).await;
                    let mut client = Client::sending(address, support::http::get("/")).await;
                    eventually("the request runs", || gate.started() == 1).await;
                    client.disconnect(disconnect).await;
                    eventually("the function sees the cancellation", || gate.cancelled() == 1).await;
                }
            }
        }
    }

    /// A function behind a guard holds its permit to its end, though no client waits for the response, because the
    /// thread is still occupied.
    #[tokio::test]
    async fn function_behind_a_guard_keeps_its_permit_to_its_end_without_its_client() {
        for listening in [Plain, Watched] {
            for disconnect in [Disconnect::Fin, Disconnect::Rst] {
                let (gate, guard) = (Gate::new(), Arc::new(EndpointGuard::new("guarded")));
                let app = Router::new().route("/", get(blocking_handler(held(&gate)))).layer(GuardLayer::new(&guard));
                let address = serve(listening, app).await;
                let mut disconnecting = Client::sending(address, support::http::get("/")).await;
                eventually("the request runs", || gate.started() == 1).await;
                disconnecting.disconnect(disconnect).await;
                eventually("the guard notices the disconnect", || guard.stats().detached == 1).await;
                let mut next = Client::sending(address, support::http::get("/")).await;
                eventually("the next request waits", || guard.stats().waiting == 1).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                assert_eq!((gate.started(), guard.stats().held), (1, 1), "{listening:?}, {disconnect:?}");
                gate.release(2);
                assert_eq!(next.response().await.status, 200);
                assert_eq!((gate.started(), gate.most_inside()), (2, 1));
            }
        }
    }
}
