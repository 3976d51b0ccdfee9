//! Handlers on pools in actix-web, on real servers with several workers, called over real sockets.

use std::borrow::Cow;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::web::{self, Bytes, Json, Path, Query, ServiceConfig, get, post};
use actix_web::{Either, Handler, HttpRequest, HttpResponse, Responder};
use futures::stream;
use onelane::offload::{BlockingPool, Cancelled, OffloadError, OffloadErrorKind, TaskContext};
use onelane::run_blocking;
use onelane::web::actix::{OnWorker, blocking_handler, cpu_handler};
use onelane::web::{PoolHandler, Refusal, RefusalReason};
use reqwest::Response;
use serde::Serialize;
use serde_json::{Value, json};

use support::actix::{Server, ask, assert_problem};
use support::client::{Disconnect, RawClient, eventually, web_client};
use support::gate::Gate;

fn pool(running: usize, queued: usize) -> BlockingPool {
    BlockingPool::builder("test").max_running(running).max_queued(queued).build()
}

fn held(gate: &Arc<Gate>) -> impl Fn() -> &'static str + Clone + Send + Sync + 'static {
    let gate = Arc::clone(gate);
    move || {
        gate.pass();
        "done"
    }
}

/// A server with this handler at `/`.
fn serve<H, Args>(handler: H) -> Server
where
    H: Handler<Args> + Send,
    Args: actix_web::FromRequest + 'static,
    H::Output: Responder + 'static,
{
    Server::start(move |config: &mut ServiceConfig| {
        config.route("/", web::to(handler.clone()));
    })
}

async fn response<H, Args>(handler: H) -> Response
where
    H: Handler<Args> + Send,
    Args: actix_web::FromRequest + 'static,
    H::Output: Responder + 'static,
{
    let server = serve(handler);
    web_client().get(server.url("/")).send().await.expect("the server responds")
}

mod function {
    use super::*;

    type Numbers = Query<std::collections::HashMap<String, u64>>;

    #[expect(clippy::needless_pass_by_value, reason = "a handler gets the values of its extractors")]
    fn sum(base: web::Data<u64>, id: Path<u64>, query: Numbers, body: Json<u64>) -> Json<Value> {
        Json(json!({ "sum": **base + *id + query["add"] + *body }))
    }

    fn server() -> Server {
        Server::start(|config| {
            config.app_data(web::Data::new(1000_u64)).route("/{id}", post().to(blocking_handler(sum)));
        })
    }

    #[tokio::test]
    async fn gets_the_values_of_its_extractors_including_data_and_body() {
        let server = server();
        let response = web_client().post(server.url("/200?add=30")).json(&4).send().await.expect("the server responds");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.json::<Value>().await.expect("the body is JSON"), json!({ "sum": 1234 }));
    }

    #[tokio::test]
    async fn is_not_called_if_an_extractor_rejects() {
        let server = server();
        for (path, status) in [("/text?add=1", 404), ("/1?add=x", 400)] {
            let response = web_client().post(server.url(path)).json(&4).send().await.expect("the server responds");
            assert_eq!(response.status().as_u16(), status, "{path}");
        }
        let no_json = web_client().post(server.url("/1?add=1")).body("4").send().await.expect("the server responds");
        assert_eq!(no_json.status().as_u16(), 400);
    }

    #[tokio::test]
    async fn takes_up_to_twelve_extractors() {
        type N = Option<Path<u8>>;
        #[rustfmt::skip]
        let twelve = |_: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N, _: N, body: String| body;
        let server = Server::start(move |config| {
            config.route("/", post().to(blocking_handler(twelve))).route("/", get().to(blocking_handler(|| "none")));
        });
        let response = web_client().post(server.url("/")).body("last").send().await.expect("the server responds");
        assert_eq!(response.text().await.expect("the header is text"), "last");
        let response = web_client().get(server.url("/")).send().await.expect("the server responds");
        assert_eq!(response.text().await.expect("the header is text"), "none");
    }

    /// Records the thread on which it was serialized.
    struct Threads(String);

    impl Serialize for Threads {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            (&self.0, thread_name()).serialize(serializer)
        }
    }

    struct ToldLater(String);

    impl Responder for ToldLater {
        type Body = String;

        fn respond_to(self, request: &HttpRequest) -> HttpResponse<String> {
            let text = format!("{}, {}, {}", self.0, thread_name(), request.path());
            HttpResponse::with_body(StatusCode::OK, text)
        }
    }

    fn thread_name() -> String {
        thread::current().name().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn and_the_json_it_returns_run_on_the_pool() {
        let function = || Json(Threads(thread_name()));
        let [called, written]: [String; 2] =
            response(cpu_handler(function)).await.json().await.expect("the body is JSON");
        assert!(called.starts_with("cpu-") && written.starts_with("cpu-"), "{called}, {written}");
        let [called, written]: [String; 2] =
            response(blocking_handler(function)).await.json().await.expect("the body is JSON");
        assert!(called == written && !called.starts_with("actix"), "{called}, {written}");
    }

    #[tokio::test]
    async fn may_leave_the_response_to_the_worker() {
        let text = response(cpu_handler(|| OnWorker(ToldLater(thread_name()))))
            .await
            .text()
            .await
            .expect("the header is text");
        let threads: Vec<_> = text.split(", ").collect();
        assert!(threads[0].starts_with("cpu-") && threads[1].starts_with("actix") && threads[2] == "/", "{text}");
    }

    #[tokio::test]
    async fn does_not_block_other_requests() {
        let (gate, pool) = (Gate::new(), pool(4, 0));
        let server = Server::start_with(1, false, {
            let handler = blocking_handler(held(&gate)).on(&pool);
            move |config| {
                config.route("/held", get().to(handler.clone())).route("/", get().to(async || "at once"));
            }
        });
        let four: Vec<_> = (0..4).map(|_| server.get("/held")).collect();
        eventually("all four run", || gate.started() == 4).await;
        let response = server.get("/").await.expect("no panic");
        assert_eq!(response.text().await.expect("the header is text"), "at once");
        gate.release(4);
        for held in four {
            assert_eq!(held.await.expect("no panic").status(), 200);
        }
    }
}

mod responses {
    use super::*;

    /// The responses of the same function on the pool, and as an ordinary handler.
    macro_rules! alike {
        ($($value:expr),* $(,)?) => {
            $({
                let pooled = shown(response(blocking_handler(|| $value)).await).await;
                let plain = shown(response(async || $value).await).await;
                assert_eq!(pooled, plain, "{}", stringify!($value));
            })*
        };
    }

    async fn shown(response: Response) -> String {
        let headers = response.headers().iter().filter(|(name, _)| name.as_str() != "date");
        let mut headers: Vec<_> = headers.map(|(name, value)| format!("{name}: {value:?}")).collect();
        headers.sort();
        let status = response.status();
        format!("{status} {headers:?} {:?}", response.text().await.expect("the header is text"))
    }

    #[tokio::test]
    async fn are_the_same_as_those_of_an_ordinary_handler() {
        alike![
            "text",
            "text".to_owned(),
            Cow::Borrowed("text"),
            vec![1_u8, 2],
            Bytes::from_static(b"bytes"),
            &b"bytes"[..],
            Json([1, 2, 3]),
            web::Html::new("<p>"),
            web::Redirect::to("/elsewhere"),
            (Json(1), StatusCode::CREATED),
            Some("some"),
            None::<String>,
            Ok::<_, actix_web::Error>("well"),
            Ok::<(), actix_web::Error>(()),
            Err::<String, actix_web::Error>(actix_web::error::ErrorGone("gone")),
            Err::<String, _>(std::io::Error::other("broken")),
            Either::<_, Json<u8>>::Left("left"),
            Either::<&str, _>::Right(Json(2)),
            HttpResponse::Ok().finish(),
            HttpResponse::NoContent().finish(),
            HttpResponse::NotModified().finish(),
            HttpResponse::Created().insert_header(("x-a", "1")).append_header(("x-a", "2")).json(json!({ "a": 1 })),
            HttpResponse::Ok().content_type(ContentType::xml()).body("<a/>"),
            HttpResponse::build(StatusCode::IM_A_TEAPOT),
            Err::<String, _>(OffloadError::from(OffloadErrorKind::Closed)),
            Err::<String, _>(Cancelled::default()),
        ];
    }

    #[tokio::test]
    async fn that_cannot_be_serialized_is_500() {
        struct Unwritable;
        impl Serialize for Unwritable {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("panic requested by the test"))
            }
        }
        alike![Json(Unwritable)];
    }

    #[tokio::test]
    async fn status_also_applies_to_a_response_left_to_the_worker() {
        let redirect = || (web::Redirect::to("/elsewhere"), StatusCode::SEE_OTHER);
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
        let server = serve(blocking_handler(redirect));
        let response = client
            .expect("the response needs nothing else")
            .get(server.url("/"))
            .send()
            .await
            .expect("the server responds");
        assert_eq!(response.status(), 303);
        assert_eq!(response.headers()["location"], "/elsewhere");
    }

    #[tokio::test]
    async fn stream_cannot_leave_the_pool() {
        let streams = || HttpResponse::Ok().streaming(stream::iter([Ok::<_, std::io::Error>(Bytes::from("a"))]));
        assert_problem(
            response(blocking_handler(streams)).await,
            500,
            None,
            "https://docs.rs/onelane/latest/onelane/web/index.html#answer-broken",
        )
        .await;
    }
}

mod refusals {
    use super::*;

    #[tokio::test]
    async fn request_beyond_the_queue_is_refused_at_once() {
        let (gate, pool) = (Gate::new(), pool(1, 1));
        let handler = blocking_handler(held(&gate)).on(&pool);
        let server = Server::start_with(1, false, move |config| {
            config.route("/", get().to(handler.clone()));
        });
        let running = server.get("/");
        eventually("the request runs", || gate.started() == 1).await;
        let queued = server.get("/");
        eventually("the request waits", || pool.stats().queued == 1).await;
        let refused = server.get("/").await.expect("no panic");
        assert_problem(refused, 503, Some("1"), "https://docs.rs/onelane/latest/onelane/web/index.html#pool-full")
            .await;
        gate.release(2);
        for response in [running, queued] {
            assert_eq!(response.await.expect("no panic").status(), 200);
        }
        assert_eq!((gate.started(), gate.most_inside()), (2, 1));
    }

    #[tokio::test]
    async fn request_that_waits_too_long_is_refused_and_never_runs() {
        type Limit = fn(PoolHandler<Held, ()>) -> PoolHandler<Held, ()>;
        type Held = Box<dyn Fn() -> &'static str + Send + Sync>;
        let limits: [Limit; 2] = [
            |handler| handler.max_wait(Duration::from_millis(30)),
            |handler| handler.timeout(Duration::from_millis(30)),
        ];
        for limit in limits {
            let (gate, pool) = (Gate::new(), pool(1, 8));
            let first = blocking_handler(held(&gate)).on(&pool);
            let limited = limit(blocking_handler(Box::new(held(&gate)) as Held).on(&pool));
            let server = Server::start(move |config| {
                config.route("/first", get().to(first.clone())).route("/", get().to(limited.clone()));
            });
            let first = server.get("/first");
            eventually("the request runs", || gate.started() == 1).await;
            let refused = server.get("/").await.expect("no panic");
            assert_problem(refused, 503, Some("1"), "https://docs.rs/onelane/latest/onelane/web/index.html#timeout")
                .await;
            gate.release(2);
            assert_eq!(first.await.expect("no panic").status(), 200);
            pool.run(|| ()).await.expect("a thread is free again");
            assert_eq!(gate.started(), 1);
        }
    }

    #[tokio::test]
    async fn request_that_runs_too_long_gets_504_and_its_function_is_cancelled() {
        let gate = Gate::new();
        let function = {
            let gate = Arc::clone(&gate);
            move || {
                gate.pass_unless_cancelled();
                // Its result would be in time if it saw first that its time is over.
                thread::sleep(Duration::from_millis(100));
            }
        };
        let response = response(blocking_handler(function).timeout(Duration::from_millis(500))).await;
        assert_problem(response, 504, None, "https://docs.rs/onelane/latest/onelane/web/index.html#took-too-long")
            .await;
        eventually("the function has seen the cancellation", || gate.cancelled() == 1).await;
    }

    #[tokio::test]
    async fn panic_is_500() {
        let function = || -> &'static str { panic!("panic requested by the test") };
        assert_problem(
            response(blocking_handler(function)).await,
            500,
            None,
            "https://docs.rs/onelane/latest/onelane/web/index.html#panicked",
        )
        .await;
        assert_problem(
            response(cpu_handler(function)).await,
            500,
            None,
            "https://docs.rs/onelane/latest/onelane/web/index.html#panicked",
        )
        .await;
    }

    #[tokio::test]
    async fn refusal_can_be_changed() {
        let pool = pool(1, 1);
        pool.close();
        let handler = blocking_handler(|| "never").on(&pool);
        assert_problem(
            response(handler.clone()).await,
            503,
            None,
            "https://docs.rs/onelane/latest/onelane/web/index.html#closed",
        )
        .await;
        let handler = handler.on_refusal(|refusal: Refusal, _| {
            let RefusalReason::Offload(error) = refusal.reason() else { panic!("{:?}", refusal.reason()) };
            assert_eq!(*error, OffloadErrorKind::Closed);
            refusal.with_status(599).with_body("text/plain", "gone home")
        });
        let response = response(handler).await;
        assert_eq!(response.status().as_u16(), 599);
        assert_eq!(response.text().await.expect("the header is text"), "gone home");
    }

    #[tokio::test]
    async fn errors_of_run_blocking_become_the_same_response_in_an_ordinary_handler() {
        async fn panics() -> Result<String, OffloadError> {
            run_blocking(|| panic!("panic requested by the test")).await
        }
        assert_problem(
            response(panics).await,
            500,
            None,
            "https://docs.rs/onelane/latest/onelane/web/index.html#panicked",
        )
        .await;
        let no_runtime = async || Err::<String, _>(OffloadError::from(OffloadErrorKind::NoRuntime));
        assert_problem(
            response(no_runtime).await,
            500,
            None,
            "https://docs.rs/onelane/latest/onelane/web/index.html#no-runtime",
        )
        .await;
    }
}

mod disconnect {
    use super::*;

    const GET: &str = support::actix::GET;
    const POST: &str = "POST /body HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nbody";

    /// One request runs and another one waits.
    async fn queue(shielded: bool, sent: &str) -> (Server, Arc<Gate>, BlockingPool, RawClient, RawClient) {
        let (gate, pool) = (Gate::new(), pool(1, 8));
        let plain = blocking_handler(held(&gate)).on(&pool);
        let plain = if shielded { plain.shield() } else { plain };
        let with_body = {
            let held = held(&gate);
            blocking_handler(move |_: Bytes| held()).on(&pool)
        };
        let server = Server::start(move |config| {
            config.route("/", get().to(plain.clone())).route("/body", post().to(with_body.clone()));
        });
        let holder = RawClient::send(server.address, GET).await;
        eventually("the request runs", || gate.started() == 1).await;
        let waiter = RawClient::send(server.address, sent).await;
        eventually("the request waits", || pool.stats().queued == 1).await;
        (server, gate, pool, holder, waiter)
    }

    #[tokio::test]
    async fn request_whose_client_disconnects_while_it_waits_never_runs() {
        for disconnect in [Disconnect::Fin, Disconnect::Rst] {
            for sent in [GET, POST] {
                let (server, gate, pool, mut holder, waiter) = queue(false, sent).await;
                waiter.disconnect(disconnect).await;
                eventually("the request has left the queue", || pool.stats().queued == 0).await;
                assert_eq!((gate.started(), gate.finished()), (1, 0), "the holder continues");
                let behind = ask(web_client().get(server.url("/")));
                eventually("the next request waits", || pool.stats().queued == 1).await;
                gate.release(3);
                holder.read_until("done").await;
                assert_eq!(behind.await.expect("no panic").status(), 200);
                assert_eq!(gate.started(), 2, "{disconnect:?}, {sent}");
            }
        }
    }

    #[tokio::test]
    async fn shielded_request_runs_without_its_client() {
        let (_server, gate, pool, mut holder, mut waiter) = queue(true, GET).await;
        waiter.shut_down().await;
        waiter.until_closed().await;
        assert_eq!(pool.stats().queued, 1);
        gate.release(2);
        holder.read_until("done").await;
        eventually("both ran", || gate.finished() == 2).await;
    }

    #[tokio::test]
    async fn function_whose_client_disconnects_continues_and_is_cancelled() {
        for disconnect in [Disconnect::Fin, Disconnect::Rst] {
            let gate = Gate::new();
            let function = {
                let gate = Arc::clone(&gate);
                move || gate.pass_unless_cancelled()
            };
            let server = serve(blocking_handler(function));
            let client = RawClient::send(server.address, GET).await;
            eventually("the request runs", || gate.started() == 1).await;
            client.disconnect(disconnect).await;
            eventually("the function sees the cancellation", || gate.cancelled() == 1).await;
        }
    }

    #[tokio::test]
    async fn function_of_a_client_that_stays_is_not_cancelled() {
        let function = || {
            thread::sleep(Duration::from_millis(50));
            TaskContext::current().is_some_and(|cx| !cx.is_cancelled()).to_string()
        };
        assert_eq!(response(blocking_handler(function)).await.text().await.expect("the header is text"), "true");
    }
}
