//! Clients that disconnect while their handler runs.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use onelane::EndpointGuard;
use onelane::web::axum::GuardLayer;
use onelane::web::{GuardOptions, OnDisconnect};
use tokio::runtime::Handle;
use tower::ServiceBuilder;
use tower_http::trace::TraceLayer;

use crate::axum::held_route;
use support::http::{self, Client, Disconnect, Listening, Probe, eventually, serve};
use support::spans::{SpanNotes, enable_spans};

fn held_with(options: GuardOptions, guard: &Arc<EndpointGuard>, probe: &Arc<Probe>) -> Router {
    let probe = Arc::clone(probe);
    let handler = async move || probe.visit().await;
    Router::new().route("/", any(handler)).layer(GuardLayer::new(guard).options(options))
}

async fn handler_finishes_and_then_the_next_starts(listening: Listening, disconnect: Disconnect) {
    let (guard, probe) = (Arc::new(EndpointGuard::new("finish")), Probe::new());
    let address = serve(listening, held_route(&guard, &probe)).await;
    let mut disconnecting = Client::sending(address, http::get("/")).await;
    eventually("its handler runs", || probe.started() == 1).await;
    let mut next = Client::sending(address, http::get("/")).await;
    eventually("the next request waits", || guard.stats().waiting == 1).await;

    disconnecting.disconnect(disconnect).await;
    eventually("the handler continues without its client", || guard.stats().detached == 1).await;
    let stats = guard.stats();
    assert_eq!((stats.held, stats.waiting, stats.finished_detached), (1, 1, 0));
    assert_eq!((probe.started(), probe.cut_off()), (1, 0));

    probe.release(1);
    eventually("the next handler runs", || probe.started() == 2).await;
    assert_eq!((probe.finished(), probe.most_inside()), (1, 1));
    eventually("the run without a client has ended", || guard.stats().detached == 0).await;
    assert_eq!(guard.stats().finished_detached, 1);

    probe.release(1);
    assert_eq!(next.response().await.text(), "done");
    assert_eq!(probe.cut_off(), 0);
}

#[tokio::test]
async fn handler_whose_client_closes_finishes_before_the_next_starts() {
    handler_finishes_and_then_the_next_starts(Listening::Plain, Disconnect::Fin).await;
    handler_finishes_and_then_the_next_starts(Listening::Watched, Disconnect::Fin).await;
}

#[tokio::test]
async fn handler_whose_client_resets_finishes_before_the_next_starts() {
    handler_finishes_and_then_the_next_starts(Listening::Plain, Disconnect::Rst).await;
    handler_finishes_and_then_the_next_starts(Listening::Watched, Disconnect::Rst).await;
}

#[tokio::test]
async fn handler_is_dropped_and_the_next_starts_under_cancel() {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        let (guard, probe) = (Arc::new(EndpointGuard::new("cancel")), Probe::new());
        let options = GuardOptions::new().on_disconnect(OnDisconnect::Cancel);
        let address = serve(Listening::Plain, held_with(options, &guard, &probe)).await;
        let mut disconnecting = Client::sending(address, http::get("/")).await;
        eventually("its handler runs", || probe.started() == 1).await;
        let mut next = Client::sending(address, http::get("/")).await;
        eventually("the next request waits", || guard.stats().waiting == 1).await;

        disconnecting.disconnect(disconnect).await;
        eventually("the next handler runs", || probe.started() == 2).await;
        assert_eq!((probe.cut_off(), probe.finished(), probe.most_inside()), (1, 0, 1), "{disconnect:?}");
        let stats = guard.stats();
        assert_eq!((stats.detached, stats.finished_detached), (0, 0));

        probe.release(1);
        assert_eq!(next.response().await.status, 200);
    }
}

#[tokio::test]
async fn handler_without_a_client_is_dropped_after_max_run() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("max run")), Probe::new());
    let options = GuardOptions::new().max_run(Duration::from_millis(50));
    let address = serve(Listening::Plain, held_with(options, &guard, &probe)).await;
    let mut disconnecting = Client::sending(address, http::get("/")).await;
    eventually("its handler runs", || probe.started() == 1).await;
    disconnecting.disconnect(Disconnect::Fin).await;
    eventually("its handler is dropped", || probe.cut_off() == 1).await;
    eventually("no permit is held", || guard.stats().held == 0).await;
    let stats = guard.stats();
    assert_eq!((stats.detached, stats.finished_detached), (0, 0));
}

#[tokio::test]
async fn panic_in_a_handler_without_a_client_is_counted_and_admits_the_next() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("panics")), Probe::new());
    let visitor = Arc::clone(&probe);
    let handler = async move || -> () {
        visitor.visit().await;
        panic!("on purpose");
    };
    let app = Router::new().route("/panic", any(handler)).route("/", any(async || "served"));
    let address = serve(Listening::Plain, app.layer(GuardLayer::new(&guard))).await;
    let mut disconnecting = Client::sending(address, http::get("/panic")).await;
    eventually("its handler runs", || probe.started() == 1).await;
    let mut next = Client::sending(address, http::get("/")).await;
    eventually("the next request waits", || guard.stats().waiting == 1).await;
    disconnecting.disconnect(Disconnect::Fin).await;
    eventually("the handler continues without its client", || guard.stats().detached == 1).await;

    probe.release(1);
    assert_eq!(next.response().await.text(), "served");
    eventually("the run without a client has ended", || guard.stats().detached == 0).await;
    let stats = guard.stats();
    assert_eq!((stats.panicked, stats.finished_detached, stats.held), (1, 0, 0));
}

#[tokio::test]
async fn nothing_is_spawned_while_clients_stay_connected() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("no task")), Probe::new());
    let address = serve(Listening::Plain, held_route(&guard, &probe)).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let mut holder = Client::connect(address).await;
    let mut waiter = Client::connect(address).await;
    eventually("the server and two connections have their tasks", || tasks() == 3).await;

    holder.send(http::get("/")).await;
    eventually("its handler runs", || probe.started() == 1).await;
    waiter.send(http::post("/", &http::bytes(1000))).await;
    eventually("the other request waits", || guard.stats().waiting == 1).await;
    assert_eq!(tasks(), 3);
    probe.release(1);
    assert_eq!(holder.response().await.status, 200);
    eventually("the other handler runs", || probe.started() == 2).await;
    assert_eq!(tasks(), 3);
    probe.release(1);
    assert_eq!(waiter.response().await.status, 200);
    assert_eq!(tasks(), 3);

    waiter.send(http::get("/")).await;
    eventually("its handler runs", || probe.started() == 3).await;
    waiter.disconnect(Disconnect::Fin).await;
    eventually("the handler's task replaces the connection's task", || guard.stats().detached == 1).await;
    eventually("the server, one connection and the handler have tasks", || tasks() == 3).await;
    probe.release(1);
    eventually("the handler's task has ended", || tasks() == 2).await;
}

/// tower-http's `TraceLayer` does not enter its span when it drops the handler.
#[tokio::test]
async fn handler_without_a_client_goes_on_in_the_span_of_its_request() {
    let _spans = enable_spans();
    let (guard, probe, notes) = (Arc::new(EndpointGuard::new("span")), Probe::new(), SpanNotes::default());
    let (visited, noted) = (Arc::clone(&probe), notes.clone());
    let handler = async move || {
        noted.note();
        visited.visit().await;
        noted.note();
    };
    let layers = ServiceBuilder::new().layer(TraceLayer::new_for_http()).layer(GuardLayer::new(&guard));
    let address = serve(Listening::Plain, Router::new().route("/", any(handler)).layer(layers)).await;
    let mut disconnecting = Client::sending(address, http::get("/")).await;
    eventually("its handler runs", || probe.started() == 1).await;
    disconnecting.disconnect(Disconnect::Fin).await;
    eventually("the handler continues without its client", || guard.stats().detached == 1).await;
    probe.release(1);
    eventually("it has finished", || guard.stats().detached == 0).await;
    assert_eq!(notes.names(), [Some("request"); 2]);
}
