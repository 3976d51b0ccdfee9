//! A guard per key in actix-web, on real servers with several workers, called over real sockets.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::dev::ServiceRequest;
use actix_web::web::{ServiceConfig, get, post, resource, route, scope};
use actix_web::{App, HttpRequest, HttpResponse, test};
use futures::future::join_all;
use onelane::guard::AcquireErrorKind;
use onelane::web::actix::GuardMiddleware;
use onelane::web::{GuardOptions, Hold, KeyKind, OnDisconnect, Refusal, RefusalReason, RequestKey};
use onelane::{AcquireError, KeyedGuard, Queue};
use tokio::time::timeout;

use support::actix::{Server, Streams, Work, ask, assert_problem, chunk, lock};
use support::client::{Disconnect, PATIENCE, RawClient, eventually, web_client};

type Guard = Arc<KeyedGuard<String>>;
type UserAndWork = (String, Arc<Work>);

mod permits {
    use super::*;

    #[tokio::test]
    async fn requests_of_one_user_run_one_at_a_time_while_users_run_concurrently_on_all_workers() {
        let per_user = PerUser::new(KeyedGuard::new("user"));
        let server = Server::start_with(3, false, per_user.app(GuardOptions::new()));
        let users = ["ada", "grace", "edith", "joan"];
        let mut calls = Vec::new();
        for _ in 0..10 {
            calls.extend(users.map(|user| server.work_for(user)));
        }
        eventually("one request of each user runs", || users.iter().all(|user| per_user.of(user).inside() == 1)).await;
        eventually("all others wait", || per_user.guard.stats().waiting == 36).await;
        assert_eq!((per_user.guard.len(), per_user.guard.stats().held), (4, 4), "one key for each active user");

        for user in users {
            per_user.of(user).let_finish(10);
        }
        for (call, user) in calls.into_iter().zip(users.into_iter().cycle()) {
            let response = call.await.expect("no panic");
            assert_eq!(response.status(), 200);
            assert_eq!(
                response.text().await.expect("the body is complete"),
                user,
                "every request gets its own response"
            );
        }
        for user in users {
            let work = per_user.of(user);
            assert_eq!((work.finished(), work.most_inside()), (10, 1), "{user}");
        }
        per_user.are_empty().await;
        let stats = per_user.guard.stats();
        assert_eq!((stats.granted, stats.queued, stats.refused, stats.cancelled), (40, 36, 0, 0));
    }

    /// The same closure builds an app on each worker, and a middleware wherever it is added.
    #[tokio::test]
    async fn middlewares_of_one_guard_share_its_keys() {
        let per_user = PerUser::new(KeyedGuard::builder("user").queue(Queue::Reject).build());
        let server = Server::start({
            let per_user = per_user.clone();
            move |config| {
                let middleware = || GuardMiddleware::keyed(Arc::clone(&per_user.guard), user);
                config
                    .service(resource("/one").wrap(middleware()).route(post().to(per_user.handler())))
                    .service(scope("/scope").wrap(middleware()).route("/inner", post().to(per_user.handler())))
                    .route("/route", post().to(per_user.handler()).wrap(middleware()));
            }
        });
        let inside = ask(server.post("/one", "ada"));
        eventually("the request runs", || per_user.of("ada").inside() == 1).await;
        for path in ["/one", "/scope/inner", "/route"] {
            let refused = ask(server.post(path, "ada")).await.expect("no panic");
            assert_problem(refused, 429, Some("1"), "https://docs.rs/onelane/latest/onelane/web/index.html#busy").await;
        }
        per_user.of("grace").let_finish(1);
        assert_eq!(ask(server.post("/route", "grace")).await.expect("no panic").status(), 200);
        per_user.of("ada").let_finish(1);
        assert_eq!(inside.await.expect("no panic").status(), 200);
        per_user.are_empty().await;
    }

    #[tokio::test]
    async fn handler_that_panics_releases_the_permit_of_its_key() {
        let guard: Guard = Arc::new(KeyedGuard::new("panics"));
        let work = Arc::new(Work::default());
        let server = Server::start({
            let (guard, work) = (Arc::clone(&guard), Arc::clone(&work));
            move |config| {
                let work = Arc::clone(&work);
                let handler = move |request: HttpRequest| {
                    let work = Arc::clone(&work);
                    async move {
                        work.run().await;
                        assert_ne!(request.query_string(), "panic", "panic requested by the test");
                        "done"
                    }
                };
                let middleware = GuardMiddleware::keyed(Arc::clone(&guard), user);
                config.service(resource("/").wrap(middleware).route(get().to(handler)));
            }
        });
        let _panics = RawClient::send(server.address, "GET /?panic HTTP/1.1\r\nhost: a\r\nx-user: ada\r\n\r\n").await;
        eventually("the request runs", || work.inside() == 1).await;
        let next = ask(web_client().get(server.url("/")).header("x-user", "ada"));
        eventually("the next request waits", || guard.stats().waiting == 1).await;
        work.let_finish(2);
        assert_eq!(next.await.expect("no panic").status(), 200);
        are_removed(&guard).await;
        assert_eq!((guard.stats().panicked, guard.stats().granted), (1, 2));
    }
}

mod refusals {
    use super::*;

    #[tokio::test]
    async fn busy_client_gets_429_and_busy_resource_409() {
        for (kind, status) in [(None, 429), (Some(KeyKind::Client), 429), (Some(KeyKind::Resource), 409)] {
            let per_user = PerUser::new(KeyedGuard::builder("busy").queue(Queue::Reject).build());
            let options = kind.map_or_else(GuardOptions::new, |kind| GuardOptions::new().key_kind(kind));
            per_user
                .refuse_while_one_is_inside(
                    options,
                    0,
                    status,
                    "https://docs.rs/onelane/latest/onelane/web/index.html#busy",
                )
                .await;
        }
    }

    #[tokio::test]
    async fn full_queue_and_timeout_of_a_key_are_refused_with_429_or_409() {
        for (kind, status) in [(KeyKind::Client, 429), (KeyKind::Resource, 409)] {
            let options = || GuardOptions::new().key_kind(kind);
            let full = PerUser::new(KeyedGuard::builder("full").queue(Queue::Bounded(1)).build());
            full.refuse_while_one_is_inside(
                options(),
                1,
                status,
                "https://docs.rs/onelane/latest/onelane/web/index.html#queue-full",
            )
            .await;
            let slow = PerUser::new(KeyedGuard::builder("slow").max_wait(Duration::from_millis(50)).build());
            slow.refuse_while_one_is_inside(
                options(),
                0,
                status,
                "https://docs.rs/onelane/latest/onelane/web/index.html#timeout",
            )
            .await;
        }
    }

    #[tokio::test]
    async fn key_beyond_the_limit_is_refused_with_503_while_known_keys_still_wait() {
        for kind in [KeyKind::Client, KeyKind::Resource] {
            let per_user = PerUser::new(KeyedGuard::builder("flood").max_keys(1).build());
            let server = Server::start(per_user.app(GuardOptions::new().key_kind(kind)));
            let inside = server.work_for("ada");
            eventually("the request runs", || per_user.of("ada").inside() == 1).await;
            let flood = server.work_for("grace").await.expect("no panic");
            // The whole service is full, whatever the keys stand for.
            assert_problem(
                flood,
                503,
                Some("1"),
                "https://docs.rs/onelane/latest/onelane/web/index.html#too-many-keys",
            )
            .await;
            let queued = server.work_for("ada");
            eventually("the known key waits", || per_user.guard.stats().waiting == 1).await;
            per_user.of("ada").let_finish(2);
            assert_eq!(inside.await.expect("no panic").status(), 200);
            assert_eq!(queued.await.expect("no panic").status(), 200);
            per_user.are_empty().await;
            per_user.of("grace").let_finish(1);
            assert_eq!(server.work_for("grace").await.expect("no panic").status(), 200, "another key fits again");
            assert_eq!(per_user.of("grace").started(), 1);
            per_user.are_empty().await;
        }
    }

    #[tokio::test]
    async fn every_refusal_passes_through_on_refusal() {
        let seen: Arc<Mutex<Vec<RefusalReason>>> = Arc::default();
        let options = {
            let seen = Arc::clone(&seen);
            GuardOptions::new().on_refusal(move |refusal: Refusal, _| {
                lock(&seen).push(refusal.reason().clone());
                refusal.with_status(420).with_type("https://example.org/no").with_header("x-seen", "yes")
            })
        };
        let per_user = PerUser::new(KeyedGuard::builder("seen").queue(Queue::Reject).max_keys(1).build());
        let server = Server::start(per_user.app(options));
        let inside = server.work_for("ada");
        eventually("the request runs", || per_user.of("ada").inside() == 1).await;
        let refused = [server.work_for("ada"), server.work_for("grace"), ask(web_client().post(server.url("/")))];
        let refused = join_all(refused).await.into_iter().map(|response| response.expect("no panic"));
        for (refused, retry_after) in refused.zip([Some("1"), Some("1"), None]) {
            assert_eq!(refused.headers()["x-seen"], "yes");
            assert_problem(refused, 420, retry_after, "https://example.org/no").await;
        }
        let reasons = lock(&seen).clone();
        let count = |expected: fn(&RefusalReason) -> bool| reasons.iter().filter(|reason| expected(reason)).count();
        let counts = [
            count(|reason| matches!(reason, RefusalReason::Guard(error) if *error == AcquireErrorKind::Busy)),
            count(|reason| matches!(reason, RefusalReason::Guard(error) if *error == AcquireErrorKind::TooManyKeys)),
            count(|reason| matches!(reason, RefusalReason::KeyMissing)),
        ];
        assert_eq!((counts, reasons.len()), ([1, 1, 1], 3), "{reasons:?}");
        per_user.of("ada").let_finish(1);
        assert_eq!(inside.await.expect("no panic").status(), 200);
        per_user.are_empty().await;
    }

    #[tokio::test]
    async fn closing_refuses_the_queues_of_all_keys_with_503_and_drained_waits_for_running_requests() {
        let per_user = PerUser::new(KeyedGuard::new("closed"));
        let server = Server::start(per_user.app(GuardOptions::new()));
        let users = ["ada", "grace"];
        let inside: Vec<_> = users.iter().map(|user| server.work_for(user)).collect();
        eventually("both requests are inside", || per_user.guard.stats().held == 2 && per_user.guard.len() == 2).await;
        let queued: Vec<_> = users.iter().map(|user| server.work_for(user)).collect();
        eventually("both queues are full", || per_user.guard.stats().waiting == 2).await;

        per_user.guard.close();
        for refused in queued {
            assert_problem(
                refused.await.expect("no panic"),
                503,
                None,
                "https://docs.rs/onelane/latest/onelane/web/index.html#closed",
            )
            .await;
        }
        let late = server.work_for("edith").await.expect("no panic");
        assert_problem(late, 503, None, "https://docs.rs/onelane/latest/onelane/web/index.html#closed").await;

        let drained = tokio::spawn({
            let guard = Arc::clone(&per_user.guard);
            async move { guard.drained().await }
        });
        per_user.of("ada").let_finish(1);
        eventually("one request has finished", || per_user.guard.stats().held == 1).await;
        assert!(!drained.is_finished(), "the other request is still inside");
        per_user.of("grace").let_finish(1);
        timeout(PATIENCE, drained).await.expect("the guard is drained").expect("no panic");
        for response in inside {
            assert_eq!(response.await.expect("no panic").status(), 200, "the request inside finishes");
        }
        assert_eq!(
            (per_user.of("ada").started(), per_user.of("grace").started(), per_user.of("edith").started()),
            (1, 1, 0)
        );
        per_user.are_empty().await;
    }
}

mod without_a_key {
    use super::*;

    #[tokio::test]
    async fn refused_request_gets_400_and_never_runs() {
        let per_user = PerUser::new(KeyedGuard::new("refuse"));
        let none = server_without_keys(&per_user, RequestKey::Refuse);
        // An `Option`'s `None` does the same.
        let option = Server::start(per_user.app(GuardOptions::new()));
        for server in [none, option] {
            let refused = ask(web_client().post(server.url("/"))).await.expect("no panic");
            assert_problem(refused, 400, None, "https://docs.rs/onelane/latest/onelane/web/index.html#key-missing")
                .await;
        }
        assert_eq!((per_user.of("").started(), per_user.guard.stats().granted), (0, 0));
        per_user.are_empty().await;
    }

    #[tokio::test]
    async fn request_that_is_let_through_runs_at_once_alongside_others() {
        let per_user = PerUser::new(KeyedGuard::builder("through").queue(Queue::Reject).build());
        let server = server_without_keys(&per_user, RequestKey::LetThrough);
        let calls: Vec<_> = (0..3).map(|_| ask(web_client().post(server.url("/")))).collect();
        eventually("all requests run at once", || per_user.of("").inside() == 3).await;
        assert_eq!((per_user.guard.stats().held, per_user.guard.len()), (0, 0));
        per_user.of("").let_finish(3);
        for response in join_all(calls).await {
            assert_eq!(response.expect("no panic").status(), 200);
        }
        // The guard does not concern itself with its client: the handler is dropped, as without a guard.
        let disconnecting = RawClient::send(server.address, "POST / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        eventually("one more request runs", || per_user.of("").inside() == 1).await;
        disconnecting.disconnect(Disconnect::Rst).await;
        eventually("the handler is dropped", || per_user.of("").cut() == 1).await;
        // Even if the guard is closed.
        per_user.guard.close();
        per_user.of("").let_finish(1);
        assert_eq!(ask(web_client().post(server.url("/"))).await.expect("no panic").status(), 200);
        assert_eq!(per_user.guard.stats().granted, 0);
        per_user.are_empty().await;
    }

    #[tokio::test]
    async fn requests_that_share_a_key_run_one_at_a_time_alongside_users() {
        let per_user = PerUser::new(KeyedGuard::new("shared"));
        let server = server_without_keys(&per_user, RequestKey::Key("anonymous".to_owned()));
        let calls: Vec<_> = (0..5).map(|_| ask(web_client().post(server.url("/")))).collect();
        eventually("one request runs, four wait", || {
            per_user.of("").inside() == 1 && per_user.guard.stats().waiting == 4
        })
        .await;
        per_user.of("ada").let_finish(1);
        assert_eq!(server.work_for("ada").await.expect("no panic").status(), 200);
        per_user.of("").let_finish(5);
        for response in join_all(calls).await {
            assert_eq!(response.expect("no panic").status(), 200);
        }
        assert_eq!(per_user.of("").most_inside(), 1);
        per_user.are_empty().await;
    }

    fn server_without_keys(per_user: &PerUser, otherwise: RequestKey<String>) -> Server {
        let per_user = per_user.clone();
        Server::start(move |config| {
            let otherwise = otherwise.clone();
            let key_of =
                move |request: &ServiceRequest| user(request).map_or_else(|| otherwise.clone(), RequestKey::Key);
            let middleware = GuardMiddleware::keyed(Arc::clone(&per_user.guard), key_of);
            config.service(scope("").wrap(middleware).default_service(route().to(per_user.handler())));
        })
    }
}

mod disconnects {
    use super::*;

    #[tokio::test]
    async fn waiting_request_never_runs_and_the_next_of_its_key_does() {
        for (disconnect, half_closed) in [(Disconnect::Fin, false), (Disconnect::Rst, false), (Disconnect::Rst, true)] {
            let case = format!("{disconnect:?}, half_closed {half_closed}");
            let per_user = PerUser::new(KeyedGuard::new("waits"));
            let server = Server::start_with(2, half_closed, per_user.app(GuardOptions::new()));
            let holder = server.work_for("ada");
            eventually("the first request is inside", || per_user.of("ada").inside() == 1).await;
            let disconnecting = RawClient::send(server.address, POST_FOR_ADA).await;
            eventually("one request waits", || per_user.guard.stats().waiting == 1).await;
            let next = server.work_for("ada");
            eventually("the next request waits", || per_user.guard.stats().waiting == 2).await;

            disconnecting.disconnect(disconnect).await;
            eventually(&format!("the request leaves the queue: {case}"), || per_user.guard.stats().waiting == 1).await;
            per_user.of("ada").let_finish(2);
            assert_eq!(holder.await.expect("no panic").status(), 200, "{case}");
            assert_eq!(next.await.expect("no panic").status(), 200, "{case}");
            per_user.are_empty().await;
            let (work, stats) = (per_user.of("ada"), per_user.guard.stats());
            assert_eq!((work.started(), work.most_inside(), work.cut()), (2, 1, 0), "{case}");
            assert_eq!((stats.granted, stats.cancelled, stats.finished_detached), (2, 1, 0), "{case}");
        }
    }

    /// The key's last request is neither the holder nor a request that is granted a permit.
    #[tokio::test]
    async fn key_is_removed_when_its_last_request_leaves_the_queue() {
        for disconnect in [Disconnect::Fin, Disconnect::Rst] {
            let per_user = PerUser::new(KeyedGuard::new("last"));
            let server = Server::start(per_user.app(GuardOptions::new()));
            let permit = per_user.guard.try_acquire("ada".to_owned()).expect("the permit is free");
            let disconnecting = RawClient::send(server.address, POST_FOR_ADA).await;
            eventually("the request waits", || per_user.guard.stats().waiting == 1).await;
            disconnecting.disconnect(disconnect).await;
            eventually("the request leaves the queue", || per_user.guard.stats().waiting == 0).await;
            assert_eq!(per_user.guard.len(), 1);
            drop(permit);
            assert!(per_user.guard.is_empty(), "{:?}", per_user.guard);
            assert_eq!(per_user.of("ada").started(), 0);
        }
    }

    #[tokio::test]
    async fn running_handler_finishes_with_the_permit_of_its_key() {
        for (disconnect, half_closed) in [(Disconnect::Fin, false), (Disconnect::Rst, false), (Disconnect::Rst, true)] {
            let case = format!("{disconnect:?}, half_closed {half_closed}");
            let per_user = PerUser::new(KeyedGuard::new("finish"));
            let server = Server::start_with(2, half_closed, per_user.app(GuardOptions::new()));
            let disconnecting = RawClient::send(server.address, POST_FOR_ADA).await;
            eventually("the request runs", || per_user.of("ada").inside() == 1).await;
            let next = server.work_for("ada");
            eventually("the next request waits", || per_user.guard.stats().waiting == 1).await;

            disconnecting.disconnect(disconnect).await;
            eventually(&format!("the handler continues alone: {case}"), || per_user.guard.stats().detached == 1).await;
            assert_eq!(
                (per_user.of("ada").started(), per_user.guard.stats().held, per_user.guard.len()),
                (1, 1, 1),
                "{case}"
            );
            per_user.of("ada").let_finish(2);
            assert_eq!(next.await.expect("no panic").status(), 200, "{case}");
            per_user.are_empty().await;
            let (work, stats) = (per_user.of("ada"), per_user.guard.stats());
            assert_eq!((work.finished(), work.most_inside()), (2, 1), "{case}");
            assert_eq!((stats.finished_detached, stats.detached, stats.cut_off), (1, 0, 0), "{case}");
        }
    }

    #[tokio::test]
    async fn handler_that_is_to_be_cancelled_is_dropped_and_its_key_removed() {
        for (disconnect, half_closed) in [(Disconnect::Fin, false), (Disconnect::Rst, false), (Disconnect::Rst, true)] {
            let case = format!("{disconnect:?}, half_closed {half_closed}");
            let per_user = PerUser::new(KeyedGuard::new("cancel"));
            let options = GuardOptions::new().on_disconnect(OnDisconnect::Cancel);
            let server = Server::start_with(2, half_closed, per_user.app(options));
            let disconnecting = RawClient::send(server.address, POST_FOR_ADA).await;
            eventually("the request runs", || per_user.of("ada").inside() == 1).await;
            disconnecting.disconnect(disconnect).await;
            eventually(&format!("the handler is dropped: {case}"), || per_user.of("ada").cut() == 1).await;
            per_user.are_empty().await;
            per_user.of("ada").let_finish(1);
            assert_eq!(server.work_for("ada").await.expect("no panic").status(), 200, "{case}");
            per_user.are_empty().await;
            assert_eq!((per_user.guard.stats().detached, per_user.guard.stats().finished_detached), (0, 0), "{case}");
        }
    }
}

mod hold {
    use super::*;

    #[tokio::test]
    async fn stream_holds_the_permit_of_its_key_until_its_end_and_of_no_other_key() {
        let guard: Guard = Arc::new(KeyedGuard::new("stream"));
        let streams = Streams::default();
        let server = Server::start({
            let (guard, streams) = (Arc::clone(&guard), streams.clone());
            move |config| {
                let streams = streams.clone();
                let handler = move || {
                    let body = streams.take();
                    async { HttpResponse::Ok().streaming(body) }
                };
                let middleware = GuardMiddleware::keyed(Arc::clone(&guard), user);
                config.service(resource("/").wrap(middleware).route(post().to(handler)));
            }
        });
        let parts = streams.open();
        let mut client = RawClient::send(server.address, POST_FOR_ADA).await;
        client.read_until("\r\n\r\n").await;
        let next = server.work_for("ada");
        eventually("the next request of its key waits", || guard.stats().waiting == 1).await;
        drop(streams.open());
        assert_eq!(server.work_for("grace").await.expect("no panic").status(), 200, "another key does not wait");
        parts.unbounded_send(chunk("part")).expect("the body can be read");
        client.read_until("part").await;
        assert_eq!((guard.stats().waiting, guard.len()), (1, 1), "the stream continues");
        drop(streams.open());
        drop(parts);
        assert_eq!(next.await.expect("no panic").status(), 200);
        are_removed(&guard).await;
        assert_eq!((guard.stats().granted, guard.stats().overrun), (3, 0));

        // A client that disconnects in the middle of its stream ends the stream.
        let _parts = streams.open();
        let mut disconnecting = RawClient::send(server.address, POST_FOR_ADA).await;
        disconnecting.read_until("\r\n\r\n").await;
        assert_eq!(guard.len(), 1);
        disconnecting.disconnect(Disconnect::Rst).await;
        are_removed(&guard).await;
    }

    #[tokio::test]
    async fn stream_that_takes_too_long_loses_the_permit_of_its_key() {
        let guard: Guard = Arc::new(KeyedGuard::new("slow stream"));
        let streams = Streams::default();
        let server = Server::start({
            let (guard, streams) = (Arc::clone(&guard), streams.clone());
            move |config| {
                let streams = streams.clone();
                let handler = move || {
                    let body = streams.take();
                    async { HttpResponse::Ok().streaming(body) }
                };
                let options = GuardOptions::new().hold(Hold::Body).body_hold_max(Duration::from_millis(50));
                let middleware = GuardMiddleware::keyed(Arc::clone(&guard), user).options(options);
                config.service(resource("/").wrap(middleware).route(post().to(handler)));
            }
        });
        let parts = streams.open();
        let mut client = RawClient::send(server.address, POST_FOR_ADA).await;
        client.read_until("\r\n\r\n").await;
        eventually("the permit is granted to the next request", || guard.stats().overrun == 1).await;
        are_removed(&guard).await;
        parts.unbounded_send(chunk("part")).expect("the body can be read");
        client.read_until("part").await;
    }
}

mod nested {
    use super::*;

    #[tokio::test]
    async fn acquire_of_the_same_key_is_an_error_and_of_another_key_succeeds() {
        static GUARD: KeyedGuard<String> = KeyedGuard::new("nested");

        async fn handler(request: HttpRequest) -> Result<String, AcquireError> {
            let _permit = GUARD.acquire(request.query_string().to_owned()).await?;
            Ok("another".to_owned())
        }
        let server = Server::start(|config| {
            config.service(resource("/").wrap(GuardMiddleware::keyed(&GUARD, user)).route(post().to(handler)));
        });
        for granted in [1, 2] {
            let same = ask(server.post("/?ada", "ada")).await.expect("no panic");
            assert_problem(same, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock")
                .await;
            assert_eq!((GUARD.stats().granted, GUARD.len()), (granted, 0));
        }
        let other = ask(server.post("/?grace", "ada")).await.expect("no panic");
        assert_eq!(other.text().await.expect("the body is complete"), "another");
        eventually("no key remains", || GUARD.is_empty()).await;
    }

    #[tokio::test]
    async fn middleware_added_twice_returns_an_error_instead_of_hanging() {
        let per_user = PerUser::new(KeyedGuard::new("twice"));
        let server = Server::start({
            let per_user = per_user.clone();
            move |config| {
                let middleware = || GuardMiddleware::keyed(Arc::clone(&per_user.guard), user);
                let inner = resource("/").wrap(middleware()).route(post().to(per_user.handler()));
                config.service(scope("").wrap(middleware()).service(inner));
            }
        });
        let response = server.work_for("ada").await.expect("no panic");
        assert_problem(response, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock")
            .await;
        per_user.are_empty().await;
    }

    #[tokio::test]
    async fn dropped_call_outside_of_actix_is_cancelled_and_its_key_removed() {
        let guard: Guard = Arc::new(KeyedGuard::new("bare"));
        let middleware = GuardMiddleware::keyed(Arc::clone(&guard), user);
        let app = App::new().service(resource("/").wrap(middleware).route(get().to(std::future::pending::<String>)));
        let app = test::init_service(app).await;
        let request = test::TestRequest::get().uri("/").insert_header(("x-user", "ada")).to_request();
        let call = test::call_service(&app, request);
        assert!(timeout(Duration::from_millis(10), call).await.is_err());
        assert_eq!((guard.stats().granted, guard.len(), guard.stats().detached), (1, 0, 0));
        assert_eq!(guard.stats().cut_off, 1);
    }
}

const POST_FOR_ADA: &str = "POST / HTTP/1.1\r\nhost: localhost\r\nx-user: ada\r\ncontent-length: 0\r\n\r\n";

fn user(request: &ServiceRequest) -> Option<String> {
    request.headers().get("x-user")?.to_str().ok().map(str::to_owned)
}

/// No key remains.
async fn are_removed(guard: &KeyedGuard<String>) {
    eventually("no key remains", || guard.is_empty()).await;
    assert_eq!((guard.stats().held, guard.stats().waiting), (0, 0));
}

/// A guard, and the work of each user behind it.
#[derive(Clone)]
struct PerUser {
    guard: Guard,
    works: Arc<Mutex<Vec<UserAndWork>>>,
}

impl PerUser {
    fn new(guard: KeyedGuard<String>) -> Self {
        Self { guard: Arc::new(guard), works: Arc::default() }
    }

    /// The work of a user, or of the requests without a user.
    fn of(&self, user: &str) -> Arc<Work> {
        let mut works = lock(&self.works);
        if let Some((_, work)) = works.iter().find(|(name, _)| name == user) {
            return Arc::clone(work);
        }
        let work = Arc::new(Work::default());
        works.push((user.to_owned(), Arc::clone(&work)));
        work
    }

    /// Does its user's work, and responds with the user's name.
    fn handler(&self) -> impl Fn(HttpRequest) -> futures::future::LocalBoxFuture<'static, String> + Clone + 'static {
        let per_user = self.clone();
        move |request| {
            let user =
                request.headers().get("x-user").and_then(|user| user.to_str().ok()).unwrap_or_default().to_owned();
            let work = per_user.of(&user);
            Box::pin(async move {
                work.run().await;
                user
            })
        }
    }

    /// An app in which every route does its user's work with a permit of the user's key. A request without a user is
    /// refused.
    fn app(&self, options: GuardOptions) -> impl Fn(&mut ServiceConfig) + Send + Clone + 'static {
        let per_user = self.clone();
        move |config| {
            let middleware = GuardMiddleware::keyed(Arc::clone(&per_user.guard), user).options(options.clone());
            config.service(scope("").wrap(middleware).default_service(route().to(per_user.handler())));
        }
    }

    /// With one request of a user inside and `waiting` requests in that user's queue, the user's next request is
    /// refused, and another user's is not.
    async fn refuse_while_one_is_inside(&self, options: GuardOptions, waiting: usize, status: u16, kind: &str) {
        let server = Server::start(self.app(options));
        let inside = server.work_for("ada");
        eventually("the first request is inside", || self.of("ada").started() == 1).await;
        let queued: Vec<_> = (0..waiting).map(|_| server.work_for("ada")).collect();
        eventually("the queue is full", || self.guard.stats().waiting == waiting).await;

        let refusal = server.work_for("ada").await.expect("no panic");
        assert_problem(refusal, status, Some("1"), kind).await;
        assert_eq!(self.of("ada").started(), 1, "a refused request does not run");
        self.of("grace").let_finish(1);
        assert_eq!(server.work_for("grace").await.expect("no panic").status(), 200, "others are unaffected");

        self.of("ada").let_finish(2 + waiting);
        assert_eq!(inside.await.expect("no panic").status(), 200);
        for response in join_all(queued).await {
            assert_eq!(response.expect("no panic").status(), 200);
        }
        self.are_empty().await;
        assert_eq!(
            server.work_for("ada").await.expect("no panic").status(),
            200,
            "a request is admitted again afterwards"
        );
        self.are_empty().await;
    }

    async fn are_empty(&self) {
        are_removed(&self.guard).await;
    }
}
