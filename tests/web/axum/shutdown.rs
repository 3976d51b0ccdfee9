//! A server whose runtime ends under its requests.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use onelane::EndpointGuard;
use tokio::runtime::{Builder, Runtime};

use crate::axum::held_route;
use support::http::{self, Client, Disconnect, Listening, Probe, eventually, serve};

fn runtimes() -> [Runtime; 2] {
    let mut multi_thread = Builder::new_multi_thread();
    multi_thread.worker_threads(2);
    [Builder::new_current_thread(), multi_thread]
        .map(|mut builder| builder.enable_all().build().expect("the runtime starts"))
}

/// Ends the runtime on its own thread, so that a runtime that hangs fails the test.
fn end(runtime: Runtime) {
    let (ended, has_ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        drop(runtime);
        ended.send(()).expect("the test waits");
    });
    has_ended.recv_timeout(Duration::from_secs(10)).expect("the runtime ends, without a panic");
    thread.join().expect("no panic");
}

fn nothing_remains(guard: &EndpointGuard, probe: &Probe) {
    let stats = guard.stats();
    assert_eq!((stats.held, stats.waiting, stats.detached), (0, 0, 0));
    assert_eq!((stats.panicked, stats.finished_detached), (0, 0));
    // A runtime drops its tasks one after the other. On another thread, a waiting request may be granted the permit of
    // a request that was dropped, and start before it is dropped too.
    assert_eq!((probe.finished(), probe.cut_off()), (0, probe.started()));
    assert!(guard.try_acquire().is_ok(), "the guard serves another runtime");
}

#[test]
fn runtime_that_ends_drops_a_handler_without_a_client() {
    for runtime in runtimes() {
        let (guard, probe) = (Arc::new(EndpointGuard::new("shutdown")), Probe::new());
        runtime.block_on(async {
            let address = serve(Listening::Plain, held_route(&guard, &probe)).await;
            let mut disconnecting = Client::sending(address, http::get("/")).await;
            eventually("its handler runs", || probe.started() == 1).await;
            disconnecting.disconnect(Disconnect::Fin).await;
            eventually("the handler continues without its client", || guard.stats().detached == 1).await;
        });
        end(runtime);
        nothing_remains(&guard, &probe);
    }
}

#[test]
fn runtime_that_ends_drops_running_and_waiting_requests() {
    for runtime in runtimes() {
        let (guard, probe) = (Arc::new(EndpointGuard::new("shutdown")), Probe::new());
        let clients = runtime.block_on(async {
            let address = serve(Listening::Watched, held_route(&guard, &probe)).await;
            let holder = Client::sending(address, http::get("/")).await;
            eventually("its handler runs", || probe.started() == 1).await;
            let waiter = Client::sending(address, http::post("/", &http::bytes(100_000))).await;
            eventually("the other request waits", || guard.stats().waiting == 1).await;
            [holder, waiter]
        });
        end(runtime);
        nothing_remains(&guard, &probe);
        drop(clients);
    }
}
