//! Layers of tower-http around and behind the axum layers, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use axum::routing::{any, post};
use http_body_util::Limited;
use onelane::EndpointGuard;
use onelane::web::axum::{FlightLayer, GuardLayer};
use tokio::time::sleep;
use tower::ServiceBuilder;
use tower_http::cors::CorsLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use support::http::{self, Client, Listening, Probe, eventually, serve};

fn timeout() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_millis(50))
}

/// A preflight request, a request that takes too long, and one that is served.
async fn requests_pass(layer: impl FnOnce(Router) -> Router) {
    let slow = async || {
        sleep(Duration::from_secs(60)).await;
        "too late"
    };
    let app = layer(Router::new().route("/", any(async || "served")).route("/slow", any(slow)));
    let mut client = Client::connect(serve(Listening::Plain, app).await).await;
    for (method, target, status, body) in
        [("OPTIONS", "/", 200, ""), ("GET", "/slow", 504, ""), ("GET", "/", 200, "served")]
    {
        client.send(http::request(method, target)).await;
        let response = client.response().await;
        assert_eq!((response.status, response.text()), (status, body));
        assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    }
}

#[tokio::test]
async fn cors_and_timeout_work_around_and_behind_the_guard_layer() {
    let guard = Arc::new(EndpointGuard::builder("tower-http").permits(2).build());
    let layers = || ServiceBuilder::new().layer(CorsLayer::permissive()).layer(timeout());
    requests_pass(|app| app.layer(layers().layer(GuardLayer::new(&guard)))).await;
    assert_eq!(guard.stats().granted, 2);
    let behind = ServiceBuilder::new().layer(GuardLayer::new(&guard)).layer(CorsLayer::permissive()).layer(timeout());
    requests_pass(|app| app.layer(behind)).await;
    assert_eq!(guard.stats().granted, 5);
}

#[tokio::test]
async fn cors_and_timeout_work_around_and_behind_the_flight_layer() {
    let flight = FlightLayer::new("tower-http");
    let layers = || ServiceBuilder::new().layer(CorsLayer::permissive()).layer(timeout());
    requests_pass(|app| app.layer(layers().layer(flight.clone()))).await;
    let behind = ServiceBuilder::new().layer(flight.clone()).layer(CorsLayer::permissive()).layer(timeout());
    requests_pass(|app| app.layer(behind)).await;
    assert_eq!(flight.stats().runs, 4);
}

/// An app that echoes, behind a guard behind a limit of five bytes for the body.
fn limited_echo(guard: &Arc<EndpointGuard>, probe: &Arc<Probe>) -> Router {
    let probe = Arc::clone(probe);
    let echo = async move |body: Bytes| {
        probe.visit().await;
        body
    };
    let layers = ServiceBuilder::new().layer(RequestBodyLimitLayer::new(5)).layer(GuardLayer::new(guard));
    Router::new().route("/", post(echo)).layer(layers)
}

#[tokio::test]
async fn guard_behind_a_body_limit_passes_bodies_on_and_the_limit_applies() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("limited")), Probe::open());
    let address = serve(Listening::Watched, limited_echo(&guard, &probe)).await;
    let mut client = Client::sending(address, http::post("/", b"fits!")).await;
    assert_eq!(client.response().await.text(), "fits!");
    client.send(http::post_chunked("/", &[b"is ", b"too ", b"long"])).await;
    assert_eq!(client.response().await.status, 413);
    let mut client = Client::sending(address, http::post("/", b"is too long")).await;
    assert_eq!(client.response().await.status, 413);
    assert_eq!((guard.stats().granted, guard.stats().held), (2, 0), "a length that is too long never arrives");
}

#[tokio::test]
async fn limited_body_is_read_ahead_while_the_request_waits() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("limited")), Probe::new());
    let address = serve(Listening::Plain, limited_echo(&guard, &probe)).await;
    let mut holder = Client::sending(address, http::post("/", b"first")).await;
    eventually("it runs", || probe.started() == 1).await;
    let mut waiter = Client::sending(address, http::post_chunked("/", &[b"ne", b"xt"])).await;
    eventually("the next request waits", || guard.stats().waiting == 1).await;
    let mut empty = Client::sending(address, http::post("/", b"")).await;
    eventually("a request without a body waits", || guard.stats().waiting == 2).await;
    let mut disconnecting = Client::sending(address, http::post("/", b"left")).await;
    eventually("one more request waits", || guard.stats().waiting == 3).await;
    disconnecting.disconnect(http::Disconnect::Fin).await;
    eventually("it leaves", || guard.stats().waiting == 2).await;
    probe.release(3);
    assert_eq!(holder.response().await.text(), "first");
    assert_eq!(waiter.response().await.text(), "next");
    assert_eq!(empty.response().await.text(), "");
}

/// A body of any type, as any layer may pass it on.
#[tokio::test]
async fn axum_layers_accept_every_request_body() {
    let guard = Arc::new(EndpointGuard::new("any body"));
    let app = Router::new().route("/", post(async |body: String| body));
    let app = app
        .layer(
            ServiceBuilder::new()
                .map_request(|request: Request<Body>| request.map(|body| Box::pin(Limited::new(body, 100))))
                .layer(FlightLayer::new("any body")),
        )
        .layer(
            ServiceBuilder::new()
                .map_request(|request: Request<Body>| request.map(|body| Limited::new(body, 100)))
                .layer(GuardLayer::new(&guard)),
        );
    let address = serve(Listening::Plain, app).await;
    let mut client = Client::sending(address, http::post("/", b"any body")).await;
    assert_eq!(client.response().await.text(), "any body");
    assert_eq!(guard.stats().granted, 1);
}
