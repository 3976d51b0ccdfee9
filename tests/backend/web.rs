//! A lost lease and a store that fails, as the clients of a service see them.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::test::{TestRequest, init_service, try_call_service};
use actix_web::{App, HttpResponse, web};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use axum::routing::get;
use futures::stream::{self, Stream, StreamExt};
use http_body_util::BodyExt;
use onelane::backend::{Lease, LockDomain, OnLost};
use onelane::guard::SharedGuard;
use onelane::web::actix::GuardMiddleware;
use onelane::web::axum::GuardLayer;
use onelane::web::{GuardOptions, GuardSource, Guarded, RequestGuard, RequestHead};
use onelane::{EndpointGuard, ServiceHost};
use support::http::eventually;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use super::in_memory::{InMemory, Store};
use super::{MS, PATIENCE, domain, guard};

const LEASE: Duration = Duration::from_millis(300);

async fn connected(store: &Arc<Store>, on_lost: OnLost) -> &'static LockDomain {
    let locks = domain(|domain| domain.on_lost(on_lost));
    locks.connect(InMemory::new(store, LEASE)).await.unwrap();
    locks
}

/// A handler that takes longer than the lease, and counts how often it ends.
async fn slow(ended: Arc<AtomicUsize>) -> String {
    let lease = Lease::current().expect("the handler has a lease");
    sleep(LEASE * 4).await;
    ended.fetch_add(1, Ordering::SeqCst);
    lease.is_lost().to_string()
}

fn app(guard: EndpointGuard, ended: &Arc<AtomicUsize>) -> Router {
    let ended = Arc::clone(ended);
    Router::new().route("/", get(move || slow(ended))).route_layer(GuardLayer::new(guard))
}

async fn call(app: Router) -> Response<Body> {
    timeout(PATIENCE, app.oneshot(Request::new(Body::empty()))).await.unwrap().unwrap()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn lost_lease_cancels_the_handler_of_axum() {
    let (store, ended) = (Arc::<Store>::default(), Arc::default());
    let app = app(guard(connected(&store, OnLost::Cancel).await), &ended);
    let calling = tokio::spawn(call(app));
    eventually("the handler runs", || store.held() == 1).await;
    store.forget_locks();
    let response = calling.await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    let body = text(response).await;
    assert!(body.contains("#lease-lost"), "{body}");
    sleep(LEASE * 4).await;
    assert_eq!(ended.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn handler_that_is_only_notified_continues() {
    let (store, ended) = (Arc::<Store>::default(), Arc::default());
    let app = app(guard(connected(&store, OnLost::Notify).await), &ended);
    let calling = tokio::spawn(call(app));
    eventually("the handler runs", || store.held() == 1).await;
    store.forget_locks();
    let response = calling.await.unwrap();
    assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::OK, "true"));
}

/// The runtime is blocked for longer than the lease, and the handler is woken before the keeper's signal arrives.
#[tokio::test]
async fn handler_does_not_continue_after_a_pause_that_was_longer_than_its_lease() {
    let (store, ended) = (Arc::<Store>::default(), Arc::default());
    let locks = domain(|domain| domain.max_hold(MS * 10));
    locks.connect(InMemory::new(&store, LEASE)).await.unwrap();
    let app = app(guard(locks), &ended);
    let calling = tokio::spawn(call(app));
    eventually("the handler runs", || store.held() == 1).await;
    std::thread::sleep(LEASE * 6);
    assert_eq!(calling.await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ended.load(Ordering::SeqCst), 0);
}

#[actix_web::test]
async fn lost_lease_cancels_the_handler_of_actix_web() {
    let (store, ended) = (Arc::<Store>::default(), Arc::<AtomicUsize>::default());
    let guard = GuardMiddleware::new(guard(connected(&store, OnLost::Cancel).await));
    let count = Arc::clone(&ended);
    let handler = move || {
        let count = Arc::clone(&count);
        async move { HttpResponse::Ok().body(slow(count).await) }
    };
    let app = init_service(App::new().service(web::resource("/").wrap(guard).route(web::get().to(handler)))).await;
    let forgetting = Arc::clone(&store);
    actix_web::rt::spawn(async move {
        eventually("the handler runs", || forgetting.held() == 1).await;
        forgetting.forget_locks();
    });
    let request = TestRequest::get().uri("/").to_request();
    let result = timeout(PATIENCE, try_call_service(&app, request)).await.unwrap();
    let error = result.expect_err("the request is gone with its handler");
    assert_eq!(error.as_response_error().status_code(), 503);
    assert_eq!(ended.load(Ordering::SeqCst), 0);
}

/// An endless response, whose parts contain the token of the current lease.
fn parts() -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::repeat_with(|| Ok(Bytes::from(Lease::current().expect("a lease").fence().to_string()))).then(
        |part| async move {
            sleep(MS * 10).await;
            part
        },
    )
}

#[tokio::test]
async fn lost_lease_cuts_off_the_response_body_of_axum() {
    let store = Arc::<Store>::default();
    let layer = GuardLayer::new(guard(connected(&store, OnLost::Cancel).await));
    let app = Router::new().route("/", get(|| async { Body::from_stream(parts()) })).route_layer(layer);
    let mut body = call(app).await.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "1");
    store.forget_locks();
    let error = timeout(PATIENCE, body.collect()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("lease"), "{error}");
}

/// The permit is released after `body_hold_max`, which is no loss.
#[tokio::test]
async fn body_that_holds_the_permit_for_too_long_continues_without_it() {
    let store = Arc::<Store>::default();
    let options = GuardOptions::new().body_hold_max(MS * 30);
    let layer = GuardLayer::new(guard(connected(&store, OnLost::Cancel).await)).options(options);
    let body = || async {
        Body::from_stream(
            stream::repeat_with(|| Ok::<_, Infallible>("part"))
                .then(|part| async move {
                    sleep(MS * 10).await;
                    part
                })
                .take(20),
        )
    };
    let app = Router::new().route("/", get(body)).route_layer(layer);
    let body = call(app).await.into_body().collect().await.unwrap();
    assert_eq!((body.to_bytes().len(), store.held()), (80, 0));
}

#[actix_web::test]
async fn lost_lease_cuts_off_the_response_body_of_actix_web() {
    let store = Arc::<Store>::default();
    let guard = GuardMiddleware::new(guard(connected(&store, OnLost::Cancel).await));
    let handler = || async { HttpResponse::Ok().streaming(parts()) };
    let app = init_service(App::new().service(web::resource("/").wrap(guard).route(web::get().to(handler)))).await;
    let response = try_call_service(&app, TestRequest::get().uri("/").to_request()).await.unwrap();
    let mut body = pin!(response.into_body());
    assert_eq!(poll_fn(|cx| body.as_mut().poll_next(cx)).await.unwrap().unwrap(), "1");
    store.forget_locks();
    let ends = async {
        loop {
            match poll_fn(|cx| body.as_mut().poll_next(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error.to_string(),
                None => panic!("the body ends as if it were complete"),
            }
        }
    };
    let error = timeout(PATIENCE, ends).await.unwrap();
    assert!(error.contains("lease"), "{error}");
}

#[tokio::test]
async fn clients_get_a_503_with_a_time_to_retry_while_the_store_fails() {
    let (store, ended) = (Arc::<Store>::default(), Arc::default());
    let app = app(guard(connected(&store, OnLost::Cancel).await), &ended);
    store.fail(true);
    let response = call(app).await;
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    let body = text(response).await;
    assert!(body.contains("#store-unavailable") && !body.contains("the test wants"), "{body}");
}

#[tokio::test]
async fn service_connects_and_is_not_ready_while_the_store_fails() {
    let store = Arc::<Store>::default();
    let locks = domain(|domain| domain);
    let host =
        ServiceHost::builder().service(locks.connect(InMemory::new(&store, LEASE))).without_signals().build().unwrap();
    assert!(!locks.is_connected());
    host.start().await.unwrap();
    assert!(locks.is_connected() && host.status().is_ready());
    store.fail(true);
    eventually("the host is not ready", || !host.status().is_ready()).await;
    let status = host.status();
    let service = status.service("locks test").unwrap();
    assert!(format!("{service:?}").contains("the store of the locks does not answer"), "{service:?}");
    store.fail(false);
    eventually("the host is ready again", || host.status().is_ready()).await;
    assert!(host.shutdown().await.unwrap().is_clean());
    assert!(!locks.is_connected());
}

struct Report;

static EXTRACTED: OnceLock<SharedGuard> = OnceLock::new();

impl<S> GuardSource<S> for Report {
    fn guard(_: &RequestHead<'_>, _: &S) -> RequestGuard {
        RequestGuard::from(EXTRACTED.get().unwrap().clone())
    }
}

/// The extractor provides the lease, also of a handler that holds its permit for only a part of its time.
#[tokio::test]
async fn extractor_provides_the_lease_in_both_frameworks() {
    async fn fences(permit: Guarded<Report>) -> String {
        let lease = permit.lease().unwrap();
        assert!(!lease.is_lost());
        drop(permit);
        assert!(lease.is_lost());
        lease.fence().to_string()
    }
    let store = Arc::<Store>::default();
    let shared = guard(connected(&store, OnLost::Cancel).await);
    EXTRACTED.set(shared.into()).unwrap();
    let app = Router::new().route("/", get(fences));
    assert_eq!(text(call(app).await).await, "1");
    let app = init_service(App::new().route("/", web::get().to(fences))).await;
    let body = actix_web::test::call_and_read_body(&app, TestRequest::get().uri("/").to_request()).await;
    assert!(String::from_utf8_lossy(&body).parse::<u64>().unwrap() > 1);
    eventually("the locks are released", || store.held() == 0).await;
}
