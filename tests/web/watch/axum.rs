//! The watch layer of axum.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::routing::{MethodRouter, any, get};
use futures::{StreamExt, stream};
use onelane::watch::WatchBuilder;
use onelane::web::axum::{FlightLayer, GuardLayer, WatchLayer, blocking_handler, cpu_handler, process_handler};
use onelane::{EndpointGuard, ProcessPool, run_blocking};
use support::http::{Listening, Probe, serve};
use support::inbox::{Inbox, THRESHOLD};
use support::runtimes::multi_thread;
use support::waiting::{Gate, MS, PATIENCE, spin_until};
use tokio::runtime::Runtime;
use tower_http::timeout::TimeoutLayer;

use super::Site;
use crate::processes::work::{FileGate, wait_at_gate};

struct Server(Option<Runtime>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

/// Serves an app on a runtime with two workers.
fn site(app: impl FnOnce(&Gate) -> Router) -> Site {
    site_with(|inbox| inbox.builder().threshold(THRESHOLD), app)
}

fn site_with(builder: impl FnOnce(&Inbox) -> WatchBuilder, app: impl FnOnce(&Gate) -> Router) -> Site {
    let (gate, inbox, runtime) = (Gate::default(), Inbox::default(), multi_thread(2));
    let app = app(&gate);
    let address = runtime.block_on(async { serve(Listening::Watched, app).await });
    let watch = builder(&inbox).start(runtime.handle()).unwrap();
    Site { gate, address, inbox, watch, _server: Box::new(Server(Some(runtime))) }
}

/// A handler that blocks its worker until the gate is open.
fn blocks(gate: &Gate) -> MethodRouter {
    let wait = gate.wait();
    any(move || {
        let wait = wait.clone();
        async move { wait.block() }
    })
}

fn route(gate: &Gate) -> Router {
    Router::new().route("/users/{id}", blocks(gate))
}

#[test]
fn blocked_route_is_reported_before_its_response() {
    let site = site(|gate| route(gate).route("/waits", get(pending::<()>)).layer(WatchLayer::new()));
    let waits = site.send("GET", "/waits");
    let blocked = site.report_of("GET", "/users/7");
    assert_eq!(blocked.label(), Some("GET /users/{id}"), "{blocked:?}");
    assert!(blocked.thread().is_some(), "{blocked:?}");
    assert!(waits.is_unanswered());
    let stats = site.watch.stats();
    let labels: Vec<_> = stats.labels.iter().map(|stats| stats.label).collect();
    assert_eq!(labels, ["GET /users/{id}"], "{stats:?}");
}

#[test]
fn label_is_the_method_and_the_whole_pattern() {
    let site = site(|gate| {
        let api = route(gate).layer(WatchLayer::new());
        let outer = Router::new().nest("/a", api.clone()).nest("/b", api.clone()).nest_service("/c", api);
        outer.route("/x/{*rest}", blocks(gate)).route_layer(WatchLayer::new())
    });
    for (method, path, label) in [
        ("GET", "/a/users/1", "GET /a/users/{id}"),
        ("HEAD", "/a/users/1", "HEAD /a/users/{id}"),
        ("GET", "/b/users/1", "GET /b/users/{id}"),
        ("GET", "/a/users/2", "GET /a/users/{id}"),
        ("PATCH", "/c/users/1", "PATCH /c/users/{id}"),
        ("HEAD", "/a/users/1", "HEAD /a/users/{id}"),
        ("GET", "/x/y/z", "GET /x/{*rest}"),
    ] {
        assert_eq!(site.label_of(method, path), Some(label));
    }
}

#[test]
fn clients_cannot_create_labels() {
    let builder = |inbox: &Inbox| inbox.builder().threshold(MS * 10);
    let site = site_with(builder, |gate| route(gate).fallback(blocks(gate)).layer(WatchLayer::new()));
    for number in 0..50 {
        site.report_of(&format!("METHOD{number}"), &format!("/users/{number}"));
        site.report_of("GET", &format!("/unknown/{number}"));
    }
    assert_eq!(site.labels(), BTreeSet::from(["OTHER /users/{id}", "unmatched"]));
    let stats = site.watch.stats();
    assert!(
        stats.labels.iter().all(|stats| ["OTHER /users/{id}", "unmatched", ""].contains(&stats.label)),
        "{stats:?}"
    );
}

#[test]
fn label_is_the_same_inside_and_outside_of_other_layers() {
    static GUARD: EndpointGuard = EndpointGuard::new("watched");
    let timeout = || TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, PATIENCE);
    let site = site(|gate| {
        Router::new()
            .nest("/inside-guard", route(gate).layer(WatchLayer::new()).layer(GuardLayer::new(&GUARD)))
            .nest("/outside-guard", route(gate).layer(GuardLayer::new(&GUARD)).layer(WatchLayer::new()))
            .nest("/inside-flight", route(gate).layer(WatchLayer::new()).layer(FlightLayer::new("watched")))
            .nest("/inside-timeout", route(gate).layer(WatchLayer::new()).layer(timeout()))
            .nest("/outside-timeout", route(gate).layer(timeout()).layer(WatchLayer::new()))
            .nest("/twice", route(gate).layer(WatchLayer::new()).layer(timeout()).layer(WatchLayer::new()))
    });
    for stack in ["inside-guard", "outside-guard", "inside-flight", "inside-timeout", "outside-timeout", "twice"] {
        let label = site.label_of("GET", &format!("/{stack}/users/1"));
        assert_eq!(label, Some(&*format!("GET /{stack}/users/{{id}}")));
    }
}

#[test]
fn wait_in_the_queue_of_a_guard_is_not_reported() {
    let probe = Probe::new();
    let guards = ["inside", "outside"].map(|name| Arc::new(EndpointGuard::new(name)));
    let site = site(|_| {
        let held = || {
            let probe = Arc::clone(&probe);
            Router::new().route("/", get(async move || probe.visit().await))
        };
        Router::new()
            .nest("/inside", held().layer(WatchLayer::new()).layer(GuardLayer::new(&guards[0])))
            .nest("/outside", held().layer(GuardLayer::new(&guards[1])).layer(WatchLayer::new()))
    });
    let sent = ["/inside", "/outside", "/inside", "/outside"].map(|path| site.send("GET", path));
    spin_until(|| guards.iter().all(|guard| guard.stats().waiting == 1));
    site.assert_silent();
    probe.release(4);
    sent.into_iter().for_each(|sent| assert_eq!(sent.status(), 200));
    assert!(site.inbox.all().is_empty(), "{:?}", site.inbox.all());
}

#[test]
fn handler_that_continues_without_its_client_has_its_label() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("detached")), Probe::new());
    let site = site(|gate| {
        let (wait, probe) = (gate.wait(), Arc::clone(&probe));
        let handler = async move || {
            probe.visit().await;
            wait.block();
        };
        Router::new().route("/users/{id}", get(handler)).layer(WatchLayer::new()).layer(GuardLayer::new(&guard))
    });
    let sent = site.send("GET", "/users/1");
    spin_until(|| probe.started() == 1);
    drop(sent);
    spin_until(|| guard.stats().detached == 1);
    probe.release(1);
    assert_eq!(site.inbox.wait_for(1)[0].label(), Some("GET /users/{id}"));
}

#[test]
fn shared_run_of_a_flight_is_reported_once() {
    let (probe, flight) = (Probe::new(), FlightLayer::new("shared"));
    let site = site(|gate| {
        let (wait, probe) = (gate.wait(), Arc::clone(&probe));
        let handler = async move || {
            probe.visit().await;
            wait.block();
        };
        Router::new().route("/users/{id}", get(handler)).layer(WatchLayer::new()).layer(flight.clone())
    });
    let sent = [site.send("GET", "/users/1"), site.send("GET", "/users/1")];
    spin_until(|| probe.started() == 1 && flight.stats().waiting == 2);
    probe.release(1);
    let blocked = site.inbox.wait_for(1);
    site.gate.open();
    sent.into_iter().for_each(|sent| assert_eq!(sent.status(), 200));
    site.inbox.wait_for_recovered(1);
    assert_eq!(blocked[0].label(), Some("GET /users/{id}"));
    assert_eq!(site.inbox.blocked().len(), 1, "{:?}", site.inbox.all());
}

#[test]
fn handlers_on_pools_are_not_reported() {
    let pool = ProcessPool::builder("watched").workers(1).build();
    let file_gate = FileGate::new();
    let site = site(|gate| {
        let [blocking, cpu, called] = [gate.wait(), gate.wait(), gate.wait()];
        let called = async move || {
            let wait = called.clone();
            run_blocking(move || wait.block()).await.unwrap();
        };
        let process = process_handler(&pool, |Query(query): Query<_>| wait_at_gate(&query));
        Router::new()
            .route("/blocking", get(blocking_handler(move || blocking.block())))
            .route("/cpu", get(cpu_handler(move || cpu.block())))
            .route("/run-blocking", get(called))
            .route("/process", get(process))
            .layer(WatchLayer::new())
    });
    let sent = ["/blocking", "/cpu", "/run-blocking"].map(|path| site.send("GET", path));
    let in_process = site.send("GET", &file_gate.at("/process"));
    spin_until(|| site.gate.inside() == 3 && file_gate.started().len() == 1);
    site.assert_silent();
    site.gate.open();
    file_gate.open();
    sent.into_iter().for_each(|sent| assert_eq!(sent.status(), 200));
    assert_eq!(in_process.status(), 200);
}

/// The label of a request ends with its response: the body belongs to the connection.
#[test]
fn streams_and_websockets_pass_through_and_have_no_label() {
    let site = site(|gate| {
        let (in_stream, in_socket) = (gate.wait(), gate.wait());
        let body = move || {
            let wait = in_stream.clone();
            let chunks = stream::iter(["one", "two"]).map(move |chunk| {
                wait.block();
                Ok::<_, Infallible>(chunk)
            });
            async { Body::from_stream(chunks) }
        };
        let echo = |upgrade: WebSocketUpgrade| async move {
            upgrade.on_upgrade(|mut socket| async move {
                let message = socket.recv().await.unwrap().unwrap();
                in_socket.block();
                socket.send(message).await.unwrap();
            })
        };
        Router::new().route("/stream", get(body)).route("/socket", any(echo)).layer(WatchLayer::new())
    });
    let stream = site.send("GET", "/stream");
    assert_eq!(site.inbox.wait_for(1)[0].label(), None);
    site.gate.open();
    let text = stream.text();
    assert!(text.contains("one") && text.contains("two"), "{text}");
    site.inbox.wait_for_recovered(1);

    site.gate.close();
    let head = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut socket = site.send_with("GET", "/socket", head);
    // A text frame with the mask 0.
    socket.write(b"\x81\x82\0\0\0\0hi");
    assert_eq!(site.inbox.wait_for(2)[1].label(), None);
    site.gate.open();
    let text = socket.text();
    assert!(text.starts_with("HTTP/1.1 101 ") && text.contains("\x02hi"), "{text:?}");
}
