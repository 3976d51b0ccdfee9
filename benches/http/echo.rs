//! The overhead of a layer per request: an axum echo without a layer, with a layer that does nothing, behind the guard,
//! and behind tower's concurrency limit; and without and with the watch layer, while a watch runs.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use axum::Router;
use axum::routing::post;
use criterion::{Criterion, Throughput};
use onelane::EndpointGuard;
use onelane::watch::Watch;
use onelane::web::axum::{GuardLayer, WatchLayer};
use tower::Service;
use tower::limit::GlobalConcurrencyLimitLayer;

use crate::client::{Client, print_ratios};
use crate::harness::{is_measured, is_selected};
use crate::server::{runtime, serve, serve_on};

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
    compare(
        c,
        "axum_echo",
        [
            ("no_layer", serve(echo())),
            ("no_op_layer", serve(echo().layer(tower::layer::layer_fn(NoOp)))),
            ("onelane", serve(echo().layer(GuardLayer::new(&GUARD)))),
            ("tower_concurrency_limit", serve(echo().layer(GlobalConcurrencyLimitLayer::new(1024)))),
        ],
    );
    // Every request held a permit, and all permits are released now.
    assert_eq!(GUARD.stats().held, 0);
}

pub(crate) fn axum_echo_watched(c: &mut Criterion) {
    let runtime = runtime();
    let watch = Watch::builder().start(runtime.handle()).expect("the watch starts");
    let watched = serve_on(runtime, echo().layer(WatchLayer::new()));
    compare(
        c,
        "axum_echo_watched",
        [
            ("unwatched", serve(echo())),
            ("no_op_layer", serve(echo().layer(tower::layer::layer_fn(NoOp)))),
            ("watched", watched),
        ],
    );
    assert_eq!(watch.stats().blocked, 0, "no request blocks");
}

fn compare<const N: usize>(c: &mut Criterion, name: &str, variants: [(&'static str, SocketAddr); N]) {
    let connect = |(variant, address)| (variant, Client::connect(address, "HTTP/1.1 200"));
    let mut clients: Vec<_> = variants.map(connect).into();
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    for (variant, client) in &mut clients {
        group.bench_function(*variant, |b| b.iter_custom(|requests| client.run(requests)));
    }
    group.finish();
    if is_measured() && is_selected(name) {
        print_ratios(name, &mut clients);
    }
}
