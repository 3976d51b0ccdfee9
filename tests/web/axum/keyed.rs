//! A guard per key: permits, refusals, clients that disconnect, and that nothing of a key remains.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::routing::{any, get, post};
use futures::channel::mpsc::unbounded;
use futures::future::join_all;
use onelane::guard::AcquireErrorKind;
use onelane::guard::KeyedGuardBuilder;
use onelane::web::axum::GuardLayer;
use onelane::web::{GuardOptions, KeyKind, OnDisconnect, RefusalReason, RequestKey};
use onelane::{KeyedGuard, Queue};

use crate::axum::refusals::is_problem;
use support::http::{self, Client, Disconnect, Listening, Probe, bytes, eventually, serve, soon};

type Users = Arc<KeyedGuard<String>>;

/// A keyed guard whose requests can wait.
fn users() -> Users {
    Arc::new(KeyedGuard::new("user"))
}

fn users_with(settings: impl FnOnce(KeyedGuardBuilder<String>) -> KeyedGuardBuilder<String>) -> Users {
    Arc::new(settings(KeyedGuard::builder("user")).build())
}

fn user(head: &Parts) -> Option<String> {
    Some(head.headers.get("x-user")?.to_str().ok()?.to_owned())
}

fn by(user: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: test\r\nx-user: {user}\r\n\r\n")
}

fn layer_with(guard: &Users, options: GuardOptions) -> GuardLayer {
    GuardLayer::keyed(guard, user).options(options)
}

/// A route `/` whose handler continues until the test releases it.
fn held(layer: GuardLayer, probe: &Arc<Probe>) -> Router {
    let probe = Arc::clone(probe);
    let handler = async move || {
        probe.visit().await;
        "done"
    };
    Router::new().route("/", any(handler)).layer(layer)
}

async fn nothing_remains(guard: &Users) {
    eventually("no key is in use", || guard.is_empty()).await;
    let stats = guard.stats();
    assert_eq!((stats.held, stats.waiting, stats.detached), (0, 0, 0));
}

/// Sends a request and waits until its handler runs, as the `n`th.
async fn running(address: SocketAddr, user: &str, probe: &Probe, n: usize) -> Client {
    let client = Client::sending(address, by(user)).await;
    eventually("its handler runs", || probe.started() == n).await;
    client
}

/// Sends a request and waits until it is queued, as the `n`th.
async fn waiting(address: SocketAddr, user: &str, guard: &Users, n: usize) -> Client {
    let client = Client::sending(address, by(user)).await;
    eventually("the request waits", || guard.stats().waiting == n).await;
    client
}

#[tokio::test]
async fn requests_of_one_key_run_one_at_a_time_and_other_keys_run_concurrently() {
    let (guard, probe) = (users(), Probe::new());
    let address = serve(Listening::Plain, held(GuardLayer::keyed(&guard, user), &probe)).await;
    let mut first = running(address, "ada", &probe, 1).await;
    let mut second = waiting(address, "ada", &guard, 1).await;
    let mut other = running(address, "grace", &probe, 2).await;
    assert_eq!((guard.len(), guard.stats().held, guard.stats().waiting), (2, 2, 1));

    probe.release(2);
    eventually("the second request has its permit", || probe.started() == 3).await;
    assert_eq!((first.response().await.text(), other.response().await.text()), ("done", "done"));
    assert_eq!(guard.len(), 1);
    probe.release(1);
    assert_eq!(second.response().await.text(), "done");
    assert_eq!((guard.stats().granted, guard.stats().queued), (3, 1));
    nothing_remains(&guard).await;
}

#[tokio::test]
async fn busy_key_of_a_client_gets_429_and_of_a_resource_409() {
    for (kind, status) in [(KeyKind::Client, 429), (KeyKind::Resource, 409)] {
        let (guard, probe) = (users_with(|users| users.queue(Queue::Reject)), Probe::new());
        let options = GuardOptions::new().key_kind(kind);
        let address = serve(Listening::Plain, held(layer_with(&guard, options), &probe)).await;
        let mut first = running(address, "ada", &probe, 1).await;

        let refused = Client::sending(address, by("ada")).await.response().await;
        is_problem(&refused, status, "https://docs.rs/onelane/latest/onelane/web/index.html#busy");
        assert_eq!(refused.header("retry-after"), Some("1"));
        let mut other = running(address, "grace", &probe, 2).await;

        probe.release(2);
        assert_eq!((first.response().await.status, other.response().await.status), (200, 200));
        assert_eq!(guard.stats().refused, 1);
        nothing_remains(&guard).await;
        probe.release(1);
        assert_eq!(
            Client::sending(address, by("ada")).await.response().await.status,
            200,
            "a permit of its key is free again"
        );
    }
}

#[tokio::test]
async fn key_whose_queue_is_full_or_too_slow_gets_429() {
    let guard = users_with(|users| users.queue(Queue::Bounded(1)).max_wait(Duration::from_millis(100)));
    let probe = Probe::new();
    let address = serve(Listening::Plain, held(GuardLayer::keyed(&guard, user), &probe)).await;
    let mut first = running(address, "ada", &probe, 1).await;
    let mut second = Client::sending(address, by("ada")).await;
    let mut third = Client::sending(address, by("ada")).await;

    // The last request to arrive finds the queue full at once; the other one waits in vain.
    let mut kinds = [second.response().await, third.response().await].map(|refused| {
        assert!(refused.header("retry-after").is_some(), "{}", refused.head);
        let kind = refused.json()["type"].as_str().expect("the header is text").to_owned();
        is_problem(&refused, 429, &kind);
        kind
    });
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "https://docs.rs/onelane/latest/onelane/web/index.html#queue-full",
            "https://docs.rs/onelane/latest/onelane/web/index.html#timeout"
        ]
    );
    probe.release(1);
    assert_eq!(first.response().await.status, 200);
    assert_eq!(probe.started(), 1);
    nothing_remains(&guard).await;
}

/// The whole service has too much to do, not this client.
#[tokio::test]
async fn key_beyond_max_keys_is_refused_with_503() {
    for kind in [KeyKind::Client, KeyKind::Resource] {
        let (guard, probe) = (users_with(|users| users.max_keys(2)), Probe::new());
        let options = GuardOptions::new().key_kind(kind);
        let address = serve(Listening::Plain, held(layer_with(&guard, options), &probe)).await;
        let mut ada = running(address, "ada", &probe, 1).await;
        let mut grace = running(address, "grace", &probe, 2).await;

        let refused = Client::sending(address, by("mallory")).await.response().await;
        is_problem(&refused, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#too-many-keys");
        assert_eq!(refused.header("retry-after"), Some("1"));
        let mut queued = waiting(address, "ada", &guard, 1).await;

        probe.release(3);
        for client in [&mut ada, &mut grace, &mut queued] {
            assert_eq!(client.response().await.status, 200);
        }
        nothing_remains(&guard).await;
    }
}

#[tokio::test]
async fn request_without_a_key_is_refused_with_400_and_never_runs() {
    let (guard, probe) = (users(), Probe::open());
    let address = serve(Listening::Plain, held(GuardLayer::keyed(&guard, user), &probe)).await;
    is_problem(
        &Client::sending(address, http::get("/")).await.response().await,
        400,
        "https://docs.rs/onelane/latest/onelane/web/index.html#key-missing",
    );
    let head = "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n";
    let refused = Client::sending(address, head).await.response().await;
    is_problem(&refused, 400, "https://docs.rs/onelane/latest/onelane/web/index.html#key-missing");
    assert_eq!(refused.header("retry-after"), None, "`None` means the same as `Refuse`");
    assert_eq!((probe.started(), guard.stats().granted, guard.len()), (0, 0, 0));
}

#[tokio::test]
async fn request_without_a_key_runs_alongside_all_others_if_it_is_let_through() {
    let (guard, probe) = (users(), Probe::new());
    let layer = GuardLayer::keyed(&guard, |head| user(head).map_or(RequestKey::LetThrough, RequestKey::Key));
    let address = serve(Listening::Plain, held(layer, &probe)).await;
    let mut keyed = running(address, "ada", &probe, 1).await;
    let mut others = join_all((0..3).map(|_| Client::sending(address, http::get("/")))).await;
    eventually("they run concurrently", || probe.started() == 4).await;
    assert_eq!((guard.stats().granted, guard.len()), (1, 1), "they need no permit");
    probe.release(4);
    for other in &mut others {
        assert_eq!(other.response().await.text(), "done");
    }
    assert_eq!(keyed.response().await.text(), "done");
    nothing_remains(&guard).await;
}

/// It holds no permit, so it ends as without a guard.
#[tokio::test]
async fn request_that_was_let_through_is_dropped_when_its_client_disconnects() {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        let (guard, probe) = (users(), Probe::new());
        let layer = GuardLayer::keyed(&guard, |_: &Parts| RequestKey::<String>::LetThrough);
        let address = serve(Listening::Plain, held(layer, &probe)).await;
        let mut disconnecting = running(address, "ada", &probe, 1).await;
        disconnecting.disconnect(disconnect).await;
        eventually("its handler is dropped", || probe.cut_off() == 1).await;
        assert_eq!((guard.stats().granted, guard.stats().detached), (0, 0));
    }
}

#[tokio::test]
async fn requests_without_a_key_run_one_at_a_time_if_they_are_given_the_same_key() {
    let (guard, probe) = (users(), Probe::new());
    let layer = GuardLayer::keyed(&guard, |head| RequestKey::Key(user(head).unwrap_or_default()));
    let address = serve(Listening::Plain, held(layer, &probe)).await;
    let mut first = Client::sending(address, http::get("/")).await;
    eventually("its handler runs", || probe.started() == 1).await;
    let mut second = Client::sending(address, http::get("/")).await;
    eventually("the second request waits", || guard.stats().waiting == 1).await;
    let mut keyed = running(address, "ada", &probe, 2).await;
    probe.release(3);
    for client in [&mut first, &mut second, &mut keyed] {
        assert_eq!(client.response().await.text(), "done");
    }
    assert_eq!(probe.most_inside(), 2);
    nothing_remains(&guard).await;
}

#[tokio::test]
async fn on_refusal_sees_a_missing_key_and_a_busy_one_and_can_change_them() {
    let (guard, probe) = (users_with(|users| users.queue(Queue::Reject)), Probe::new());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let seen_there = Arc::clone(&seen);
    let options = GuardOptions::new().on_refusal(move |refusal, _| {
        let seen = (refusal.reason().clone(), refusal.status(), refusal.is_overload());
        seen_there.lock().expect("no panic").push(seen);
        let status = if *refusal.reason() == RefusalReason::KeyMissing { 401 } else { 423 };
        refusal.with_status(status).with_header("x-changed", "yes")
    });
    let address = serve(Listening::Plain, held(layer_with(&guard, options), &probe)).await;
    let mut holder = running(address, "ada", &probe, 1).await;
    for (request, status) in [(http::get("/"), 401), (by("ada"), 423)] {
        let refused = Client::sending(address, request).await.response().await;
        assert_eq!((refused.status, refused.header("x-changed")), (status, Some("yes")));
        assert_eq!(refused.json()["status"], status, "the body reports the status that is sent");
    }
    probe.release(1);
    assert_eq!(holder.response().await.status, 200);
    let seen = seen.lock().expect("no panic");
    assert_eq!(seen[0], (RefusalReason::KeyMissing, 400, false));
    let (RefusalReason::Guard(error), 429, true) = &seen[1] else { panic!("{:?}", seen[1]) };
    assert_eq!((error.kind(), error.name()), (AcquireErrorKind::Busy, Some(guard.name())));
}

#[tokio::test]
async fn client_that_disconnects_while_it_waits_never_runs_and_leaves_no_key() {
    for (listening, body) in [(Listening::Plain, 0), (Listening::Plain, 60_000), (Listening::Watched, 100_000)] {
        for disconnect in [Disconnect::Fin, Disconnect::Rst] {
            let (guard, probe) = (users(), Probe::open());
            let address = serve(listening, held(GuardLayer::keyed(&guard, user), &probe)).await;
            let permit = guard.try_acquire("ada".to_owned()).expect("the permit is free");
            let mut disconnecting = Client::connect(address).await;
            let head = format!("POST / HTTP/1.1\r\nhost: test\r\nx-user: ada\r\ncontent-length: {body}\r\n\r\n");
            disconnecting.send_what_fits(&[head.as_bytes(), &bytes(body)].concat()).await;
            eventually("the request waits", || guard.stats().waiting == 1).await;

            disconnecting.disconnect(disconnect).await;
            eventually("the request has left the queue", || guard.stats().waiting == 0).await;
            drop(permit);
            nothing_remains(&guard).await;
            assert_eq!(
                (probe.started(), guard.stats().cancelled),
                (0, 1),
                "{listening:?}, {body} bytes, {disconnect:?}"
            );
        }
    }
}

#[tokio::test]
async fn handler_whose_client_disconnected_finishes_with_its_permit_and_then_the_key_is_removed() {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        let (guard, probe) = (users(), Probe::new());
        let address = serve(Listening::Plain, held(GuardLayer::keyed(&guard, user), &probe)).await;
        let mut disconnecting = running(address, "ada", &probe, 1).await;
        disconnecting.disconnect(disconnect).await;
        eventually("the handler continues without its client", || guard.stats().detached == 1).await;
        assert_eq!((guard.len(), guard.stats().held), (1, 1));
        let mut next = waiting(address, "ada", &guard, 1).await;

        probe.release(1);
        eventually("the next request runs", || probe.started() == 2).await;
        assert_eq!((probe.finished(), probe.cut_off(), probe.most_inside()), (1, 0, 1));
        probe.release(1);
        assert_eq!(next.response().await.text(), "done");
        nothing_remains(&guard).await;
        assert_eq!(guard.stats().finished_detached, 1);
    }
}

#[tokio::test]
async fn handler_whose_client_disconnected_is_dropped_and_the_key_removed_under_cancel() {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        let (guard, probe) = (users(), Probe::new());
        let options = GuardOptions::new().on_disconnect(OnDisconnect::Cancel);
        let address = serve(Listening::Plain, held(layer_with(&guard, options), &probe)).await;
        let mut disconnecting = running(address, "ada", &probe, 1).await;
        disconnecting.disconnect(disconnect).await;
        eventually("its handler is dropped", || probe.cut_off() == 1).await;
        nothing_remains(&guard).await;
        assert_eq!((probe.finished(), guard.stats().finished_detached), (0, 0));
    }
}

#[tokio::test]
async fn handler_without_a_client_is_dropped_after_max_run_and_the_key_removed() {
    let (guard, probe) = (users(), Probe::new());
    let options = GuardOptions::new().max_run(Duration::from_millis(50));
    let address = serve(Listening::Plain, held(layer_with(&guard, options), &probe)).await;
    let mut disconnecting = running(address, "ada", &probe, 1).await;
    disconnecting.disconnect(Disconnect::Fin).await;
    eventually("its handler is dropped", || probe.cut_off() == 1).await;
    nothing_remains(&guard).await;
    assert_eq!((guard.stats().finished_detached, guard.stats().cut_off), (0, 1));
}

#[tokio::test]
async fn stream_holds_the_permit_of_its_key_until_its_end() {
    let guard = users();
    let (feed, fed) = unbounded::<Result<Bytes, Infallible>>();
    let fed = Arc::new(Mutex::new(Some(fed)));
    let handler = async move || match fed.lock().expect("no panic").take() {
        Some(fed) => Body::from_stream(fed),
        None => Body::from("next"),
    };
    let app = Router::new().route("/", get(handler)).layer(GuardLayer::keyed(&guard, user));
    let address = serve(Listening::Plain, app).await;
    let mut streaming = Client::sending(address, by("ada")).await;
    assert!(streaming.head().await.starts_with("HTTP/1.1 200"));

    let mut next = waiting(address, "ada", &guard, 1).await;
    assert_eq!(Client::sending(address, by("grace")).await.response().await.text(), "next");
    feed.unbounded_send(Ok("a partial response".into())).expect("the body is available");
    assert_eq!((guard.stats().held, guard.stats().waiting, guard.len()), (1, 1, 1));
    drop(feed);
    assert_eq!(next.response().await.text(), "next");
    nothing_remains(&guard).await;
}

#[tokio::test]
async fn handler_that_acquires_its_own_key_is_refused_and_another_key_is_fine() {
    let guard = users();
    let again = Arc::clone(&guard);
    let handler = async move |head: Parts| {
        again.acquire("grace".to_owned()).await.map(drop)?;
        again.acquire(user(&head).expect("the response has one")).await.map(drop)
    };
    let app = Router::new().route("/", get(handler)).layer(GuardLayer::keyed(&guard, user));
    let address = serve(Listening::Plain, app).await;
    is_problem(
        &Client::sending(address, by("ada")).await.response().await,
        500,
        "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock",
    );
    assert_eq!(guard.stats().granted, 2);
    nothing_remains(&guard).await;
}

#[tokio::test]
async fn keyed_layer_added_twice_is_refused_instead_of_hanging() {
    let guard = users();
    let layer = GuardLayer::keyed(&guard, user);
    let app = Router::new().route("/", get(async || "in").layer(layer.clone())).layer(layer);
    let address = serve(Listening::Plain, app).await;
    is_problem(
        &Client::sending(address, by("ada")).await.response().await,
        500,
        "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock",
    );
    nothing_remains(&guard).await;
}

#[tokio::test]
async fn panic_in_a_handler_releases_its_key() {
    let guard = users();
    let handler = async || -> () { panic!("on purpose") };
    let app = Router::new().route("/", get(handler)).layer(GuardLayer::keyed(&guard, user));
    let mut client = Client::sending(serve(Listening::Plain, app).await, by("ada")).await;
    assert!(client.rest().await.is_empty(), "the connection ends, as without a guard");
    nothing_remains(&guard).await;
    assert_eq!(guard.stats().panicked, 1);
}

#[tokio::test]
async fn body_of_a_request_that_waited_for_its_key_arrives_whole() {
    let guard = users();
    let echo = async |body: Bytes| body;
    let app = Router::new().route("/", post(echo)).layer(GuardLayer::keyed(&guard, user));
    let address = serve(Listening::Plain, app).await;
    let permit = guard.try_acquire("ada".to_owned()).expect("the permit is free");
    let head = "POST / HTTP/1.1\r\nhost: test\r\nx-user: ada\r\ncontent-length: 200000\r\n\r\n";
    let mut client = Client::connect(address).await;
    let sent = [head.as_bytes(), &bytes(200_000)].concat();
    let (_, ()) = tokio::join!(client.send(sent), async {
        eventually("the request waits", || guard.stats().waiting == 1).await;
        drop(permit);
    });
    assert_eq!(client.response().await.body, bytes(200_000));
    nothing_remains(&guard).await;
}

#[tokio::test]
async fn closed_guard_refuses_waiting_and_new_requests_and_is_drained_when_its_holders_are_done() {
    let (guard, probe) = (users(), Probe::new());
    let address = serve(Listening::Plain, held(GuardLayer::keyed(&guard, user), &probe)).await;
    let mut holders = [running(address, "ada", &probe, 1).await, running(address, "grace", &probe, 2).await];
    let mut waiters = [waiting(address, "ada", &guard, 1).await, waiting(address, "grace", &guard, 2).await];

    guard.close();
    for waiter in &mut waiters {
        is_problem(&waiter.response().await, 503, "https://docs.rs/onelane/latest/onelane/web/index.html#closed");
    }
    for user in ["ada", "edsger"] {
        is_problem(
            &Client::sending(address, by(user)).await.response().await,
            503,
            "https://docs.rs/onelane/latest/onelane/web/index.html#closed",
        );
    }
    let drained = tokio::spawn({
        let guard = Arc::clone(&guard);
        async move { guard.drained().await }
    });
    probe.release(1);
    eventually("one request is done", || guard.stats().held == 1).await;
    assert!(!drained.is_finished());
    probe.release(1);
    soon(drained).await.expect("no panic");
    for holder in &mut holders {
        assert_eq!(holder.response().await.text(), "done");
    }
    assert_eq!(probe.started(), 2);
    nothing_remains(&guard).await;
}

#[tokio::test]
async fn hundreds_of_requests_half_of_which_disconnect_run_one_at_a_time_per_key_and_leave_no_key() {
    const USERS: usize = 20;
    let guard = users();
    let inside = Arc::new(KeyedGuard::<String>::builder("inside").queue(Queue::Reject).build());
    let (alone, probe) = (Arc::clone(&inside), Probe::open());
    let visitor = Arc::clone(&probe);
    let handler = async move |head: Parts| {
        let key = user(&head).expect("the response has one");
        let _inside = alone.try_acquire(key).expect("no other request of this key is inside");
        visitor.visit_for(Duration::from_millis(2)).await;
        "done"
    };
    let app = Router::new().route("/", get(handler)).layer(GuardLayer::keyed(&guard, user));
    let address = serve(Listening::Plain, app).await;
    let requests = (0..400).map(async |i| {
        let mut client = Client::sending(address, by(&format!("user-{}", i % USERS))).await;
        match i / USERS % 4 {
            0 => client.disconnect(Disconnect::Fin).await,
            1 => client.disconnect(Disconnect::Rst).await,
            _ => assert_eq!(client.response().await.text(), "done"),
        }
        client
    });
    let clients = join_all(requests).await;
    nothing_remains(&guard).await;
    assert!(probe.most_inside() <= USERS && probe.cut_off() == 0);
    assert!(probe.finished() >= 200, "a client that stays is served");
    assert_eq!(guard.stats().panicked, 0);
    drop(clients);
}
