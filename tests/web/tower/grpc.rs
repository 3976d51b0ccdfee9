//! Refusals of gRPC calls, with tonic as server and client.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body::Body;
use http_body_util::Empty;
use onelane::guard::Queue;
use onelane::web::tower::GuardLayer;
use onelane::web::{GuardOptions, axum};
use onelane::{EndpointGuard, KeyedGuard};
use tokio::net::TcpListener;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::health_reporter;

use crate::axum::http2::connect;
use crate::tower::{call as call_layer, held, layer, request};
use support::http::{Client, Probe, post};

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("the listener is bound");
    (listener, address)
}

/// Serves tonic's health service behind `layer`.
async fn serve(layer: GuardLayer) -> SocketAddr {
    let (listener, address) = listen().await;
    let (_, health) = health_reporter();
    let server = Server::builder().layer(layer).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

/// Calls the health service, and returns its status.
async fn call_as(address: SocketAddr, user: Option<&'static str>) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is a URI");
    let mut client = HealthClient::new(endpoint.connect().await.expect("the server listens"));
    let mut request = Request::new(HealthCheckRequest { service: String::new() });
    if let Some(user) = user {
        request.metadata_mut().insert("x-user", user.parse().expect("a user's name is ASCII"));
    }
    client.check(request).await.map(drop)
}

async fn call(address: SocketAddr) -> Result<(), Status> {
    call_as(address, None).await
}

fn pushback(metadata: &MetadataMap) -> Option<&str> {
    metadata.get("grpc-retry-pushback-ms").map(|value| value.to_str().expect("the value is ASCII"))
}

fn user_of(head: &Parts) -> Option<String> {
    head.headers.get("x-user")?.to_str().ok().map(str::to_owned)
}

#[tokio::test]
async fn busy_guard_is_unavailable_and_says_when_to_retry() {
    let guard = Arc::new(EndpointGuard::builder("health").queue(Queue::Reject).build());
    let address = serve(GuardLayer::new(&guard)).await;
    call(address).await.expect("the guard is free");

    let permit = guard.try_acquire().expect("the guard is free");
    let status = call(address).await.expect_err("the guard is busy");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "Another request is being served here. Try again later.");
    assert_eq!(pushback(status.metadata()), Some("1000"));
    assert_eq!(status.metadata().get("retry-after").map(|value| value.as_bytes()), Some(&b"1"[..]));

    drop(permit);
    call(address).await.expect("the guard is free again");
}

#[tokio::test]
async fn closed_guard_is_unavailable_without_a_time_to_retry() {
    let guard = Arc::new(EndpointGuard::new("health"));
    let address = serve(GuardLayer::new(&guard)).await;
    guard.close();
    let status = call(address).await.expect_err("the guard is closed");
    assert_eq!((status.code(), pushback(status.metadata())), (Code::Unavailable, None));
}

#[tokio::test]
async fn busy_key_of_a_client_is_exhausted_and_a_missing_key_is_an_invalid_argument() {
    let guard = Arc::new(KeyedGuard::<String>::builder("user").queue(Queue::Reject).build());
    let address = serve(GuardLayer::keyed(&guard, user_of)).await;

    let _permit = guard.try_acquire("ann".to_owned()).expect("the key is free");
    let status = call_as(address, Some("ann")).await.expect_err("the key is busy");
    assert_eq!((status.code(), pushback(status.metadata())), (Code::ResourceExhausted, Some("1000")));
    call_as(address, Some("ben")).await.expect("another key is free");

    let status = call(address).await.expect_err("the request has no key");
    assert_eq!((status.code(), pushback(status.metadata())), (Code::InvalidArgument, None));
}

#[tokio::test]
async fn status_follows_the_refusal_that_the_app_changed() {
    let guard = Arc::new(EndpointGuard::builder("health").queue(Queue::Reject).build());
    let options = GuardOptions::new().on_refusal(|refusal, _| {
        let refusal = refusal.with_status(409).with_detail("100 % belegt: später").with_retry_after(None);
        refusal.with_header("x-lane", "health").with_body("text/plain", "not for gRPC clients")
    });
    let address = serve(GuardLayer::new(&guard).options(options)).await;
    let _permit = guard.try_acquire().expect("the guard is free");
    let status = call(address).await.expect_err("the guard is busy");
    assert_eq!((status.code(), status.message()), (Code::Aborted, "100 % belegt: später"));
    assert_eq!(status.metadata().get("x-lane").map(|value| value.as_bytes()), Some(&b"health"[..]));
    assert_eq!(pushback(status.metadata()), None);
}

#[tokio::test]
async fn grpc_service_in_axum_is_refused_with_a_status_and_other_routes_with_a_problem() {
    let guard = Arc::new(EndpointGuard::builder("health").queue(Queue::Reject).build());
    let (listener, address) = listen().await;
    let (_, health) = health_reporter();
    let app = Routes::new(health).into_axum_router().layer(axum::GuardLayer::new(&guard));
    tokio::spawn(async { ::axum::serve(listener, app).await });

    call(address).await.expect("the guard is free");
    let _permit = guard.try_acquire().expect("the guard is free");
    let status = call(address).await.expect_err("the guard is busy");
    assert_eq!((status.code(), pushback(status.metadata())), (Code::Unavailable, Some("1000")));

    let mut client = Client::sending(address, post("/anything", b"hello")).await;
    let response = client.response().await;
    assert_eq!((response.status, response.header("content-type")), (503, Some("application/problem+json")));
    assert_eq!(response.json()["status"], 503);
}

/// Clients other than tonic read a status beside the headers only if the stream ends with them.
#[tokio::test]
async fn stream_ends_with_the_headers_of_a_refusal() {
    let guard = Arc::new(EndpointGuard::builder("health").queue(Queue::Reject).build());
    let tower = serve(GuardLayer::new(&guard)).await;
    let (listener, in_axum) = listen().await;
    let (_, health) = health_reporter();
    let app = Routes::new(health).into_axum_router().layer(axum::GuardLayer::new(&guard));
    tokio::spawn(async { ::axum::serve(listener, app).await });
    let _permit = guard.try_acquire().expect("the guard is free");
    for address in [tower, in_axum] {
        let (mut requests, _connection) = connect(address).await;
        let request = ::http::Request::post("http://test/grpc.health.v1.Health/Check");
        let request = request.header(CONTENT_TYPE, "application/grpc").body(Empty::<Bytes>::new());
        let response = requests.send_request(request.expect("the request is valid")).await;
        let response = response.expect("the server responds");
        assert_eq!(response.headers()["grpc-status"], "14");
        assert!(response.body().is_end_stream(), "{response:?}");
    }
}

#[tokio::test]
async fn content_type_decides_which_form_a_refusal_has() {
    let guard = Arc::new(EndpointGuard::builder("health").queue(Queue::Reject).build());
    let _permit = guard.try_acquire().expect("the guard is free");
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc-web", "Application/gRPC; a=b"]
    {
        let mut request = request();
        request.headers_mut().insert(CONTENT_TYPE, content_type.parse().expect("the value is ASCII"));
        let response = call_layer(&layer(&guard), held(&Probe::new()), request).await.expect("a refusal is a response");
        let header = |name: &str| response.headers().get(name).map(|value| value.as_bytes());
        assert_eq!((response.status().as_u16(), header("content-type")), (200, Some(content_type.as_bytes())));
        assert_eq!(header("grpc-status"), Some(&b"14"[..]), "{content_type}");
        // A client takes the answer for a status only if it has no body.
        assert!(response.body().is_end_stream(), "{content_type}");
    }
    for content_type in ["application/grpcweb", "application/json", "text/plain; a=application/grpc", ""] {
        let mut request = request();
        request.headers_mut().insert(CONTENT_TYPE, content_type.parse().expect("the value is ASCII"));
        let response = call_layer(&layer(&guard), held(&Probe::new()), request).await.expect("a refusal is a response");
        assert_eq!(response.status(), 503, "{content_type}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{content_type}");
        assert!(!response.headers().contains_key("grpc-status"), "{content_type}");
    }
}
