//! Layers of tower-http around and behind the tower layers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use onelane::EndpointGuard;
use onelane::web::tower::{FlightLayer, GuardBody, GuardLayer, GuardRequestBody};
use tokio::time::sleep;
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::cors::CorsLayer;
use tower_http::timeout::TimeoutLayer;

const LIMIT: Duration = Duration::from_secs(1);

/// Responds at once, or only after the time limit if the target is `/slow`.
async fn handler<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/slow" {
        sleep(2 * LIMIT).await;
    }
    Ok(Response::new(Full::from("served")))
}

fn timeout() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, LIMIT)
}

fn request(method: Method, target: &str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(target).body(Full::default()).expect("the request is valid")
}

/// Sends a preflight request, a request that takes too long, and one that is served.
async fn requests_pass<S, R>(service: S)
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error = Infallible> + Clone,
    R: Body<Data = Bytes>,
    R::Error: std::fmt::Debug,
{
    let mut responses = Vec::new();
    for (method, target) in [(Method::OPTIONS, "/"), (Method::GET, "/slow"), (Method::GET, "/")] {
        let response = service.clone().oneshot(request(method, target)).await.expect("the service responds");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("the body is complete").to_bytes();
        responses.push((head.status.as_u16(), head.headers.contains_key("access-control-allow-origin"), body));
    }
    let whole = |body: &'static str| Bytes::from(body);
    assert_eq!(responses, [(200, true, whole("")), (504, true, whole("")), (200, true, whole("served"))]);
}

#[tokio::test(start_paused = true)]
async fn cors_and_timeout_work_around_and_behind_the_guard_layer() {
    // The request that takes too long continues without its client.
    let guard = Arc::new(EndpointGuard::builder("tower-http").permits(2).build());
    let layers = || ServiceBuilder::new().layer(CorsLayer::permissive()).layer(timeout());
    requests_pass(layers().layer(GuardLayer::new(&guard)).service(service_fn(handler))).await;
    assert_eq!(guard.stats().granted, 2, "the guard is behind the layer that responds to preflight requests");
    let behind = ServiceBuilder::new().layer(GuardLayer::new(&guard)).layer(CorsLayer::permissive()).layer(timeout());
    requests_pass(behind.service(service_fn(handler))).await;
    assert_eq!(guard.stats().granted, 5);
}

#[tokio::test(start_paused = true)]
async fn cors_and_timeout_work_around_and_behind_the_flight_layer() {
    let flight = FlightLayer::new("tower-http");
    let layers = || ServiceBuilder::new().layer(CorsLayer::permissive()).layer(timeout());
    requests_pass(layers().layer(flight.clone()).service(service_fn(handler))).await;
    assert_eq!(flight.stats().runs, 2);
    let behind = ServiceBuilder::new().layer(flight.clone()).layer(CorsLayer::permissive()).layer(timeout());
    requests_pass(behind.service(service_fn(handler))).await;
    assert_eq!(flight.stats().runs, 4, "an OPTIONS request is served alone");
}

#[tokio::test]
async fn default_body_is_the_default_of_the_wrapped_body() {
    #[derive(Debug)]
    struct Greeting(Full<Bytes>);
    impl Default for Greeting {
        fn default() -> Self {
            Self(Full::from("hello"))
        }
    }
    impl Body for Greeting {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
            std::pin::Pin::new(&mut self.0).poll_frame(cx)
        }
    }
    let request = GuardRequestBody::<Greeting>::default().collect().await.expect("the body is complete");
    assert_eq!(request.to_bytes(), "hello");
    let body = GuardBody::<Greeting>::default().collect().await.expect("the body is complete");
    assert_eq!(body.to_bytes(), "hello");
}
