//! Shared responses in front of any service: its errors, its readiness, and the tasks that are spawned.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use onelane::web::FlightOptions;
use onelane::web::tower::{FlightFuture, FlightLayer, GuardBody};
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::tower::{AnyBytes, Received, full, held, request};
use support::http::Probe;

fn call<S>(layer: &FlightLayer, inner: S) -> Spawn<FlightFuture<Response<GuardBody<AnyBytes>>, S::Error>>
where
    S: Service<Received, Response = Response<AnyBytes>, Future: Send, Error: Send> + Clone + Send + 'static,
{
    spawn(layer.layer(inner).call(request()))
}

/// Runs the task that drives a run.
async fn run_tasks() {
    for _ in 0..10 {
        yield_now().await;
    }
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

fn text(response: Response<GuardBody<AnyBytes>>) -> String {
    let body = assert_ready_ok!(spawn(response.into_body().collect()).poll()).to_bytes();
    String::from_utf8(body.into()).expect("the header is text")
}

fn cache_status<B>(response: &Response<B>) -> String {
    response.headers()["cache-status"].to_str().expect("the header is text").to_owned()
}

/// A service whose `n`th call produces `result(n)`, when the test releases it.
fn numbered<E: Send + 'static>(
    probe: &Arc<Probe>,
    result: impl Fn(usize) -> Result<Response<AnyBytes>, E> + Clone + Send + 'static,
) -> impl Service<Received, Response = Response<AnyBytes>, Error = E, Future: Send> + Clone + Send + 'static {
    let (probe, calls) = (Arc::clone(probe), Arc::new(AtomicUsize::new(0)));
    service_fn(move |_: Received| {
        let (probe, result) = (Arc::clone(&probe), result.clone());
        let number = calls.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            probe.visit().await;
            result(number)
        }
    })
}

#[test]
fn readiness_and_a_call_that_is_never_polled_start_no_run() {
    let (layer, probe) = (FlightLayer::new("ready"), Probe::new());
    let mut service = layer.layer(held(&probe));
    let ready = spawn(poll_fn(|cx| Service::<Request<AnyBytes>>::poll_ready(&mut service, cx))).poll();
    assert_ready_ok!(ready);
    let unpolled = call(&layer, held(&probe));
    assert_eq!((layer.stats().runs, layer.stats().waiting, probe.started()), (0, 0, 0));
    drop(unpolled);
    assert_eq!((layer.stats().cancelled, layer.stats().refused), (0, 0));
}

#[tokio::test]
async fn nothing_is_spawned_for_a_lone_call() {
    let (layer, probe) = (FlightLayer::new("alone"), Probe::new());
    let mut one = call(&layer, held(&probe));
    assert_pending!(one.poll());
    assert_eq!((tasks(), layer.stats().running), (0, 1));
    probe.release(1);
    assert_eq!(cache_status(&assert_ready_ok!(one.poll())), "onelane; fwd=miss");
    assert_eq!((tasks(), layer.stats().running, layer.stats().waiting), (0, 0, 0));
}

#[tokio::test]
async fn call_that_is_not_polled_delays_no_other_call() {
    let (layer, probe) = (FlightLayer::new("unpolled"), Probe::new());
    let mut first = call(&layer, held(&probe));
    assert_pending!(first.poll());
    let mut second = call(&layer, held(&probe));
    assert_pending!(second.poll());
    probe.release(1);
    run_tasks().await;
    assert!(second.is_woken());
    let response = assert_ready_ok!(second.poll());
    assert_eq!([cache_status(&response), text(response)], ["onelane; fwd=miss; collapsed", "done"]);
    assert_eq!(text(assert_ready_ok!(first.poll())), "done");
    assert_eq!((probe.started(), tasks()), (1, 0));
}

#[derive(Debug, PartialEq)]
struct Own(usize);

#[tokio::test]
async fn error_of_the_service_goes_to_the_leader_and_the_followers_join_the_next_run() {
    let (layer, probe) = (FlightLayer::new("error"), Probe::new());
    let respond = |n| if n == 2 { Ok(Response::new(full("served"))) } else { Err(Own(n)) };
    let service = numbered(&probe, respond);
    let mut calls = [(); 3].map(|()| call(&layer, service.clone()));
    for call in &mut calls {
        assert_pending!(call.poll());
    }
    assert_eq!(probe.started(), 1);
    probe.release(2);
    run_tasks().await;
    let [first, second, third] = &mut calls;
    assert_eq!(assert_ready_err!(first.poll()), Own(1));
    assert_pending!(second.poll());
    assert_pending!(third.poll());
    run_tasks().await;
    let response = assert_ready_ok!(second.poll());
    assert_eq!([cache_status(&response), text(response)], ["onelane; fwd=miss", "served"]);
    let response = assert_ready_ok!(third.poll());
    assert_eq!([cache_status(&response), text(response)], ["onelane; fwd=miss; collapsed", "served"]);
    assert_eq!((layer.stats().runs, layer.stats().running, layer.stats().waiting), (2, 0, 0));

    // The next response may succeed, so nothing is remembered.
    let mut next = call(&layer, service);
    assert_eq!(assert_ready_err!(next.poll_after(&probe)), Own(3));
    assert_eq!(layer.stats().runs, 3);
}

trait PollAfter<T> {
    /// Polls the call, lets one visit end, and polls the call again.
    fn poll_after(&mut self, probe: &Probe) -> Poll<T>;
}

impl<F: Future + Unpin> PollAfter<F::Output> for Spawn<F> {
    fn poll_after(&mut self, probe: &Probe) -> Poll<F::Output> {
        assert!(self.poll().is_pending());
        probe.release(1);
        self.poll()
    }
}

#[tokio::test]
async fn error_for_a_call_that_was_dropped_reaches_no_other_call() {
    let (layer, probe) = (FlightLayer::new("error"), Probe::new());
    let service = numbered(&probe, |n| if n == 1 { Err(Own(n)) } else { Ok(Response::new(full("served"))) });
    let mut first = call(&layer, service.clone());
    assert_pending!(first.poll());
    let mut second = call(&layer, service);
    assert_pending!(second.poll());
    drop(first);
    probe.release(2);
    run_tasks().await;
    assert_pending!(second.poll());
    run_tasks().await;
    assert_eq!(text(assert_ready_ok!(second.poll())), "served");
    assert_eq!((probe.started(), probe.cut_off()), (2, 0));
}

/// Ready when the test says so. A clone has to become ready by itself.
struct Reserves {
    open: Arc<AtomicUsize>,
    is_ready: bool,
}

impl Clone for Reserves {
    fn clone(&self) -> Self {
        Self { open: Arc::clone(&self.open), is_ready: false }
    }
}

impl Service<Received> for Reserves {
    type Response = Response<AnyBytes>;
    type Error = &'static str;
    type Future = Ready<Result<Response<AnyBytes>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        match self.open.load(Ordering::SeqCst) {
            0 => Poll::Pending,
            1 => {
                self.is_ready = true;
                Poll::Ready(Ok(()))
            }
            _ => Poll::Ready(Err("broken")),
        }
    }

    fn call(&mut self, _: Received) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "called without a reservation");
        ready(Ok(Response::new(full("served"))))
    }
}

/// A waiting request must not reserve the capacity that the run needs.
#[tokio::test]
async fn layer_is_always_ready_and_a_run_waits_for_the_service() {
    let (layer, open) = (FlightLayer::new("ready"), Arc::new(AtomicUsize::new(0)));
    let mut service = layer.layer(Reserves { open: Arc::clone(&open), is_ready: false });
    assert_ready_ok!(spawn(poll_fn(|cx| Service::<Request<AnyBytes>>::poll_ready(&mut service, cx))).poll());
    let mut call = spawn(service.clone().oneshot(request()));
    let mut follower = spawn(service.clone().oneshot(request()));
    assert_pending!(call.poll());
    assert_pending!(follower.poll());
    assert_eq!((layer.stats().runs, layer.stats().waiting), (1, 2));
    open.store(1, Ordering::SeqCst);
    run_tasks().await;
    assert_eq!(text(assert_ready_ok!(call.poll())), "served");
    assert_eq!(text(assert_ready_ok!(follower.poll())), "served");

    // A service that is called repeatedly makes the service behind it ready each time.
    let mut again = service.clone();
    for _ in 0..3 {
        assert_ready_ok!(spawn(poll_fn(|cx| Service::<Request<AnyBytes>>::poll_ready(&mut again, cx))).poll());
        assert_eq!(text(assert_ready_ok!(spawn(again.call(request())).poll())), "served");
    }

    // The service failed to become ready, so the call failed.
    open.store(2, Ordering::SeqCst);
    let failed = spawn(service.oneshot(request())).poll();
    assert_eq!(assert_ready!(failed).map(drop), Err("broken"));
    assert_eq!((layer.stats().runs, layer.stats().running), (5, 0));
}

/// A call that is served alone waits for its own service, whether it waited for a run before or not.
#[tokio::test]
async fn call_that_is_served_alone_makes_its_own_service_ready() {
    let (layer, probe) = (FlightLayer::new("reserve"), Probe::new());
    let personal = |_| {
        let response = Response::builder().header("set-cookie", "id=1").body(full("personal"));
        Ok::<_, &'static str>(response.expect("the response is valid"))
    };
    let mut leader = call(&layer, numbered(&probe, personal));
    assert_pending!(leader.poll());
    let open = Arc::new(AtomicUsize::new(0));
    let service = || layer.layer(Reserves { open: Arc::clone(&open), is_ready: false });
    let mut follower = spawn(service().oneshot(request()));
    assert_pending!(follower.poll());
    probe.release(1);
    run_tasks().await;
    assert_eq!(text(assert_ready_ok!(leader.poll())), "personal");
    assert_pending!(follower.poll());
    let mut late = spawn(service().oneshot(request()));
    assert_pending!(late.poll());
    assert_eq!(layer.stats().running, 0, "both are served alone");
    open.store(1, Ordering::SeqCst);
    for call in [&mut follower, &mut late] {
        let response = assert_ready_ok!(call.poll());
        assert_eq!([cache_status(&response), text(response)], ["onelane; fwd=bypass", "served"]);
    }
    let mut failed = spawn(service().oneshot(request()));
    open.store(2, Ordering::SeqCst);
    assert_eq!(assert_ready_err!(failed.poll()), "broken");
}

/// Each call keeps its place from the first run, even if other calls have taken all places of the next run.
#[tokio::test]
async fn max_waiters_does_not_refuse_a_call_that_joins_the_next_run() {
    let layer = FlightLayer::new("places").options(FlightOptions::new().max_waiters(2));
    let probe = Probe::new();
    let service = numbered(&probe, |n| if n == 1 { Err(Own(n)) } else { Ok(Response::new(full("served"))) });
    let mut first = [(); 3].map(|()| call(&layer, service.clone()));
    for call in &mut first {
        assert_pending!(call.poll());
    }
    let refused = assert_ready_ok!(call(&layer, service.clone()).poll());
    assert_eq!((refused.status().as_u16(), layer.stats().refused), (503, 1));
    probe.release(1);
    run_tasks().await;
    let [leader, second, third] = &mut first;
    assert_eq!(assert_ready_err!(leader.poll()), Own(1));
    assert_pending!(second.poll());
    let mut others = [(); 2].map(|()| call(&layer, service.clone()));
    for call in &mut others {
        assert_pending!(call.poll());
    }
    assert_pending!(third.poll());
    let refused = assert_ready_ok!(call(&layer, service.clone()).poll());
    assert_eq!((refused.status().as_u16(), layer.stats().waiting), (503, 4));
    probe.release(1);
    run_tasks().await;
    for call in [second, third].into_iter().chain(&mut others) {
        assert_eq!(text(assert_ready_ok!(call.poll())), "served");
    }
    assert_eq!((layer.stats().runs, layer.stats().refused, probe.started()), (2, 2, 2));
}

#[tokio::test]
async fn body_that_is_not_shared_passes_unchanged_with_its_trailers() {
    let layer = FlightLayer::new("trailers").options(FlightOptions::new());
    let service = service_fn(async |_: Received| {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("\"a\""))]);
        let frames = [Ok(Frame::data(Bytes::from("data"))), Ok(Frame::trailers(trailers))];
        Ok::<_, Infallible>(Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync()))
    });
    let response = assert_ready_ok!(call(&layer, service).poll());
    assert_eq!((cache_status(&response).as_str(), response.body().size_hint().exact()), ("onelane; fwd=bypass", None));
    let whole = response.into_body().collect().await.expect("the body is complete");
    assert_eq!(whole.trailers().map(|trailers| &trailers["etag"]), Some(&HeaderValue::from_static("\"a\"")));
    assert_eq!(whole.to_bytes(), "data");
}
