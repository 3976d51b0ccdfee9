//! Closed middlewares, and the runs that `drained` waits for.

use actix_web::HttpResponse;
use onelane::web::FlightOptions;
use onelane::web::actix::FlightMiddleware;
use onelane::{Managed, ManagedSnapshot};

use super::{ALONE, COLLAPSED, LED, Seen, Shared, numbered};
use support::actix::{Server, ask, assert_problem};
use support::client::{Disconnect, eventually, web_client};

const CLOSED: &str = "https://docs.rs/onelane/latest/onelane/web/index.html#closed";

#[tokio::test]
async fn closed_middleware_refuses_requests_and_is_drained_when_its_runs_have_ended() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start(shared.app(numbered));
    let first = server.get("/");
    eventually("the first request leads", || shared.work.inside() == 1).await;
    let second = server.get("/");
    eventually("the second request waits", || shared.flights.stats().waiting == 2).await;
    let flights = shared.flights.clone();
    let drained = tokio::spawn(async move { flights.drained().await });
    assert!(!shared.flights.is_closed());
    shared.flights.close();
    assert!(shared.flights.is_closed());
    for path in ["/", "/other"] {
        assert_problem(server.get(path).await.expect("no panic"), 503, None, CLOSED).await;
    }
    // A request that is served alone is not affected.
    let alone = ask(web_client().post(server.url("/")));
    eventually("the request is served", || shared.work.inside() == 2).await;
    assert!(!drained.is_finished(), "a run is left");
    shared.work.let_finish(2);
    let seen = [Seen::of(first.await.expect("no panic")).await, Seen::of(second.await.expect("no panic")).await];
    assert_eq!(seen.each_ref().map(|seen| seen.cache_status.as_deref()), [LED, COLLAPSED]);
    assert_eq!(Seen::of(alone.await.expect("no panic")).await.cache_status.as_deref(), ALONE);
    drained.await.expect("no panic");
    assert_eq!((shared.work.started(), shared.flights.stats().runs), (2, 1));
}

#[tokio::test]
async fn request_that_would_join_the_next_run_is_refused_by_a_closed_middleware() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start(shared.app(|_| HttpResponse::Unauthorized().finish()));
    let leader = server.get("/");
    eventually("the first request leads", || shared.work.inside() == 1).await;
    let follower = server.get("/");
    eventually("the second request waits", || shared.flights.stats().waiting == 2).await;
    shared.flights.close();
    shared.work.let_finish(1);
    assert_eq!(leader.await.expect("no panic").status(), 401);
    assert_problem(follower.await.expect("no panic"), 503, None, CLOSED).await;
    assert_eq!((shared.work.started(), shared.flights.stats().runs), (1, 1));
}

#[tokio::test]
async fn drained_waits_for_a_detached_run_without_clients() {
    let shared = Shared::new(FlightOptions::new().detached());
    let server = Server::start(shared.app(numbered));
    shared.all_disconnect(&server, 2, Disconnect::Rst).await;
    eventually("the clients have left", || shared.flights.stats().waiting == 0).await;
    shared.flights.close();
    let expected = ManagedSnapshot::new("flight").with_active(1).with_closed(true);
    assert_eq!(Managed::snapshot(&shared.flights), expected);
    let flights = shared.flights.clone();
    let drained = tokio::spawn(async move { Managed::drained(&flights).await });
    tokio::task::yield_now().await;
    assert!(!drained.is_finished(), "the handler continues");
    shared.work.let_finish(1);
    drained.await.expect("no panic");
    assert_eq!((shared.work.finished(), shared.work.cut()), (1, 0));
}

#[test]
fn name_may_come_from_a_configuration() {
    let name = |number: u8| format!("page-{number}");
    let keyed = FlightMiddleware::keyed(name(2), |_| Some("key")).options(FlightOptions::new().max_waiters(1));
    for (flights, name) in [(FlightMiddleware::new(name(1)), "page-1"), (keyed, "page-2")] {
        assert_eq!((&*flights.stats().name, flights.name()), (name, name));
    }
    assert_eq!(FlightMiddleware::new("literal").name(), "literal");
}
