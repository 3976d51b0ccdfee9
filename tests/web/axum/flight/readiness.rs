//! Services behind the layer that are ready for a few requests only.

use axum::error_handling::HandleErrorLayer;
use axum::http::StatusCode;
use onelane::web::FlightOptions;
use onelane::web::axum::FlightLayer;
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;

use super::{Collapsed, Led, Site, numbered, part_of, run_of};
use support::http::{self, Client, Listening, Probe, eventually, serve};

/// Waiting requests do not reserve the capacity that the served request needs.
#[tokio::test]
async fn requests_that_wait_take_no_place_of_a_limit_behind_the_layer() {
    let (layer, probe) = (FlightLayer::new("limited"), Probe::new());
    let services = ServiceBuilder::new().layer(layer.clone()).layer(GlobalConcurrencyLimitLayer::new(2));
    let app = numbered(&probe, |run| run.to_string()).layer(services);
    let site = Site { address: serve(Listening::Plain, app).await, layer, probe };
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::sending(site.address, http::get("/")).await);
    }
    eventually("all requests wait", || site.layer.stats().waiting == 20).await;
    site.probe.release(20);
    for client in &mut clients {
        let response = client.response().await;
        assert!(matches!(part_of(&response), Led | Collapsed));
        assert_eq!(run_of(&response), 1);
    }
    assert_eq!((site.probe.started(), site.layer.stats().runs), (1, 1));
}

/// A run waits for the only place of the limit, and so does a request that is served alone.
#[tokio::test]
async fn run_begins_when_the_service_is_ready() {
    let (layer, probe) = (FlightLayer::new("limited").options(FlightOptions::new()), Probe::new());
    let services = ServiceBuilder::new().layer(layer.clone()).layer(GlobalConcurrencyLimitLayer::new(1));
    let app = numbered(&probe, |run| run.to_string()).layer(services);
    let site = Site { address: serve(Listening::Plain, app).await, layer, probe };
    let mut one = site.send(&[http::get("/one")]).await.remove(0);
    let mut other = Client::sending(site.address, http::get("/other")).await;
    eventually("the other run has begun", || site.layer.stats().running == 2).await;
    let mut alone = Client::sending(site.address, super::get_with("GET", "/", &[("cookie", "a=1")])).await;
    site.probe.release(1);
    assert_eq!(one.response().await.text(), "1");
    site.probe.release(1);
    eventually("the place is passed on", || site.probe.started() == 3).await;
    site.probe.release(1);
    let mut texts = [other.response().await.text().to_owned(), alone.response().await.text().to_owned()];
    texts.sort();
    assert_eq!((texts.as_slice(), site.probe.most_inside()), (&["2".to_owned(), "3".to_owned()][..], 1));
}

/// The service fails to become ready, and no request is at fault.
#[tokio::test]
async fn service_that_never_becomes_ready_is_an_error_of_the_call() {
    #[derive(Clone)]
    struct Broken;
    impl<R> tower::Service<R> for Broken {
        type Response = axum::response::Response;
        type Error = &'static str;
        type Future = std::future::Ready<Result<axum::response::Response, &'static str>>;

        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), &'static str>> {
            std::task::Poll::Ready(Err("broken"))
        }

        fn call(&mut self, _: R) -> Self::Future {
            unreachable!("the service is never ready")
        }
    }
    let layer = FlightLayer::new("broken");
    let services = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(async |error: &'static str| (StatusCode::BAD_GATEWAY, error)))
        .layer(layer.clone())
        .layer_fn(|_| Broken);
    let app = numbered(&Probe::open(), |run| run.to_string()).layer(services);
    let address = serve(Listening::Plain, app).await;
    for request in [http::get("/"), http::post_head("/", 0)] {
        let response = Client::sending(address, request).await.response().await;
        assert_eq!((response.status, response.text()), (502, "broken"));
    }
    assert_eq!((layer.stats().runs, layer.stats().running), (1, 0));
}
