//! A request that waited gets its body unchanged.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use http_body::Body as _;
use http_body_util::BodyExt;
use onelane::EndpointGuard;
use onelane::web::GuardOptions;
use onelane::web::axum::GuardLayer;
use serde_json::{Value, json};

use support::http::{self, Client, Listening, Probe, bytes, eventually, serve};

/// Describes what it finds in its body.
async fn describe(headers: HeaderMap, body: Body) -> Json<Value> {
    let (hint, ended) = (body.size_hint(), body.is_end_stream());
    let collected = body.collect().await.expect("the body is complete");
    let sum = collected.trailers().and_then(|trailers| trailers.get("x-sum")?.to_str().ok()).map(String::from);
    let bytes = collected.to_bytes();
    Json(json!({
        "length": bytes.len(),
        "intact": bytes == http::bytes(bytes.len()),
        "declared": headers.get("content-length").and_then(|length| length.to_str().ok()),
        "lower": hint.lower(),
        "upper": hint.upper(),
        "ended": ended,
        "trailer": sum,
    }))
}

/// A request that has to wait until `waited` returns `true`.
struct Queue {
    guard: Arc<EndpointGuard>,
    probe: Arc<Probe>,
    address: SocketAddr,
    holder: Client,
}

impl Queue {
    async fn with(options: GuardOptions) -> Self {
        let (guard, probe) = (Arc::new(EndpointGuard::new("body")), Probe::new());
        let holding = Arc::clone(&probe);
        let app = Router::new()
            .route("/hold", post(async move || holding.visit().await))
            .route("/", post(describe))
            .layer(GuardLayer::new(&guard).options(options));
        let address = serve(Listening::Plain, app).await;
        let holder = Client::sending(address, http::post("/hold", b"")).await;
        eventually("a handler runs", || probe.started() == 1).await;
        Self { guard, probe, address, holder }
    }

    async fn response_to(mut self, request: &[u8]) -> Value {
        let mut waiter = Client::connect(self.address).await;
        // Both at once: what is not read ahead may not fit into the kernel's buffers before the permit is granted.
        tokio::join!(waiter.send(request), async {
            eventually("the request waits", || self.guard.stats().waiting == 1).await;
            self.probe.release(1);
            assert_eq!(self.holder.response().await.status, 200);
        });
        waiter.response().await.json()
    }
}

async fn response_to(request: &[u8]) -> Value {
    Queue::with(GuardOptions::new()).await.response_to(request).await
}

#[tokio::test]
async fn body_with_a_length_is_intact_after_waiting() {
    for length in [0, 1, 4096, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 200_000] {
        let found = response_to(&http::post("/", &bytes(length))).await;
        let declared = length.to_string();
        let expected = json!({
            "length": length, "intact": true, "declared": declared, "lower": length, "upper": length,
            "ended": length == 0, "trailer": null,
        });
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn body_in_chunks_with_a_trailer_is_intact_after_waiting() {
    let whole = bytes(30_000);
    let found = response_to(&http::post_chunked("/", &[&whole[..1], &whole[1..9000], &whole[9000..]])).await;
    assert_eq!((&found["length"], &found["intact"], &found["trailer"]), (&json!(30_000), &json!(true), &json!("42")));
}

#[tokio::test]
async fn chunked_body_beyond_the_limit_is_intact_after_waiting() {
    let whole = bytes(150_000);
    let chunks: Vec<_> = whole.chunks(10_000).collect();
    let found = response_to(&http::post_chunked("/", &chunks)).await;
    assert_eq!((&found["length"], &found["intact"], &found["trailer"]), (&json!(150_000), &json!(true), &json!("42")));
    assert_eq!(found["upper"], Value::Null, "its length is not known");
}

#[tokio::test]
async fn body_is_intact_if_nothing_is_read_ahead() {
    let queue = Queue::with(GuardOptions::new().read_ahead(0)).await;
    let found = queue.response_to(&http::post("/", &bytes(100_000))).await;
    assert_eq!((&found["length"], &found["intact"]), (&json!(100_000), &json!(true)));
}

#[tokio::test]
async fn client_that_was_sent_100_continue_sends_its_body_after_the_permit_is_granted_too() {
    let Queue { guard, probe, address, mut holder } = Queue::with(GuardOptions::new()).await;
    let head = "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n";
    let mut waiter = Client::sending(address, head).await;
    assert!(waiter.head().await.starts_with("HTTP/1.1 100"));
    let whole = bytes(1000);
    waiter.send(&whole[..300]).await;
    assert_eq!(guard.stats().waiting, 1);
    probe.release(1);
    assert_eq!(holder.response().await.status, 200);
    waiter.send(&whole[300..]).await;
    let found = waiter.response().await.json();
    assert_eq!((&found["length"], &found["intact"]), (&json!(1000), &json!(true)));
}
