//! The overhead of a layer per request: an axum echo without a layer, with a layer that does nothing, behind the guard,
//! and behind tower's concurrency limit.

use std::task::{Context, Poll};

use axum::Router;
use axum::routing::post;
use criterion::{Criterion, Throughput};
use onelane::EndpointGuard;
use onelane::web::axum::GuardLayer;
use tower::Service;
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::client::{Client, print_ratios};
use crate::harness::{is_measured, is_selected};
use crate::server::serve;

static GUARD: EndpointGuard = EndpointGuard::builder("echo").permits(1024).build();

pub(crate) fn echo() -> Router {
    Router::new().route("/echo", post(|body: String| async move { body }))
}

/// A layer that does nothing, to measure the overhead of any layer in axum.
#[derive(Clone)]
struct NoOp<S>(S);

impl<S: Service<R>, R> Service<R> for NoOp<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.0.call(request)
    }
}

pub(crate) fn axum_echo(c: &mut Criterion) {
    let variants = [
        ("no_layer", echo()),
        ("no_op_layer", echo().layer(tower::layer::layer_fn(NoOp))),
        ("onelane", echo().layer(GuardLayer::new(&GUARD))),
        ("tower_concurrency_limit", echo().layer(GlobalConcurrencyLimitLayer::new(1024))),
    ];
    let mut clients: Vec<_> = variants.map(|(name, app)| (name, Client::connect(serve(app), "HTTP/1.1 200"))).into();
    let mut group = c.benchmark_group("axum_echo");
    group.throughput(Throughput::Elements(1));
    for (name, client) in &mut clients {
        group.bench_function(*name, |b| b.iter_custom(|requests| client.run(requests)));
    }
    group.finish();
    if is_measured() && is_selected("axum_echo") {
        print_ratios("axum_echo", &mut clients);
    }
    // Every request held a permit, and all permits are released now.
    assert_eq!(GUARD.stats().held, 0);
}
