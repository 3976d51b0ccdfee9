//! The middleware around apps, scopes, resources and routes, and on different runtimes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{get, resource, route, scope};
use actix_web::{App, HttpServer, test};
use futures::future::join_all;
use onelane::web::FlightOptions;

use super::{ALONE, COLLAPSED, LED, Seen, Shared, numbered};
use support::actix::Server;
use support::client::eventually;

/// actix-web's router changes the request in place while it looks for the handler, and an app panics if a clone of
/// the request exists then.
#[tokio::test]
async fn around_an_app_requests_share_by_path_and_find_their_parameters() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::serve({
        let shared = shared.clone();
        move || {
            let app = move || App::new().wrap(shared.flights.clone()).configure(shared.items("/of/{tenant}"));
            let server = HttpServer::new(app).workers(2).disable_signals().h1_allow_half_closed(false);
            let server = server.bind("127.0.0.1:0").expect("a port is free");
            (server.addrs()[0], server.run())
        }
    });
    shared.items_are_shared_by_path(&server).await;
    // Requests without a handler share too.
    let (first, second) = shared.unworked_two(&server, "/nowhere").await;
    assert_eq!((first.status, second.status), (404, 404));
}

#[tokio::test]
async fn around_a_scope_with_a_parameter_requests_share_by_path_and_find_their_parameters() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start({
        let shared = shared.clone();
        move |config| {
            let inner = scope("/of").wrap(shared.flights.clone()).configure(shared.items("/{tenant}"));
            config.service(inner);
        }
    });
    shared.items_are_shared_by_path(&server).await;
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start({
        let shared = shared.clone();
        move |config| {
            let inner = scope("/of/{tenant}").wrap(shared.flights.clone()).configure(shared.items(""));
            config.service(inner);
        }
    });
    shared.items_are_shared_by_path(&server).await;
}

#[tokio::test]
async fn around_a_resource_or_a_route_requests_share_by_path_and_find_their_parameters() {
    for on_route in [false, true] {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start({
            let shared = shared.clone();
            move |config| {
                let path = "/of/{tenant}/{kind}/{id}";
                let handler = get().to(shared.item());
                if on_route {
                    config.route(path, handler.wrap(shared.flights.clone()));
                } else {
                    config.service(resource(path).wrap(shared.flights.clone()).route(handler));
                }
            }
        });
        shared.items_are_shared_by_path(&server).await;
    }
}

/// An inner middleware has exclusive access to the request, and may keep parts of it until it calls the next
/// service.
#[tokio::test]
async fn inner_and_outer_middlewares_see_the_requests_they_should() {
    let (outer, inner) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let shared = Shared::new(FlightOptions::new());
    let server = Server::start({
        let (shared, outer, inner) = (shared.clone(), Arc::clone(&outer), Arc::clone(&inner));
        move |config| {
            let counting = |counter: &Arc<AtomicUsize>| {
                let counter = Arc::clone(counter);
                move |request: ServiceRequest, next: Next<BoxBody>| {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let path = request.path().to_owned();
                    let response = next.call(request);
                    async move {
                        let response: ServiceResponse<_> = response.await?;
                        assert_eq!(response.request().path(), path, "the response belongs to its own request");
                        Ok(response)
                    }
                }
            };
            let counted = scope("")
                .wrap(from_fn(counting(&inner)))
                .wrap(shared.flights.clone())
                .default_service(route().to(shared.handler(numbered)));
            config.service(scope("").wrap(from_fn(counting(&outer))).service(counted));
        }
    });
    let calls: Vec<_> = (0..4).map(|_| server.get("/")).collect();
    eventually("all requests wait", || shared.flights.stats().waiting == 4).await;
    shared.work.let_finish(1);
    for response in calls {
        assert_eq!(response.await.expect("no panic").status(), 200);
    }
    assert_eq!((outer.load(Ordering::SeqCst), inner.load(Ordering::SeqCst)), (4, 1));
}

#[tokio::test]
async fn on_a_bare_tokio_runtime_requests_are_served_alone() {
    let shared = Shared::new(FlightOptions::new());
    shared.work.let_finish(3);
    let app = App::new().service(resource("/").wrap(shared.flights.clone()).route(get().to(shared.handler(numbered))));
    let app = test::init_service(app).await;
    let request = || test::TestRequest::get().uri("/").to_request();
    let responses = join_all((0..3).map(|_| test::call_service(&app, request()))).await;
    for response in responses {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers().get("cache-status").map(|value| value.as_bytes()), ALONE.map(str::as_bytes));
    }
    assert_eq!((shared.work.finished(), shared.flights.stats().runs), (3, 0));
}

/// actix-web's own test macro runs a system, so requests share as they do on a server.
#[actix_web::test]
async fn in_an_actix_test_requests_share() {
    let shared = Shared::new(FlightOptions::new());
    shared.work.let_finish(1);
    let app = App::new().service(resource("/").wrap(shared.flights.clone()).route(get().to(shared.handler(numbered))));
    let app = test::init_service(app).await;
    let request = || test::TestRequest::get().uri("/").to_request();
    let responses = join_all((0..3).map(|_| test::call_service(&app, request()))).await;
    for response in responses {
        assert_eq!(test::read_body(response).await, "1");
    }
    assert_eq!((shared.flights.stats().runs, shared.flights.stats().shared), (1, 2));
}

/// actix-web also runs on `#[tokio::main]`, without its own system.
#[tokio::test]
async fn on_a_server_in_a_tokio_runtime_requests_share() {
    let shared = Shared::new(FlightOptions::new());
    let server = Server::serve_in_tokio({
        let app = shared.app(numbered);
        move || {
            let server = HttpServer::new(move || App::new().configure(app.clone())).workers(2).disable_signals();
            let server = server.bind("127.0.0.1:0").expect("a port is free");
            (server.addrs()[0], server.run())
        }
    });
    let (first, second) = shared.two(&server, "/", "/").await;
    assert_eq!((first, second), (Seen::new(200, LED, "1"), Seen::new(200, COLLAPSED, "1")));
}
