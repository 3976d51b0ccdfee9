//! The guard in actix-web, on real servers with two workers, called over real sockets.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use actix_web::body::{MessageBody, SizedStream, to_bytes};
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Bytes, PayloadConfig, ServiceConfig, delete, get, post, put, resource, route, scope};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, test};
use futures::future::{join_all, ready};
use futures::stream;
use onelane::web::actix::GuardMiddleware;
use onelane::web::{GuardOptions, GuardSource, Guarded, Hold, OnDisconnect, Refusal};
use onelane::{AcquireError, EndpointGuard, Queue, SharedGuard};
use reqwest::{Method, Response};
use tokio::runtime::Handle;
use tokio::time::sleep;

use support::actix::{GET, LARGE, Server, Streams, Work, assert_problem, chunk, lock};
use support::client::{Leave, RawClient, eventually, web_client};

mod one_guard {
    use super::*;

    #[tokio::test]
    async fn over_many_resources_methods_and_workers_admits_one_at_a_time() {
        let guard = Arc::new(EndpointGuard::new("shared"));
        let work = Arc::new(Work::default());
        work.let_finish(1000);
        let seen: Arc<Mutex<HashSet<ThreadId>>> = Arc::default();
        let server = Server::start({
            let (guard, work, seen) = (Arc::clone(&guard), Arc::clone(&work), Arc::clone(&seen));
            move |config| {
                let handler = {
                    let (work, seen) = (Arc::clone(&work), Arc::clone(&seen));
                    move || {
                        let (work, seen) = (Arc::clone(&work), Arc::clone(&seen));
                        async move {
                            lock(&seen).insert(thread::current().id());
                            work.run().await;
                            "done"
                        }
                    }
                };
                let middleware = || GuardMiddleware::new(&guard);
                config
                    .service(
                        resource("/one")
                            .wrap(middleware())
                            .route(get().to(handler.clone()))
                            .route(post().to(handler.clone())),
                    )
                    .service(scope("/scope").wrap(middleware()).route("/inner", route().to(handler.clone())))
                    .route("/route", get().to(handler.clone()).wrap(middleware()));
                for i in 0..20 {
                    let routes = [get(), post(), put(), delete()].map(|route| route.to(handler.clone()));
                    let many = resource(&*format!("/many/{i}")).wrap(middleware());
                    config.service(routes.into_iter().fold(many, |many, route| many.route(route)));
                }
            }
        });
        let mut calls: Vec<_> =
            [(Method::GET, "/one"), (Method::POST, "/one"), (Method::PUT, "/scope/inner"), (Method::GET, "/route")]
                .map(|(method, path)| (method, path.to_owned()))
                .into();
        for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
            calls.extend((0..20).map(|i| (method.clone(), format!("/many/{i}"))));
        }
        let answers =
            join_all(calls.iter().map(|(method, path)| web_client().request(method.clone(), server.url(path)).send()));
        for answer in answers.await {
            assert_eq!(answer.expect("the server responds").status(), 200);
        }
        assert_eq!((work.finished(), work.most_inside()), (84, 1));
        assert_eq!(lock(&seen).len(), 2, "both workers served requests");
        let stats = guard.stats();
        assert_eq!((stats.granted, stats.held, stats.waiting, stats.refused, stats.cancelled), (84, 0, 0, 0, 0));
        assert!(stats.queued > 0, "no request had to wait, so the test proved nothing");
    }

    #[tokio::test]
    async fn around_a_whole_scope_in_a_static_admits_one_at_a_time() {
        static GUARD: EndpointGuard = EndpointGuard::new("app");
        let work = Arc::new(Work::default());
        work.let_finish(1000);
        let server = Server::start(guarded(&GUARD, GuardOptions::new(), &work));
        let answers = join_all((0..20).map(|_| web_client().post(server.url("/")).send()));
        for answer in answers.await {
            assert_eq!(answer.expect("the server responds").status(), 200);
        }
        assert_eq!((work.finished(), work.most_inside()), (20, 1));
        assert_eq!((GUARD.stats().granted, GUARD.stats().held), (20, 0));
    }
}

mod refusals {
    use super::*;

    #[tokio::test]
    async fn busy_guard_without_a_queue_refuses_with_503() {
        let guard = EndpointGuard::builder("busy").queue(Queue::Reject).build();
        refused_while_one_is_inside(guard, 0, "urn:onelane:busy").await;
    }

    #[tokio::test]
    async fn full_queue_refuses_with_503() {
        let guard = EndpointGuard::builder("full").queue(Queue::Bounded(1)).build();
        refused_while_one_is_inside(guard, 1, "urn:onelane:queue-full").await;
    }

    #[tokio::test]
    async fn wait_beyond_its_limit_is_refused_with_503() {
        let guard = EndpointGuard::builder("slow").max_wait(Duration::from_millis(50)).build();
        refused_while_one_is_inside(guard, 0, "urn:onelane:timeout").await;
    }

    async fn refused_while_one_is_inside(guard: EndpointGuard, waiting: usize, kind: &str) {
        let (guard, work) = (Arc::new(guard), Arc::new(Work::default()));
        let server = Server::start(guarded(&guard, GuardOptions::new(), &work));
        let inside = server.get("/");
        eventually("the first request is inside", || work.started() == 1).await;
        let queued: Vec<_> = (0..waiting).map(|_| server.get("/")).collect();
        eventually("the queue is full", || guard.stats().waiting == waiting).await;

        let refusal = server.get("/").await.expect("no panic");
        assert_problem(refusal, 503, Some("1"), kind).await;
        assert_eq!(work.started(), 1, "a refused request does not run");

        work.let_finish(1 + waiting);
        assert_eq!(inside.await.expect("no panic").status(), 200);
        for answer in join_all(queued).await {
            assert_eq!(answer.expect("no panic").status(), 200);
        }
        work.let_finish(1);
        assert_eq!(server.get("/").await.expect("no panic").status(), 200, "a request is admitted again afterwards");
    }

    #[tokio::test]
    async fn closed_guard_refuses_with_503_without_retry_after() {
        let (guard, work) = (Arc::new(EndpointGuard::new("closed")), Arc::new(Work::default()));
        let server = Server::start(guarded(&guard, GuardOptions::new(), &work));
        let inside = server.get("/");
        eventually("the first request is inside", || work.started() == 1).await;
        let queued = server.get("/");
        eventually("the second request waits", || guard.stats().waiting == 1).await;

        guard.close();
        assert_problem(queued.await.expect("no panic"), 503, None, "urn:onelane:closed").await;
        assert_problem(server.get("/").await.expect("no panic"), 503, None, "urn:onelane:closed").await;
        work.let_finish(1);
        assert_eq!(inside.await.expect("no panic").status(), 200, "the request inside finishes");
        assert_eq!(work.started(), 1);
    }

    #[tokio::test]
    async fn retry_after_reports_how_long_permits_are_held() {
        let guard = Arc::new(EndpointGuard::builder("timed").queue(Queue::Reject).build());
        let work = Arc::new(Work::default());
        let server = Server::start(guarded(&guard, GuardOptions::new(), &work));
        // The first holder is measured. A request that is refused meanwhile gets the default; the next one gets the
        // measured value.
        for (held, retry_after) in [(Duration::from_millis(1100), "1"), (Duration::ZERO, "2")] {
            let started = work.started();
            let inside = server.get("/");
            eventually("the request is inside", || work.started() > started).await;
            let refusal = server.get("/").await.expect("no panic");
            assert_problem(refusal, 503, Some(retry_after), "urn:onelane:busy").await;
            // Real time, because the test measures a server in its own threads.
            sleep(held).await;
            work.let_finish(1);
            assert_eq!(inside.await.expect("no panic").status(), 200);
        }
    }

    #[tokio::test]
    async fn error_returned_by_a_handler_is_the_same_response() {
        static GUARD: EndpointGuard = EndpointGuard::builder("section").queue(Queue::Reject).build();

        async fn section() -> Result<&'static str, AcquireError> {
            GUARD.run(async { "done" }).await
        }
        async fn blocks() -> Result<&'static str, AcquireError> {
            let _permit = GUARD.acquire_blocking()?;
            Ok("done")
        }
        async fn missed() -> Result<&'static str, AcquireError> {
            Err(AcquireError::GrantExpired)
        }
        async fn nested() -> Result<&'static str, AcquireError> {
            GUARD.run(section()).await?
        }
        let server = Server::start(|config| {
            config
                .route("/section", get().to(section))
                .route("/blocks", get().to(blocks))
                .route("/missed", get().to(missed))
                .route("/nested", get().to(nested));
        });
        assert_eq!(server.get("/section").await.expect("no panic").status(), 200);
        let permit = GUARD.try_acquire().expect("the permit is free");
        assert_problem(server.get("/section").await.expect("no panic"), 503, Some("1"), "urn:onelane:busy").await;
        drop(permit);
        let nested = server.get("/nested").await.expect("no panic");
        assert_problem(nested, 500, None, "urn:onelane:would-deadlock").await;
        let blocks = server.get("/blocks").await.expect("no panic");
        assert_problem(blocks, 500, None, "urn:onelane:blocking-in-async").await;
        let missed = server.get("/missed").await.expect("no panic");
        assert_problem(missed, 503, Some("1"), "urn:onelane:grant-expired").await;
        GUARD.close();
        assert_problem(server.get("/section").await.expect("no panic"), 503, None, "urn:onelane:closed").await;
    }

    #[tokio::test]
    async fn every_part_of_the_response_can_be_changed() {
        let options = GuardOptions::new().on_refusal(|refusal: Refusal| {
            refusal
                .with_status(409)
                .with_type("https://example.org/busy")
                .with_title("In use")
                .with_detail("Another client is configuring this device.")
                .with_retry_after(Some(Duration::from_millis(6500)))
                .with_header("x-device", "7")
                .with_header("link", "</a>")
                .with_header("link", "</b>")
        });
        let response = refused_with(options).await;
        assert_eq!(response.headers()["x-device"], "7");
        assert_eq!(response.headers().get_all("link").iter().count(), 2);
        let problem = assert_problem(response, 409, Some("7"), "https://example.org/busy").await;
        assert_eq!(problem["title"], "In use");
        assert_eq!(problem["detail"], "Another client is configuring this device.");

        let options = GuardOptions::new()
            .on_refusal(|refusal: Refusal| refusal.with_retry_after(None).with_body("text/plain", "in use"));
        let response = refused_with(options).await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[CONTENT_TYPE.as_str()], "text/plain");
        assert_eq!(response.headers().get("retry-after"), None);
        assert_eq!(response.text().await.expect("the body is complete"), "in use");
    }

    async fn refused_with(options: GuardOptions) -> Response {
        let guard = Arc::new(EndpointGuard::builder("changed").queue(Queue::Reject).build());
        let server = Server::start(guarded(&guard, options, &Arc::default()));
        let _permit = guard.try_acquire().expect("the permit is free");
        server.get("/").await.expect("no panic")
    }
}

mod extractor {
    use super::*;

    /// A guard for one test, and the work of the handlers behind it.
    macro_rules! source {
        ($source:ident, $guard:expr) => {
            static GUARD: EndpointGuard = $guard;
            struct $source;
            impl GuardSource for $source {
                fn guard() -> SharedGuard {
                    SharedGuard::from(&GUARD)
                }
            }
        };
    }

    #[tokio::test]
    async fn handlers_that_extract_a_permit_run_one_at_a_time() {
        source!(Report, EndpointGuard::new("report"));
        let work = Arc::new(Work::default());
        work.let_finish(1000);
        let server = Server::start({
            let work = Arc::clone(&work);
            move |config| {
                let work = Arc::clone(&work);
                config.default_service(route().to(move |turn: Guarded<Report>| {
                    let work = Arc::clone(&work);
                    async move {
                        // Named here; otherwise the closure would drop it before the handler starts.
                        let _turn = turn;
                        work.run().await;
                        "done"
                    }
                }));
            }
        });
        let answers = join_all((0..20).map(|i| server.get(&format!("/{i}"))));
        for answer in answers.await {
            assert_eq!(answer.expect("no panic").status(), 200);
        }
        assert_eq!((work.finished(), work.most_inside()), (20, 1));
        let stats = GUARD.stats();
        assert_eq!((stats.granted, stats.held, stats.waiting), (20, 0, 0));
        assert!(stats.queued > 0, "no request had to wait, so the test proved nothing");
    }

    #[tokio::test]
    async fn permit_dropped_midway_admits_the_next_while_the_handler_continues() {
        source!(Report, EndpointGuard::new("report"));
        let (inside, beyond) = (Arc::new(Work::default()), Arc::new(Work::default()));
        let server = Server::start({
            let (inside, beyond) = (Arc::clone(&inside), Arc::clone(&beyond));
            move |config| {
                let (inside, beyond) = (Arc::clone(&inside), Arc::clone(&beyond));
                config.default_service(route().to(move |turn: Guarded<Report>| {
                    let (inside, beyond) = (Arc::clone(&inside), Arc::clone(&beyond));
                    async move {
                        inside.run().await;
                        drop(turn);
                        beyond.run().await;
                        "done"
                    }
                }));
            }
        });
        let calls: Vec<_> = (0..3).map(|_| server.get("/")).collect();
        eventually("two requests wait", || GUARD.stats().waiting == 2).await;
        inside.let_finish(3);
        eventually("all three have released their permit", || beyond.inside() == 3).await;
        assert_eq!((inside.most_inside(), GUARD.stats().held), (1, 0));
        beyond.let_finish(3);
        for answer in join_all(calls).await {
            assert_eq!(answer.expect("no panic").status(), 200);
        }
    }

    #[tokio::test]
    async fn refused_permit_is_the_response_and_the_handler_does_not_run() {
        source!(Report, EndpointGuard::builder("report").queue(Queue::Reject).build());
        let runs = Arc::new(AtomicUsize::new(0));
        let server = Server::start({
            let runs = Arc::clone(&runs);
            move |config| {
                let runs = Arc::clone(&runs);
                config.default_service(route().to(move |turn: Guarded<Report>| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    drop(turn.into_permit());
                    async { "done" }
                }));
            }
        });
        let permit = GUARD.try_acquire().expect("the permit is free");
        assert_problem(server.get("/").await.expect("no panic"), 503, Some("1"), "urn:onelane:busy").await;
        drop(permit);
        assert_eq!(server.get("/").await.expect("no panic").status(), 200);
        GUARD.close();
        assert_problem(server.get("/").await.expect("no panic"), 503, None, "urn:onelane:closed").await;
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn client_that_disconnects_takes_its_waiter_or_its_running_handler_with_it() {
        source!(Report, EndpointGuard::new("report"));
        let work = Arc::new(Work::default());
        let server = Server::start({
            let work = Arc::clone(&work);
            move |config| {
                let work = Arc::clone(&work);
                config.default_service(route().to(move |turn: Guarded<Report>| {
                    let work = Arc::clone(&work);
                    async move {
                        // Named here; otherwise the closure would drop it before the handler starts.
                        let _turn = turn;
                        work.run().await;
                        "done"
                    }
                }));
            }
        });
        for leave in [Leave::Fin, Leave::Rst] {
            let cut = work.cut();
            let running = RawClient::send(server.address, GET).await;
            eventually("one request runs", || work.inside() == 1).await;
            let queued = RawClient::send(server.address, GET).await;
            eventually("one request waits", || GUARD.stats().waiting == 1).await;
            queued.leave(leave).await;
            eventually("the request leaves the queue", || GUARD.stats().waiting == 0).await;
            assert_eq!(work.cut(), cut, "{leave:?}: the other request still runs");
            running.leave(leave).await;
            eventually("the handler is cancelled and its permit released", || {
                work.cut() > cut && GUARD.stats().held == 0
            })
            .await;
        }
        assert_eq!((work.started(), work.finished(), GUARD.stats().granted), (2, 0, 2));
    }
}

mod disconnect {
    use super::*;

    /// What happens to a running handler whose client disconnects.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Seen {
        /// Nothing: the handler continues where it is.
        Nothing,
        /// The handler continues in its own task.
        Detached,
        /// The handler is dropped.
        Cut,
    }

    /// With half-closed connections, actix-web's default, a client that closes its connection has only finished
    /// sending.
    const CASES: [(Leave, bool); 4] =
        [(Leave::Fin, true), (Leave::Rst, true), (Leave::Fin, false), (Leave::Rst, false)];

    #[tokio::test]
    async fn finish_runs_the_handler_to_its_end_with_its_permit_however_the_client_disconnects() {
        for (leave, half_closed) in CASES {
            let seen = if leave == Leave::Fin && half_closed { Seen::Nothing } else { Seen::Detached };
            client_disconnects(OnDisconnect::Finish, leave, half_closed, seen).await;
        }
    }

    #[tokio::test]
    async fn cancel_drops_the_handler_unless_the_connection_may_be_half_closed() {
        for (leave, half_closed) in CASES {
            let seen = if leave == Leave::Fin && half_closed { Seen::Nothing } else { Seen::Cut };
            client_disconnects(OnDisconnect::Cancel, leave, half_closed, seen).await;
        }
    }

    async fn client_disconnects(on_disconnect: OnDisconnect, leave: Leave, half_closed: bool, seen: Seen) {
        let case = format!("{on_disconnect:?}, {leave:?}, half_closed {half_closed}");
        let (guard, work) = (Arc::new(EndpointGuard::new("left")), Arc::new(Work::default()));
        let options = GuardOptions::new().on_disconnect(on_disconnect);
        let server = Server::start_with(2, half_closed, guarded(&guard, options, &work));
        let leaver = RawClient::send(server.address, GET).await;
        eventually("the handler runs", || work.inside() == 1).await;
        let next = server.get("/next");
        eventually("the next request waits", || guard.stats().waiting == 1).await;

        leaver.leave(leave).await;
        match seen {
            // There is no event to wait for, so this gives the server the time in which it happens otherwise.
            Seen::Nothing => sleep(Duration::from_millis(100)).await,
            Seen::Detached => eventually(&format!("{case}: detached"), || guard.stats().detached == 1).await,
            Seen::Cut => eventually(&format!("{case}: cut off"), || work.cut() == 1).await,
        }
        if seen != Seen::Cut {
            assert_eq!((work.started(), work.inside(), work.cut()), (1, 1, 0), "{case}: the handler holds the permit");
            assert_eq!((guard.stats().held, guard.stats().waiting), (1, 1), "{case}");
            assert_eq!(guard.stats().detached, u64::from(seen == Seen::Detached), "{case}");
            work.let_finish(1);
        }
        eventually(&format!("{case}: the next request runs"), || work.started() == 2).await;
        work.let_finish(1);
        assert_eq!(next.await.expect("no panic").status(), 200, "{case}");
        eventually("no permit is held", || guard.stats().held == 0).await;
        let stats = guard.stats();
        assert_eq!((work.most_inside(), work.cut()), (1, usize::from(seen == Seen::Cut)), "{case}");
        assert_eq!(stats.finished_detached, u64::from(seen == Seen::Detached), "{case}");
        assert_eq!((stats.granted, stats.waiting, stats.detached), (2, 0, 0), "{case}");
    }

    #[tokio::test]
    async fn handler_without_its_client_is_dropped_after_max_run() {
        let (guard, work) = (Arc::new(EndpointGuard::new("endless")), Arc::new(Work::default()));
        let options = GuardOptions::new().max_run(Duration::from_millis(100));
        let server = Server::start(guarded(&guard, options, &work));
        // The limit applies only to handlers whose client has disconnected, not to this one.
        let stays = server.get("/");
        eventually("the handler runs", || work.inside() == 1).await;
        sleep(Duration::from_millis(150)).await;
        work.let_finish(1);
        assert_eq!(stays.await.expect("no panic").status(), 200);

        let leaver = RawClient::send(server.address, GET).await;
        eventually("the handler runs", || work.inside() == 1).await;
        let left = Instant::now();
        leaver.leave(Leave::Rst).await;
        eventually("the handler is cut off", || work.cut() == 1).await;
        assert!(left.elapsed() >= Duration::from_millis(100), "cut off after {:?}", left.elapsed());
        work.let_finish(1);
        assert_eq!(server.get("/").await.expect("no panic").status(), 200);
        let stats = guard.stats();
        assert_eq!((stats.finished_detached, stats.detached, stats.held, stats.granted), (0, 0, 0, 3));
    }

    /// actix-web also runs on `#[tokio::main]`, without its own system.
    #[tokio::test]
    async fn handler_finishes_without_its_client_on_a_server_in_a_tokio_runtime() {
        let (guard, work) = (Arc::new(EndpointGuard::new("tokio")), Arc::new(Work::default()));
        let server = Server::serve_in_tokio({
            let app = guarded(&guard, GuardOptions::new(), &work);
            move || {
                let server = HttpServer::new(move || App::new().configure(app.clone())).workers(2).disable_signals();
                let server = server.bind("127.0.0.1:0").expect("a port is free");
                (server.addrs()[0], server.run())
            }
        });
        let leaver = RawClient::send(server.address, GET).await;
        eventually("the handler runs", || work.inside() == 1).await;
        leaver.leave(Leave::Rst).await;
        eventually("the handler continues alone", || guard.stats().detached == 1).await;
        work.let_finish(1);
        eventually("the handler has finished", || guard.stats().finished_detached == 1).await;
        assert_eq!((work.finished(), work.cut(), guard.stats().held), (1, 0, 0));
    }

    #[tokio::test]
    async fn panic_releases_the_permit_and_the_worker_survives() {
        let guard = Arc::new(EndpointGuard::new("panics"));
        let work = Arc::new(Work::default());
        let server = Server::start_with(1, false, {
            let (guard, work) = (Arc::clone(&guard), Arc::clone(&work));
            move |config| {
                let work = Arc::clone(&work);
                let handler = move |request: HttpRequest| {
                    let work = Arc::clone(&work);
                    async move {
                        work.run().await;
                        assert_ne!(request.query_string(), "panic", "panic requested by the test");
                        format!("{:?}", thread::current().id())
                    }
                };
                config.service(resource("/").wrap(GuardMiddleware::new(&guard)).route(get().to(handler)));
            }
        });
        work.let_finish(1);
        let before = server.get("/").await.expect("no panic").text().await.expect("the body is complete");

        // First with its client connected, then without.
        for panicked in 1..=2 {
            let client = RawClient::send(server.address, "GET /?panic HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
            eventually("the handler runs", || work.inside() == 1).await;
            let next = server.get("/");
            eventually("the next request waits", || guard.stats().waiting == 1).await;
            if panicked == 2 {
                client.leave(Leave::Fin).await;
                eventually("the handler continues alone", || guard.stats().detached == 1).await;
            }
            work.let_finish(1);
            eventually("the panic releases the permit", || guard.stats().panicked == panicked).await;
            eventually("the next request is inside", || work.inside() == 1).await;
            work.let_finish(1);
            let after = next.await.expect("no panic").text().await.expect("the body is complete");
            assert_eq!(after, before, "served by the same worker thread");
        }
        let stats = guard.stats();
        assert_eq!((stats.held, stats.detached, stats.finished_detached, stats.granted), (0, 0, 0, 5));
    }
}

mod queue {
    use super::*;

    #[tokio::test]
    async fn request_never_runs_after_its_client_disconnected() {
        for leave in [Leave::Fin, Leave::Rst] {
            queued_client_disconnects(GET.into(), leave, false).await;
        }
    }

    /// A reset connection counts as disconnected even where half-closed connections are still served.
    #[tokio::test]
    async fn request_never_runs_after_its_client_reset_where_connections_may_be_half_closed() {
        queued_client_disconnects(GET.into(), Leave::Rst, true).await;
    }

    /// Unread bodies that almost fill actix-web's buffers, and that just fill them.
    #[tokio::test]
    async fn request_with_an_unread_body_never_runs_after_its_client_disconnected() {
        for length in [10, 60_000, 64 * 1024] {
            for leave in [Leave::Fin, Leave::Rst] {
                queued_client_disconnects(post_of(length), leave, false).await;
            }
        }
    }

    #[tokio::test]
    async fn request_that_withholds_its_body_never_runs_after_its_client_disconnected() {
        let head = "POST / HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 65536\r\n\r\n";
        for leave in [Leave::Fin, Leave::Rst] {
            queued_client_disconnects(head.into(), leave, false).await;
        }
    }

    /// Neither the queued request nor the one pipelined behind it on the same connection.
    #[tokio::test]
    async fn pipelined_requests_never_run_after_their_client_disconnected() {
        for leave in [Leave::Fin, Leave::Rst] {
            queued_client_disconnects(GET.repeat(2), leave, false).await;
        }
    }

    async fn queued_client_disconnects(bytes: String, leave: Leave, half_closed: bool) {
        let case = format!("{} bytes, {leave:?}, half_closed {half_closed}", bytes.len());
        let (guard, work) = (Arc::new(EndpointGuard::new("queue")), Arc::new(Work::default()));
        let server = Server::start_with(2, half_closed, guarded(&guard, GuardOptions::new(), &work));
        let holder = server.get("/");
        eventually("the first request is inside", || work.inside() == 1).await;
        let mut leaver = RawClient::send(server.address, &bytes).await;
        eventually("one request waits", || guard.stats().waiting == 1).await;
        let next = server.get("/");
        eventually("the next request waits", || guard.stats().waiting == 2).await;
        if bytes.contains("100-continue") {
            // Requested with `100 Continue`, and not sent.
            leaver.read_until("100 Continue\r\n\r\n").await;
        }

        leaver.leave(leave).await;
        eventually(&format!("the request leaves the queue: {case}"), || guard.stats().waiting == 1).await;
        work.let_finish(2);
        assert_eq!(holder.await.expect("no panic").status(), 200, "{case}");
        assert_eq!(next.await.expect("no panic").status(), 200, "{case}");
        work.let_finish(1);
        assert_eq!(server.get("/").await.expect("no panic").status(), 200, "{case}");
        eventually("no permit is held", || guard.stats().held == 0).await;
        let stats = guard.stats();
        assert_eq!((work.started(), work.most_inside(), work.cut()), (3, 1, 0), "{case}");
        assert_eq!((stats.granted, stats.cancelled, stats.waiting, stats.finished_detached), (3, 1, 0, 0), "{case}");
    }

    /// actix-web's default, and the reason why the examples change it: such a client has only finished sending.
    #[tokio::test]
    async fn request_stays_in_the_queue_after_its_client_closed_where_connections_may_be_half_closed() {
        let (guard, work) = (Arc::new(EndpointGuard::new("half closed")), Arc::new(Work::default()));
        let server = Server::start_with(2, true, guarded(&guard, GuardOptions::new(), &work));
        let holder = server.get("/");
        eventually("the first request is inside", || work.inside() == 1).await;
        let closed = RawClient::send(server.address, GET).await;
        eventually("the second request waits", || guard.stats().waiting == 1).await;
        closed.leave(Leave::Fin).await;
        work.let_finish(2);
        assert_eq!(holder.await.expect("no panic").status(), 200);
        eventually("the request runs", || work.finished() == 2).await;
        assert_eq!(guard.stats().cancelled, 0);
    }

    /// A limit of actix-web: while its buffers are full, it checks the connection only when the body is read. A reset
    /// is not noticed either.
    #[tokio::test]
    async fn request_with_more_body_than_the_buffers_hold_stays_in_the_queue_after_its_client_disconnected() {
        let (guard, work) = (Arc::new(EndpointGuard::new("large body")), Arc::new(Work::default()));
        let server = Server::start(guarded(&guard, GuardOptions::new(), &work));
        let holder = server.get("/");
        eventually("the first request is inside", || work.inside() == 1).await;
        let leaver = RawClient::send(server.address, post_of(512 * 1024)).await;
        eventually("the second request waits", || guard.stats().waiting == 1).await;
        leaver.leave(Leave::Fin).await;
        let next = server.get("/");
        eventually("the next request waits", || guard.stats().waiting == 2).await;
        // Real time, to show that nothing happens.
        sleep(Duration::from_millis(100)).await;
        assert_eq!(guard.stats().waiting, 2);
        // It is granted its permit and releases it, so no request behind it is delayed.
        work.let_finish(3);
        assert_eq!(holder.await.expect("no panic").status(), 200);
        assert_eq!(next.await.expect("no panic").status(), 200);
        eventually("no permit is held", || guard.stats().held == 0).await;
        assert_eq!((work.most_inside(), guard.stats().granted, guard.stats().cancelled), (1, 3, 0));
    }

    #[tokio::test]
    async fn request_that_waits_gets_its_whole_body() {
        let guard = Arc::new(EndpointGuard::new("body"));
        let server = Server::start({
            let guard = Arc::clone(&guard);
            move |config| {
                let echo = resource("/").app_data(PayloadConfig::new(LARGE)).wrap(GuardMiddleware::new(&guard));
                config.service(echo.route(post().to(|body: Bytes| async { body })));
            }
        });
        let permit = guard.try_acquire().expect("the permit is free");
        let body = "x".repeat(1 << 20);
        let call = tokio::spawn(web_client().post(server.url("/")).body(body.clone()).send());
        eventually("the request waits", || guard.stats().waiting == 1).await;
        drop(permit);
        let answer = call.await.expect("no panic").expect("the server responds");
        assert_eq!(answer.text().await.expect("the body is complete"), body);
    }
}

mod hold {
    use super::*;

    /// In the same process, because it is not observable from outside when the server takes a body in memory.
    #[actix_web::test]
    async fn head_keeps_or_releases_the_permit_depending_on_the_body() {
        let parts = || stream::iter([chunk("in "), chunk("parts")]);
        // Whether the permit is held under `Auto`, `Head` and `Body`.
        assert_held(|| HttpResponse::Ok().body("in memory"), [false, false, true]).await;
        assert_held(|| HttpResponse::Ok().body(""), [false, false, false]).await;
        assert_held(|| HttpResponse::NoContent().finish(), [false, false, false]).await;
        assert_held(move || HttpResponse::Ok().streaming(parts()), [true, false, true]).await;
        assert_held(move || HttpResponse::Ok().body(SizedStream::new(8, parts())), [true, false, true]).await;
        // A tunnel is not part of the handler's work.
        assert_held(move || HttpResponse::SwitchingProtocols().streaming(parts()), [false, false, false]).await;
    }

    #[tokio::test]
    async fn dropped_call_outside_of_actix_is_cancelled() {
        let guard = Arc::new(EndpointGuard::new("bare"));
        let middleware = GuardMiddleware::new(&guard);
        let app = App::new().service(resource("/").wrap(middleware).route(get().to(std::future::pending::<String>)));
        let app = test::init_service(app).await;
        let call = test::call_service(&app, test::TestRequest::get().uri("/").to_request());
        assert!(tokio::time::timeout(Duration::from_millis(10), call).await.is_err());
        assert_eq!((guard.stats().granted, guard.stats().held, guard.stats().detached), (1, 0, 0));
    }

    /// The limit of a body needs a task. A response in memory, like most responses, does not need the limit.
    #[actix_web::test]
    async fn response_in_memory_spawns_nothing() {
        let guard = Arc::new(EndpointGuard::new("spawns"));
        let answer = || HttpResponse::Ok().body("in memory");
        let app = test::init_service(App::new().configure(answering(&guard, GuardOptions::new(), answer))).await;
        let alive = || Handle::current().metrics().num_alive_tasks();
        let before = alive();
        let response = test::call_service(&app, test::TestRequest::get().uri("/").to_request()).await;
        // A task that was spawned and aborted at once would still exist, because nothing has run since.
        assert_eq!((alive(), response.status().as_u16()), (before, 200));
    }

    async fn assert_held(answer: impl Fn() -> HttpResponse + Send + Clone + 'static, held: [bool; 3]) {
        for (hold, held) in [Hold::Auto, Hold::Head, Hold::Body].into_iter().zip(held) {
            let guard = Arc::new(EndpointGuard::new("held"));
            let app = App::new().configure(answering(&guard, GuardOptions::new().hold(hold), answer.clone()));
            let app = test::init_service(app).await;
            let request = || test::TestRequest::get().uri("/").to_request();

            let expected = answer().into_body();
            let response = test::call_service(&app, request()).await;
            assert_eq!(guard.stats().held, usize::from(held), "{hold:?}, after the head: {response:?}");
            assert_eq!(response.response().body().size(), expected.size(), "{hold:?}: its size passes through");
            let body = test::read_body(response).await;
            assert_eq!(guard.stats().held, 0, "{hold:?}, after the body {body:?}");
            assert_eq!(body, to_bytes(expected).await.expect("the request succeeds"), "{hold:?}");

            drop(test::call_service(&app, request()).await);
            assert_eq!(guard.stats().held, 0, "{hold:?}, dropped unread: {body:?}");
        }
    }

    #[tokio::test]
    async fn body_in_memory_is_read_at_the_clients_pace_while_the_next_request_runs() {
        let guard = Arc::new(EndpointGuard::new("bytes"));
        let body = Bytes::from(vec![b'x'; LARGE]);
        let answer = move || HttpResponse::Ok().body(body.clone());
        let server = Server::start(answering(&guard, GuardOptions::new(), answer));
        let mut slow = RawClient::send(server.address, GET).await;
        slow.read_until("\r\n\r\n").await;
        eventually("its permit is released", || guard.stats().held == 0).await;
        let next = server.get("/").await.expect("no panic");
        assert_eq!(next.bytes().await.expect("the body is complete").len(), LARGE);
        assert_eq!((guard.stats().granted, guard.stats().overrun), (2, 0));
    }

    #[tokio::test]
    async fn responses_without_a_body_hold_nothing() {
        for hold in [Hold::Auto, Hold::Head, Hold::Body] {
            for status in [200, 204, 304] {
                let guard = Arc::new(EndpointGuard::new("empty"));
                let answer = move || {
                    HttpResponse::build(StatusCode::from_u16(status).expect("the response is a number")).finish()
                };
                let server = Server::start(answering(&guard, GuardOptions::new().hold(hold), answer));
                for granted in 1..=2 {
                    assert_eq!(server.get("/").await.expect("no panic").status(), status);
                    assert_eq!((guard.stats().held, guard.stats().granted), (0, granted), "{hold:?}, {status}");
                }
            }
        }
    }

    #[tokio::test]
    async fn head_request_releases_the_permit() {
        for hold in [Hold::Auto, Hold::Head, Hold::Body] {
            let guard = Arc::new(EndpointGuard::new("head"));
            let answer = || HttpResponse::Ok().body("nine byte");
            let server = Server::start(answering(&guard, GuardOptions::new().hold(hold), answer));
            for _ in 0..2 {
                let response = web_client().head(server.url("/")).send().await.expect("the server responds");
                assert_eq!(response.headers()["content-length"], "9");
                eventually("its permit is released", || guard.stats().held == 0).await;
            }
            assert_eq!((guard.stats().granted, guard.stats().overrun), (2, 0));
        }
    }

    /// actix-web drops a body that it does not send.
    #[tokio::test]
    async fn head_request_releases_the_permit_though_the_stream_is_open() {
        for hold in [Hold::Auto, Hold::Head, Hold::Body] {
            let streams = Streams::default();
            let (guard, server) = streaming(&streams, GuardOptions::new().hold(hold));
            let _open = [streams.open(), streams.open()];
            for _ in 0..2 {
                let response = web_client().head(server.url("/")).send().await.expect("the server responds");
                assert_eq!(response.status(), 200);
                eventually("its permit is released", || guard.stats().held == 0).await;
            }
            assert_eq!((guard.stats().granted, guard.stats().overrun), (2, 0), "{hold:?}");
        }
    }

    #[tokio::test]
    async fn stream_holds_the_permit_until_its_end() {
        for hold in [Hold::Auto, Hold::Body] {
            let streams = Streams::default();
            let (guard, server) = streaming(&streams, GuardOptions::new().hold(hold));
            let first = streams.open();
            let mut client = RawClient::send(server.address, GET).await;
            assert!(client.read_until("\r\n\r\n").await.contains("transfer-encoding: chunked"));
            let last = streams.open();
            let next = server.get("/");
            eventually("the next request waits", || guard.stats().waiting == 1).await;
            first.unbounded_send(chunk("part")).expect("the body can be read");
            client.read_until("part").await;
            assert_eq!((guard.stats().held, guard.stats().waiting), (1, 1), "{hold:?}: the stream continues");
            drop(first);
            client.read_until("0\r\n\r\n").await;
            drop(last);
            assert_eq!(next.await.expect("no panic").status(), 200);
            eventually("no permit is held", || guard.stats().held == 0).await;
            assert_eq!((guard.stats().granted, guard.stats().overrun), (2, 0));
        }
    }

    #[tokio::test]
    async fn stream_of_known_size_holds_the_permit_until_its_last_byte() {
        let guard = Arc::new(EndpointGuard::new("sized"));
        let streams = Streams::default();
        let answer = {
            let streams = streams.clone();
            move || HttpResponse::Ok().body(SizedStream::new(6, streams.take()))
        };
        let server = Server::start(answering(&guard, GuardOptions::new(), answer));
        let parts = streams.open();
        let mut client = RawClient::send(server.address, GET).await;
        assert!(client.read_until("\r\n\r\n").await.contains("content-length: 6"));
        parts.unbounded_send(chunk("abc")).expect("the body can be read");
        client.read_until("abc").await;
        assert_eq!(guard.stats().held, 1);
        // The stream has not ended, but the server does not poll it again.
        parts.unbounded_send(chunk("def")).expect("the body can be read");
        client.read_until("def").await;
        eventually("the permit is released", || guard.stats().held == 0).await;
        assert_eq!(guard.stats().overrun, 0);
    }

    #[tokio::test]
    async fn stream_under_head_holds_nothing() {
        let streams = Streams::default();
        let (guard, server) = streaming(&streams, GuardOptions::new().hold(Hold::Head));
        let _open = [streams.open(), streams.open()];
        let mut clients = Vec::new();
        for _ in 0..2 {
            let mut client = RawClient::send(server.address, GET).await;
            client.read_until("\r\n\r\n").await;
            clients.push(client);
        }
        assert_eq!((guard.stats().held, guard.stats().granted), (0, 2));
    }

    #[tokio::test]
    async fn client_that_stops_reading_loses_the_permit_after_body_hold_max() {
        let guard = Arc::new(EndpointGuard::new("slow reader"));
        let limit = Duration::from_millis(200);
        let answer = || {
            let page = Bytes::from_static(&[b'x'; 64 * 1024]);
            HttpResponse::Ok().streaming(stream::repeat_with(move || io::Result::Ok(page.clone())))
        };
        let server = Server::start(answering(&guard, GuardOptions::new().body_hold_max(limit), answer));
        let start = Instant::now();
        let mut slow = RawClient::send(server.address, GET).await;
        slow.read_until("\r\n\r\n").await;
        let mut next = RawClient::send(server.address, GET).await;
        eventually("the permit is granted to the next request", || guard.stats().overrun == 1).await;
        assert!(start.elapsed() >= limit, "after {:?}", start.elapsed());
        next.read_until("200 OK").await;
        assert_eq!(guard.stats().granted, 2);
        // It reads the rest without a permit.
        slow.read_until("xxx").await;
    }

    #[tokio::test]
    async fn client_that_disconnects_in_the_middle_of_a_stream_releases_the_permit() {
        for (leave, half_closed) in [(Leave::Fin, false), (Leave::Rst, false), (Leave::Rst, true)] {
            let streams = Streams::default();
            let (guard, server) = streaming_with(&streams, GuardOptions::new(), half_closed);
            let _open = streams.open();
            let mut client = RawClient::send(server.address, GET).await;
            client.read_until("\r\n\r\n").await;
            assert_eq!(guard.stats().held, 1);
            client.leave(leave).await;
            eventually(&format!("the permit is released after {leave:?}"), || guard.stats().held == 0).await;
            assert_eq!(guard.stats().overrun, 0);
        }
    }

    /// The server notices that such a client has disconnected when it writes to it.
    #[tokio::test]
    async fn client_that_closes_in_the_middle_of_a_stream_releases_the_permit_with_the_next_part() {
        let streams = Streams::default();
        let (guard, server) = streaming_with(&streams, GuardOptions::new(), true);
        let parts = streams.open();
        let mut client = RawClient::send(server.address, GET).await;
        client.read_until("\r\n\r\n").await;
        client.leave(Leave::Fin).await;
        // Real time, to show that something does not happen.
        sleep(Duration::from_millis(100)).await;
        assert_eq!(guard.stats().held, 1, "a half-closed connection may still be read");
        let goes_on = || {
            // The send fails once the body has been dropped.
            let _ = parts.unbounded_send(chunk("part"));
            guard.stats().held == 0
        };
        eventually("the permit is released", goes_on).await;
    }

    #[tokio::test]
    async fn stream_that_fails_releases_the_permit() {
        let streams = Streams::default();
        let (guard, server) = streaming(&streams, GuardOptions::new());
        let parts = streams.open();
        let mut client = RawClient::send(server.address, GET).await;
        client.read_until("\r\n\r\n").await;
        assert_eq!(guard.stats().held, 1);
        parts.unbounded_send(Err(io::Error::other("broken"))).expect("the body can be read");
        eventually("the permit is released", || guard.stats().held == 0).await;
        assert_eq!(guard.stats().overrun, 0);
        drop(streams.open());
        assert_eq!(server.get("/").await.expect("no panic").status(), 200);
    }

    fn streaming(streams: &Streams, options: GuardOptions) -> (Arc<EndpointGuard>, Server) {
        streaming_with(streams, options, false)
    }

    fn streaming_with(streams: &Streams, options: GuardOptions, half_closed: bool) -> (Arc<EndpointGuard>, Server) {
        let guard = Arc::new(EndpointGuard::new("stream"));
        let streams = streams.clone();
        let answer = move || HttpResponse::Ok().streaming(streams.take());
        let server = Server::start_with(2, half_closed, answering(&guard, options, answer));
        (guard, server)
    }
}

mod nested {
    use super::*;

    #[tokio::test]
    async fn acquire_behind_the_middleware_of_the_same_guard_is_an_error() {
        static GUARD: EndpointGuard = EndpointGuard::new("nested");

        async fn handler() -> Result<&'static str, AcquireError> {
            let _permit = GUARD.acquire().await?;
            Ok("never")
        }
        let server = Server::start(|config| {
            config.service(resource("/").wrap(GuardMiddleware::new(&GUARD)).route(get().to(handler)));
        });
        for granted in 1..=2 {
            let response = server.get("/").await.expect("no panic");
            assert_problem(response, 500, None, "urn:onelane:would-deadlock").await;
            assert_eq!((GUARD.stats().held, GUARD.stats().granted, GUARD.stats().refused), (0, granted, granted));
        }
    }

    #[tokio::test]
    async fn extractor_behind_the_middleware_of_the_same_guard_is_an_error() {
        static GUARD: EndpointGuard = EndpointGuard::new("nested extractor");
        struct Nested;
        impl GuardSource for Nested {
            fn guard() -> SharedGuard {
                SharedGuard::from(&GUARD)
            }
        }
        let server = Server::start(|config| {
            let handler = |_: Guarded<Nested>| async { "never" };
            config.service(resource("/").wrap(GuardMiddleware::new(&GUARD)).route(get().to(handler)));
        });
        let response = server.get("/").await.expect("no panic");
        assert_problem(response, 500, None, "urn:onelane:would-deadlock").await;
        assert_eq!(GUARD.stats().held, 0);
    }

    #[tokio::test]
    async fn middleware_added_twice_returns_an_error_instead_of_hanging() {
        for (permits, status) in [(1, 500), (2, 200)] {
            let guard = Arc::new(EndpointGuard::builder("twice").permits(permits).build());
            let server = Server::start({
                let guard = Arc::clone(&guard);
                move |config| {
                    let inner = resource("/").wrap(GuardMiddleware::new(&guard)).route(get().to(|| async { "done" }));
                    config.service(scope("").wrap(GuardMiddleware::new(&guard)).service(inner));
                }
            });
            for _ in 0..2 {
                let response = server.get("/").await.expect("no panic");
                if status == 500 {
                    assert_problem(response, 500, None, "urn:onelane:would-deadlock").await;
                } else {
                    assert_eq!(response.status(), status, "one permit for each");
                }
                assert_eq!(guard.stats().held, 0);
            }
        }
    }

    /// The stream is part of the work that the permit is held for.
    #[tokio::test]
    async fn acquire_in_a_stream_that_holds_the_permit_is_an_error() {
        let guard = Arc::new(EndpointGuard::new("nested stream"));
        let answer = {
            let guard = Arc::clone(&guard);
            move || {
                let nested = Arc::clone(&guard).acquire_owned();
                let text = async move { nested.await.map_or_else(|error| format!("{error:?}"), |_| "acquired".into()) };
                HttpResponse::Ok().streaming(stream::once(async { io::Result::Ok(Bytes::from(text.await)) }))
            }
        };
        let server = Server::start(answering(&guard, GuardOptions::new(), answer));
        let response = server.get("/").await.expect("no panic");
        assert_eq!(response.text().await.expect("the body is complete"), "WouldDeadlock");
        eventually("no permit is held", || guard.stats().held == 0).await;
    }
}

fn post_of(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{}", "x".repeat(length))
}

/// An app in which every route does `work` behind `guard`.
fn guarded(
    guard: impl Into<SharedGuard>,
    options: GuardOptions,
    work: &Arc<Work>,
) -> impl Fn(&mut ServiceConfig) + Send + Clone + 'static {
    let (guard, work) = (guard.into(), Arc::clone(work));
    move |config| {
        let work = Arc::clone(&work);
        let handler = move || {
            let work = Arc::clone(&work);
            async move {
                work.run().await;
                "done"
            }
        };
        let middleware = GuardMiddleware::with_options(guard.clone(), options.clone());
        config.service(scope("").wrap(middleware).default_service(route().to(handler)));
    }
}

/// An app in which every route responds behind `guard` with the result of `answer`.
fn answering(
    guard: impl Into<SharedGuard>,
    options: GuardOptions,
    answer: impl Fn() -> HttpResponse + Send + Clone + 'static,
) -> impl Fn(&mut ServiceConfig) + Send + Clone + 'static {
    let guard = guard.into();
    move |config| {
        let answer = answer.clone();
        let handler = move || ready(answer());
        let middleware = GuardMiddleware::with_options(guard.clone(), options.clone());
        config.service(scope("").wrap(middleware).default_service(route().to(handler)));
    }
}
