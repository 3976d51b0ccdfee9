//! Watched connections: the disconnect of one client does not affect a run that other clients share.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use onelane::EndpointGuard;
use onelane::guard::SharedGuard;
use onelane::web::axum::{FlightLayer, GuardLayer, blocking_handler};
use onelane::web::{ClientLink, FlightOptions, GuardSource, Guarded, RequestGuard, RequestHead, tower};
use tokio::task::JoinHandle;

use super::{Collapsed, Part, numbered, part_of};
use crate::axum::http2::{Connection, connect};
use support::gate::Gate;
use support::http::{self, Client, Disconnect, Listening, Probe, eventually, serve, soon};

/// The way in which a client connects and disconnects.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    Http1(Disconnect),
    Http2,
}

const WAYS: [Leaves; 3] = [Leaves::Http1(Disconnect::Fin), Leaves::Http1(Disconnect::Rst), Leaves::Http2];

/// A client with a connection of its own.
enum Caller {
    Http1(Client, Disconnect),
    Http2(JoinHandle<(u16, Option<String>, Bytes)>, Connection),
}

impl Caller {
    async fn sending(address: SocketAddr, leaves: Leaves) -> Self {
        match leaves {
            Leaves::Http1(disconnect) => Self::Http1(Client::sending(address, http::get("/")).await, disconnect),
            Leaves::Http2 => {
                let (mut requests, connection) = connect(address).await;
                let request = hyper::Request::get("http://test/").body(Empty::<Bytes>::new());
                let response = requests.send_request(request.expect("the request is valid"));
                let response = tokio::spawn(async move {
                    let response = response.await.expect("the server responds");
                    let header = response.headers().get("cache-status");
                    let cache_status = header.map(|value| value.to_str().expect("the header is text").to_owned());
                    let status = response.status().as_u16();
                    let body = response.into_body().collect().await.expect("the body is complete").to_bytes();
                    // The connection must outlive the response.
                    drop(requests);
                    (status, cache_status, body)
                });
                Self::Http2(response, connection)
            }
        }
    }

    async fn leave(self) {
        match self {
            // The stream is kept, so that the client does not reset the connection.
            Self::Http1(mut client, disconnect) => client.disconnect(disconnect).await,
            Self::Http2(response, connection) => {
                connection.close();
                drop(response);
            }
        }
    }

    async fn response(self) -> (u16, Part, String) {
        match self {
            Self::Http1(mut client, _) => {
                let response = client.response().await;
                (response.status, part_of(&response), response.text().to_owned())
            }
            Self::Http2(response, _connection) => {
                let (status, cache_status, body) = soon(response).await.expect("no panic");
                let part = if cache_status.is_some_and(|status| status.ends_with("collapsed")) {
                    Collapsed
                } else {
                    Part::Alone
                };
                (status, part, String::from_utf8(body.into()).expect("the body is text"))
            }
        }
    }
}

/// A leader and six followers. The leader leaves.
async fn leader_leaves(
    address: SocketAddr,
    leaves: Leaves,
    waiting: impl Fn() -> usize,
    began: impl Fn() -> bool,
) -> Vec<Caller> {
    let leader = Caller::sending(address, leaves).await;
    eventually("the run has begun", || waiting() == 1 && began()).await;
    let mut followers = Vec::new();
    for count in 2..=7 {
        followers.push(Caller::sending(address, leaves).await);
        eventually("the follower waits", || waiting() == count).await;
    }
    leader.leave().await;
    eventually("the leader has left", || waiting() == 6).await;
    // By the end of this sleep, every watcher of the leader's connection has noticed the disconnect.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(waiting(), 6, "the followers wait for the same run: {leaves:?}");
    followers
}

async fn all_share(followers: Vec<Caller>, body: &str, leaves: Leaves) {
    for follower in followers {
        assert_eq!(follower.response().await, (200, Collapsed, body.to_owned()), "{leaves:?}");
    }
}

/// The ways to put a guard behind the flight.
fn behind_a_guard(
    layer: &FlightLayer,
    guard: &Arc<EndpointGuard>,
    probe: &Arc<Probe>,
) -> [(&'static str, Router<()>); 3] {
    struct Permit;
    impl GuardSource<SharedGuard> for Permit {
        fn guard(_: &RequestHead<'_>, guard: &SharedGuard) -> RequestGuard {
            RequestGuard::from(guard.clone())
        }
    }
    let visitor = Arc::clone(probe);
    let extracts = async move |_permit: Guarded<Permit>| {
        visitor.visit().await;
        "answer"
    };
    let in_handler = Router::new().route("/", get(extracts)).with_state(SharedGuard::from(guard));
    let in_layer = || numbered(probe, |_| "answer").layer(GuardLayer::new(guard));
    [
        ("a layer", in_layer().layer(layer.clone())),
        ("an extractor", in_handler.layer(layer.clone())),
        ("a layer behind a flight twice", in_layer().layer(layer.clone()).layer(FlightLayer::new("outer"))),
    ]
}

#[tokio::test]
async fn leader_that_leaves_while_its_run_waits_for_a_guard_takes_no_follower_along() {
    for leaves in WAYS {
        for i in 0..3 {
            let (layer, probe) = (FlightLayer::new("flight"), Probe::new());
            let guard = Arc::new(EndpointGuard::new("inner"));
            let (what, app) = behind_a_guard(&layer, &guard, &probe).into_iter().nth(i).expect("there are three");
            let address = serve(Listening::Watched, app).await;
            let permit = guard.try_acquire().expect("the permit is free");
            // With two flights, the inner one has one caller: the run of the outer one.
            if i == 2 {
                let leader = Caller::sending(address, leaves).await;
                eventually("the run waits for the permit", || guard.stats().waiting == 1).await;
                let follower = Caller::sending(address, leaves).await;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                leader.leave().await;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                drop(permit);
                probe.release(2);
                let (status, _, body) = follower.response().await;
                assert_eq!((status, body.as_str()), (200, "answer"), "{what}, {leaves:?}");
            } else {
                let waits = || guard.stats().waiting == 1;
                let followers = leader_leaves(address, leaves, || layer.stats().waiting, waits).await;
                drop(permit);
                probe.release(7);
                all_share(followers, "answer", leaves).await;
            }
            assert_eq!((probe.started(), probe.cut_off()), (1, 0), "{what}, {leaves:?}");
        }
    }
}

#[tokio::test]
async fn leader_that_leaves_does_not_cancel_the_function_that_the_followers_wait_for() {
    for leaves in WAYS {
        for for_any_service in [false, true] {
            let (layer, any, gate) = (FlightLayer::new("flight"), tower::FlightLayer::new("flight"), Gate::new());
            let function = {
                let gate = Arc::clone(&gate);
                move || {
                    gate.pass_unless_cancelled();
                    if gate.cancelled() > 0 { "cancelled" } else { "answer" }
                }
            };
            let route = Router::new().route("/", get(blocking_handler(function)));
            let app = if for_any_service { route.layer(any.clone()) } else { route.layer(layer.clone()) };
            let waiting = || layer.stats().waiting + any.stats().waiting;
            let address = serve(Listening::Watched, app).await;
            let followers = leader_leaves(address, leaves, waiting, || gate.started() == 1).await;
            gate.release(1);
            all_share(followers, "answer", leaves).await;
            assert_eq!((gate.started(), gate.cancelled()), (1, 0), "{leaves:?}");
        }
    }
}

/// All clients have disconnected, and the function is cancelled.
#[tokio::test]
async fn function_is_cancelled_when_the_last_client_has_left() {
    let (layer, gate) = (FlightLayer::new("flight"), Gate::new());
    let function = {
        let gate = Arc::clone(&gate);
        move || gate.pass_unless_cancelled()
    };
    let app = Router::new().route("/", get(blocking_handler(function))).layer(layer.clone());
    let address = serve(Listening::Watched, app).await;
    for follower in leader_leaves(address, WAYS[1], || layer.stats().waiting, || gate.started() == 1).await {
        assert_eq!(gate.cancelled(), 0);
        follower.leave().await;
    }
    eventually("the function has seen it", || gate.cancelled() == 1).await;
    eventually("nothing remains", || layer.stats().running == 0).await;
}

/// Sends a request with another request behind it on the connection. The second request keeps hyper from noticing that
/// the client has closed the connection, but the flight itself notices.
async fn pipelining(address: SocketAddr) -> Client {
    Client::sending(address, http::get("/") + &http::get("/behind")).await
}

type Statuses = Arc<Mutex<Vec<u16>>>;

/// A flight, and a middleware around the flight that records the status of each response.
fn watched(options: FlightOptions, probe: &Arc<Probe>) -> (FlightLayer, Statuses, Router) {
    let (layer, statuses) = (FlightLayer::new("flight").options(options), Statuses::default());
    let seen = Arc::clone(&statuses);
    let note = from_fn(move |request: Request, next: Next| {
        let seen = Arc::clone(&seen);
        async move {
            let response = next.run(request).await;
            seen.lock().expect("no panic").push(response.status().as_u16());
            response
        }
    });
    (layer.clone(), statuses, numbered(probe, |run| format!("answer {run}")).layer(layer).layer(note))
}

#[tokio::test]
async fn each_client_that_has_gone_leaves_the_run_with_status_499() {
    let probe = Probe::new();
    let (layer, statuses, app) = watched(FlightOptions::new(), &probe);
    let address = serve(Listening::Watched, app).await;
    let mut clients = Vec::new();
    for count in 1..=4 {
        clients.push(pipelining(address).await);
        eventually("the request waits", || layer.stats().waiting == count).await;
    }
    let mut stays = clients.remove(2);
    for client in &mut clients {
        client.disconnect(Disconnect::Fin).await;
    }
    eventually("the others have left", || layer.stats().waiting == 1).await;
    assert_eq!((probe.started(), probe.cut_off()), (1, 0), "the run continues");
    eventually("each has its response", || statuses.lock().expect("no panic").len() == 3).await;
    assert_eq!(*statuses.lock().expect("no panic"), [499; 3]);
    probe.release(1);
    assert_eq!(stays.response().await.text(), "answer 1");
}

#[tokio::test]
async fn handler_is_dropped_or_finishes_without_clients_though_the_server_has_not_seen_them_go() {
    for (options, finished) in [(FlightOptions::new(), 0), (FlightOptions::new().detached(), 1)] {
        for count in 1..=2 {
            let probe = Probe::new();
            let (layer, statuses, app) = watched(options.clone(), &probe);
            let address = serve(Listening::Watched, app).await;
            let mut clients = Vec::new();
            for waiting in 1..=count {
                clients.push(pipelining(address).await);
                eventually("the request waits", || layer.stats().waiting == waiting).await;
            }
            for client in &mut clients {
                client.disconnect(Disconnect::Fin).await;
            }
            eventually("all have left", || layer.stats().waiting == 0).await;
            if finished == 1 {
                assert_eq!((layer.stats().running, probe.cut_off()), (1, 0));
                probe.release(1);
            }
            eventually("the handler has ended", || probe.cut_off() + probe.finished() == 1).await;
            assert_eq!(probe.finished(), finished, "{count} clients");
            eventually("nothing remains", || layer.stats().running == 0).await;
            assert!(statuses.lock().expect("no panic").iter().all(|status| *status == 499));
        }
    }
}

/// The link has the address of the leader's client, as long as the run lasts.
#[tokio::test]
async fn handler_sees_an_address_but_no_connection_that_could_end() {
    let (layer, probe) = (FlightLayer::new("flight"), Probe::new());
    let visitor = Arc::clone(&probe);
    let handler = async move |ConnectInfo(link): ConnectInfo<ClientLink>| {
        let was_gone = link.is_gone();
        let visit = visitor.visit();
        tokio::select! {
            () = visit => {}
            () = link.gone() => return "gone".to_owned(),
        }
        format!("{} {was_gone} {}", link.peer_addr().is_some(), link.is_gone())
    };
    let app = Router::new().route("/", get(handler)).layer(layer.clone());
    let address = serve(Listening::Watched, app).await;
    for leaves in WAYS {
        let started = probe.started();
        let began = || probe.started() == started + 1;
        let followers = leader_leaves(address, leaves, || layer.stats().waiting, began).await;
        probe.release(1);
        all_share(followers, "true false false", leaves).await;
    }
}

/// A request that is not shared keeps its link.
#[tokio::test]
async fn handler_of_a_request_that_is_served_alone_sees_its_client_leave() {
    let (layer, gone) = (FlightLayer::new("flight"), Arc::new(Mutex::new(0)));
    let seen = Arc::clone(&gone);
    let handler = async move |ConnectInfo(link): ConnectInfo<ClientLink>| {
        link.gone().await;
        *seen.lock().expect("no panic") += 1;
    };
    let app = Router::new().route("/", get(handler)).layer(layer.clone());
    let address = serve(Listening::Watched, app).await;
    let alone = super::with(&[("cookie", "a=1")]) + &http::get("/behind");
    let mut client = Client::sending(address, alone).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(*gone.lock().expect("no panic"), 0);
    client.disconnect(Disconnect::Fin).await;
    eventually("the handler sees it", || *gone.lock().expect("no panic") == 1).await;
    assert_eq!(layer.stats().runs, 0);
}
