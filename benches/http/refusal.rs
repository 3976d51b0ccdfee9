//! The cost of a refusal: all permits are held, and every request gets a 503. The peer is tower's `load_shed` around
//! its concurrency limit, with a 503 without a body; `tower_same_response` sends the same response as onelane.

use std::sync::Arc;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, StatusCode};
use criterion::{Criterion, Throughput};
use futures::FutureExt;
use onelane::web::axum::GuardLayer;
use onelane::{EndpointGuard, Queue};
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{BoxError, ServiceBuilder};

use crate::client::{Client, print_ratios};
use crate::echo::echo;
use crate::harness::{is_measured, is_selected};
use crate::server::serve;

static REJECT: EndpointGuard = EndpointGuard::builder("reject").queue(Queue::Reject).build();
static FULL: EndpointGuard = EndpointGuard::builder("full").queue(Queue::Bounded(1)).build();

/// The echo behind tower's `load_shed` and concurrency limit.
pub(crate) fn load_shed(app: Router, limit: GlobalConcurrencyLimitLayer) -> Router {
    let on_error = HandleErrorLayer::new(async |_: BoxError| StatusCode::SERVICE_UNAVAILABLE);
    app.layer(ServiceBuilder::new().layer(on_error).load_shed().layer(limit))
}

/// The echo behind the same layers, with onelane's response to a request that finds the guard busy.
fn same_response(app: Router, limit: GlobalConcurrencyLimitLayer) -> Router {
    const HEADERS: [(HeaderName, &str); 2] = [(RETRY_AFTER, "1"), (CONTENT_TYPE, "application/problem+json")];
    const BODY: &str = r#"{"type":"https://docs.rs/onelane/latest/onelane/web/index.html#busy","title":"Busy","status":503,"detail":"Another request is being served here. Try again later."}"#;
    let on_error = HandleErrorLayer::new(async |_: BoxError| (StatusCode::SERVICE_UNAVAILABLE, HEADERS, BODY));
    app.layer(ServiceBuilder::new().layer(on_error).load_shed().layer(limit))
}

pub(crate) fn refusal(c: &mut Criterion) {
    let _held = (REJECT.try_acquire().expect("the guard is free"), FULL.try_acquire().expect("the guard is free"));
    let mut waiting = Box::pin(FULL.acquire());
    assert!(waiting.as_mut().now_or_never().is_none(), "the queue is full now");
    let no_permits = || GlobalConcurrencyLimitLayer::with_semaphore(Arc::new(Semaphore::new(0)));
    let variants = [
        ("tower_load_shed", load_shed(echo(), no_permits())),
        ("tower_same_response", same_response(echo(), no_permits())),
        ("onelane_reject", echo().layer(GuardLayer::new(&REJECT))),
        ("onelane_full_queue", echo().layer(GuardLayer::new(&FULL))),
    ];
    let mut clients: Vec<_> = variants.map(|(name, app)| (name, Client::connect(serve(app), "HTTP/1.1 503"))).into();
    let mut group = c.benchmark_group("refusal");
    group.throughput(Throughput::Elements(1));
    for (name, client) in &mut clients {
        group.bench_function(*name, |b| b.iter_custom(|requests| client.run(requests)));
    }
    group.finish();
    if is_measured() && is_selected("refusal") {
        print_ratios("refusal", &mut clients);
    }
    assert_eq!((REJECT.stats().held, FULL.stats().waiting), (1, 1), "no request was admitted");
}
