//! A guard and a function on a pool, which watch their client behind the middleware.

use std::sync::Arc;

use actix_web::web::{get, resource, scope};
use onelane::EndpointGuard;
use onelane::guard::SharedGuard;
use onelane::web::actix::{FlightMiddleware, GuardMiddleware, blocking_handler};
use onelane::web::{FlightOptions, GuardSource, Guarded, RequestGuard, RequestHead};

use super::{COLLAPSED, Seen, Shared, numbered};
use support::actix::Server;
use support::client::{Disconnect, RawClient, eventually};
use support::gate::Gate;
use tokio::task::JoinHandle;

/// A leader and six followers. The leader leaves.
async fn leader_leaves(
    server: &Server,
    flights: &FlightMiddleware,
    disconnect: Disconnect,
    began: impl Fn() -> bool,
) -> Vec<JoinHandle<reqwest::Response>> {
    let host = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    let leader = RawClient::send(server.address, host).await;
    eventually("the run has begun", || flights.stats().waiting == 1 && began()).await;
    let followers = (0..6).map(|_| server.get("/")).collect();
    eventually("the followers wait", || flights.stats().waiting == 7).await;
    leader.disconnect(disconnect).await;
    eventually("the leader has left", || flights.stats().waiting == 6).await;
    followers
}

async fn all_share(followers: Vec<JoinHandle<reqwest::Response>>, body: &str) {
    for follower in followers {
        assert_eq!(Seen::of(follower.await.expect("no panic")).await, Seen::new(200, COLLAPSED, body));
    }
}

struct Permit;

impl GuardSource<actix_web::HttpRequest> for Permit {
    fn guard(_: &RequestHead<'_>, request: &actix_web::HttpRequest) -> RequestGuard {
        RequestGuard::from(request.app_data::<SharedGuard>().expect("the app has a guard").clone())
    }
}

#[tokio::test]
async fn leader_that_leaves_while_its_run_waits_for_a_guard_takes_no_follower_along() {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        for extracts in [false, true] {
            let shared = Shared::new(FlightOptions::new());
            let guard = Arc::new(EndpointGuard::new("inner"));
            let server = Server::start({
                let (shared, guard) = (shared.clone(), SharedGuard::from(&guard));
                move |config| {
                    let flights = shared.flights.clone();
                    let handler = shared.handler(numbered);
                    if extracts {
                        let extracting = move |_permit: Guarded<Permit>| handler();
                        let inner = resource("/").app_data(guard.clone()).wrap(flights);
                        config.service(inner.route(get().to(extracting)));
                    } else {
                        let inner = resource("/").wrap(GuardMiddleware::new(guard.clone())).wrap(flights);
                        config.service(scope("").service(inner.route(get().to(handler))));
                    }
                }
            });
            let permit = guard.try_acquire().expect("the permit is free");
            let waits = || guard.stats().waiting == 1;
            let followers = leader_leaves(&server, &shared.flights, disconnect, waits).await;
            assert_eq!(guard.stats().waiting, 1, "the run still waits");
            drop(permit);
            shared.work.let_finish(7);
            all_share(followers, "1").await;
            assert_eq!((shared.work.started(), shared.work.cut()), (1, 0), "{disconnect:?}, {extracts}");
        }
    }
}

#[tokio::test]
async fn leader_that_leaves_does_not_cancel_the_function_that_the_followers_wait_for() {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        let (flights, gate) = (FlightMiddleware::new("flight"), Gate::new());
        let server = Server::start({
            let (flights, gate) = (flights.clone(), Arc::clone(&gate));
            move |config| {
                let gate = Arc::clone(&gate);
                let function = move || {
                    gate.pass_unless_cancelled();
                    if gate.cancelled() > 0 { "cancelled" } else { "answer" }
                };
                config.service(resource("/").wrap(flights.clone()).route(get().to(blocking_handler(function))));
            }
        });
        let followers = leader_leaves(&server, &flights, disconnect, || gate.started() == 1).await;
        gate.release(1);
        all_share(followers, "answer").await;
        assert_eq!((gate.started(), gate.cancelled()), (1, 0), "{disconnect:?}");
    }
}
