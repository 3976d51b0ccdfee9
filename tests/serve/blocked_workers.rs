//! Routes that block a worker of a server with a host of its own watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::web;
use axum::Router;
use axum::routing::get;
use onelane::web::ServeConfig;
use onelane::web::actix::WatchMiddleware;
use onelane::web::axum::WatchLayer;
use support::http::{self, Client};
use support::waiting::Gate;
use tower_layer::layer_fn;

use crate::{FRAMEWORKS, Framework, TestServer, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_that_blocks_a_worker_is_in_the_status_of_the_host_and_is_drained() {
    for framework in FRAMEWORKS {
        let gate = Gate::default();
        let wait = Arc::new(gate.wait());
        let server = match framework {
            Framework::Axum => {
                let app = Router::new().route("/report/{id}", get(async move || wait.block())).layer(WatchLayer::new());
                TestServer::axum(app, ServeConfig::new()).await
            }
            Framework::Actix => {
                let routes = move |app: &mut web::ServiceConfig| {
                    let wait = Arc::clone(&wait);
                    let block = move || {
                        let wait = Arc::clone(&wait);
                        async move {
                            wait.block();
                            "done"
                        }
                    };
                    let route = web::resource("/{id}").wrap(WatchMiddleware::new()).route(web::get().to(block));
                    app.service(web::scope("/report").service(route));
                };
                TestServer::actix(routes, ServeConfig::new()).await
            }
        };
        let mut client = Client::sending(server.address, http::get("/report/7")).await;
        let host = server.host.clone();
        eventually("the worker is reported", || {
            host.status().blocked().iter().any(|blocked| blocked.label() == Some("GET /report/{id}"))
        })
        .await;
        let stopping = tokio::spawn(server.stop());
        eventually("the host drains", || host.status().phase().is_stopping()).await;
        gate.open();
        let response = client.rest().await;
        assert!(response.starts_with(b"HTTP/1.1 200 OK"), "{framework:?} {:?}", String::from_utf8_lossy(&response));
        let (report, _) = stopping.await.unwrap();
        assert!(report.is_clean(), "{framework:?} {report:?}");
        eventually("the watch has ended", || host.status().blocked().is_empty()).await;
    }
}

/// axum builds the routes of a `Router` that it has not been given the state of for each request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_of_a_router_are_applied_once() {
    let applied = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&applied);
    let layer = layer_fn(move |service| {
        count.fetch_add(1, Ordering::SeqCst);
        service
    });
    let app = Router::new().route("/", get(async || "hello").layer(layer));
    let server = TestServer::axum(app, ServeConfig::new()).await;
    let mut counts = Vec::new();
    for _ in 0..5 {
        Client::sending(server.address, http::get("/")).await.until("hello").await;
        counts.push(applied.load(Ordering::SeqCst));
    }
    assert!(counts[0] > 0 && counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    let _ = server.stop().await;
}
