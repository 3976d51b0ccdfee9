//! Calls that are dropped while the service runs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use onelane::EndpointGuard;
use onelane::web::{ClientLink, GuardOptions, OnDisconnect};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::coop::consume_budget;
use tokio::task::yield_now;
use tokio::time::{advance, sleep, timeout};
use tokio_test::{assert_pending, assert_ready_ok};
use tower::{Layer, ServiceExt, service_fn};

use crate::tower::{Received, call, empty, full, held, layer, layer_with, request, responding};
use support::http::Probe;

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn dropped_call_runs_to_its_end_in_a_task() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("finish")), Probe::new());
    let mut disconnecting = call(&layer(&guard), held(&probe), request());
    assert_pending!(disconnecting.poll());
    let mut next = call(&layer(&guard), held(&probe), request());
    assert_pending!(next.poll());
    assert_eq!(tasks(), 0, "nothing is spawned for calls that are not dropped");

    drop(disconnecting);
    assert_eq!((tasks(), guard.stats().detached, guard.stats().held), (1, 1, 1));
    yield_now().await;
    assert_eq!((probe.started(), probe.cut_off()), (1, 0));

    probe.release(1);
    // The call runs in another task, which has to be scheduled on the thread.
    sleep(Duration::from_millis(1)).await;
    assert_eq!((probe.finished(), guard.stats().detached, guard.stats().finished_detached), (1, 0, 1));
    assert!(next.is_woken());
    probe.release(1);
    assert_ready_ok!(next.poll());
    assert_eq!((tasks(), probe.most_inside()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn dropped_call_is_cancelled_under_cancel() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("cancel")), Probe::new());
    let options = GuardOptions::new().on_disconnect(OnDisconnect::Cancel);
    let mut disconnecting = call(&layer_with(&guard, options), held(&probe), request());
    assert_pending!(disconnecting.poll());
    let mut next = call(&layer(&guard), held(&probe), request());
    assert_pending!(next.poll());

    drop(disconnecting);
    assert_eq!((probe.cut_off(), tasks(), guard.stats().detached), (1, 0, 0));
    assert!(next.is_woken());
    assert_pending!(next.poll());
    assert_eq!((probe.started(), probe.most_inside()), (2, 1), "the rest of the first call was dropped first");
}

#[tokio::test(start_paused = true)]
async fn max_run_is_counted_from_when_the_call_was_dropped() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("max run")), Probe::new());
    let options = GuardOptions::new().max_run(Duration::from_secs(60));
    let mut disconnecting = call(&layer_with(&guard, options), held(&probe), request());
    assert_pending!(disconnecting.poll());
    advance(Duration::from_secs(100)).await;
    assert_pending!(disconnecting.poll());

    drop(disconnecting);
    sleep(Duration::from_secs(59)).await;
    assert_eq!((probe.cut_off(), guard.stats().held, guard.stats().detached), (0, 1, 1));
    sleep(Duration::from_secs(2)).await;
    assert_eq!((probe.cut_off(), guard.stats().held), (1, 0));
    assert_eq!((guard.stats().detached, guard.stats().finished_detached, tasks()), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn max_run_cuts_off_work_that_is_always_busy() {
    let guard = Arc::new(EndpointGuard::new("busy"));
    // Real time: work that is always ready leaves a paused clock no chance to advance.
    let options = GuardOptions::new().max_run(Duration::from_millis(30));
    let busy = service_fn(|_: Received| async {
        loop {
            consume_budget().await;
        }
        #[expect(unreachable_code, reason = "the response is the service's own")]
        Ok::<_, Infallible>(Response::new(full("never")))
    });
    let layer = layer_with(&guard, options);
    let called =
        tokio::spawn(async move { timeout(Duration::from_millis(20), layer.layer(busy).oneshot(request())).await });
    assert!(called.await.expect("no panic").is_err());
    for _ in 0..1_000 {
        if guard.stats().held == 0 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((guard.stats().held, guard.stats().detached, guard.stats().finished_detached), (0, 0, 0));
}

#[test]
fn call_dropped_on_a_runtime_without_a_timer_is_counted_completely() {
    let guard = Arc::new(EndpointGuard::new("no timer"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut disconnecting = call(&layer(&guard), held(&Probe::new()), request());
        assert_pending!(disconnecting.poll());
        drop(disconnecting);
        yield_now().await;
    });
    drop(runtime);
    assert_eq!((guard.stats().held, guard.stats().detached), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn max_run_is_an_hour_by_default() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("default")), Probe::new());
    let mut disconnecting = call(&layer(&guard), held(&probe), request());
    assert_pending!(disconnecting.poll());
    drop(disconnecting);
    sleep(Duration::from_secs(3599)).await;
    assert_eq!(guard.stats().detached, 1);
    sleep(Duration::from_secs(2)).await;
    assert_eq!((guard.stats().detached, probe.cut_off()), (0, 1));
}

/// Its future sees the grant and the disconnect in the same poll.
#[tokio::test]
async fn call_whose_client_disconnected_just_before_its_grant_does_not_run() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("late")), Probe::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let client =
        TcpStream::connect(listener.local_addr().expect("the listener is bound")).await.expect("the server listens");
    let stream = Arc::new(listener.accept().await.expect("a client connects").0);
    let permit = guard.try_acquire().expect("the permit is free");
    let mut request = request();
    let link = ClientLink::new(&stream);
    request.extensions_mut().insert(link.clone());
    let mut late = call(&layer(&guard), held(&probe), request);
    assert_pending!(late.poll());
    drop(client);
    drop(permit);
    timeout(Duration::from_secs(10), link.gone()).await.expect("the client has disconnected");
    assert_eq!(assert_ready_ok!(late.poll()).status(), 499);
    assert_eq!((probe.started(), guard.stats().held), (0, 0));
}

#[tokio::test]
async fn dropped_call_that_waits_leaves_the_queue_and_spawns_nothing() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("waits")), Probe::new());
    let mut holder = call(&layer(&guard), held(&probe), request());
    assert_pending!(holder.poll());
    let mut waiter = call(&layer(&guard), held(&probe), request());
    assert_pending!(waiter.poll());
    drop(waiter);
    assert_eq!((guard.stats().waiting, guard.stats().cancelled, tasks()), (0, 1, 0));
    probe.release(1);
    assert_ready_ok!(holder.poll());
    assert_eq!((probe.started(), guard.stats().held), (1, 0));
}

#[tokio::test]
async fn completed_call_leaves_nothing_behind() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("answered")), Probe::open());
    let mut call = call(&layer(&guard), held(&probe), request());
    assert_ready_ok!(call.poll());
    drop(call);
    assert_eq!((tasks(), guard.stats().detached, guard.stats().held), (0, 0, 0));
}

/// No runtime could continue it.
#[test]
fn call_that_is_dropped_outside_a_runtime_is_cancelled() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("no runtime")), Probe::new());
    let mut disconnecting = call(&layer(&guard), held(&probe), request());
    assert_pending!(disconnecting.poll());
    drop(disconnecting);
    assert_eq!((probe.cut_off(), guard.stats().held, guard.stats().detached), (1, 0, 0));
    assert_eq!(guard.stats().cut_off, 1);
}

/// The rest of the work. When it is dropped, no other call may be inside yet.
struct Remains(Arc<EndpointGuard>);

impl Drop for Remains {
    fn drop(&mut self) {
        assert!(self.0.try_acquire().is_err(), "the permit was released before the work was dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn permit_is_released_after_the_rest_of_the_work_is_dropped() {
    let guard = Arc::new(EndpointGuard::new("remains"));
    let remains = Arc::clone(&guard);
    let endless = service_fn(move |_: Received| {
        let remains = Remains(Arc::clone(&remains));
        async move {
            std::future::pending::<()>().await;
            drop(remains);
            Ok::<_, Infallible>(Response::new(empty()))
        }
    });
    let cancelling = GuardOptions::new().on_disconnect(OnDisconnect::Cancel);
    let limited = GuardOptions::new().max_run(Duration::from_secs(1));
    for options in [cancelling, limited] {
        let mut disconnecting = call(&layer_with(&guard, options), endless.clone(), request());
        assert_pending!(disconnecting.poll());
        drop(disconnecting);
        sleep(Duration::from_secs(2)).await;
        assert_eq!((guard.stats().held, guard.stats().panicked), (0, 0));
    }
}

#[tokio::test]
async fn permit_is_released_after_the_rest_of_a_stream_is_dropped() {
    let guard = Arc::new(EndpointGuard::new("remains"));
    let remains = Arc::clone(&guard);
    let endless = responding(move || {
        let remains = Remains(Arc::clone(&remains));
        let parts = futures::stream::pending().inspect(move |_| {
            let _ = &remains;
        });
        StreamBody::new(parts).boxed_unsync()
    });
    let response = assert_ready_ok!(call(&layer(&guard), endless, request()).poll());
    assert_eq!(guard.stats().held, 1);
    drop(response);
    assert_eq!(guard.stats().held, 0);
}
