//! One at a time, wherever the layer is added.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{any, delete, get, post, put};
use futures::future::join_all;
use onelane::EndpointGuard;
use onelane::guard::AcquireErrorKind;
use onelane::web::axum::GuardLayer;

use crate::axum::held_route;
use support::http::{self, Client, Listening, Probe, eventually, serve};

/// Long enough that two handlers overlap if nothing keeps them apart.
const MOMENT: Duration = Duration::from_millis(2);

fn visiting(probe: &Arc<Probe>) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Clone + use<> {
    let probe = Arc::clone(probe);
    move || {
        let probe = Arc::clone(&probe);
        Box::pin(async move { probe.visit_for(MOMENT).await })
    }
}

/// Sends requests to every route with every method at once: all are served, and never more than `most` at the same
/// time.
async fn all_are_served(app: Router, paths: &[String], probe: &Probe, most: usize) {
    let address = serve(Listening::Plain, app).await;
    let calls = paths.iter().flat_map(|path| ["GET", "POST", "PUT", "DELETE"].map(|method| (method, path)));
    let calls: Vec<_> = calls
        .map(async |(method, path)| {
            let mut client = Client::sending(address, http::request(method, path)).await;
            assert_eq!(client.response().await.status, 200, "{method} {path}");
        })
        .collect();
    let count = calls.len();
    join_all(calls).await;
    assert_eq!(probe.finished(), count);
    assert!(probe.most_inside() <= most, "{} were inside at once", probe.most_inside());
}

fn paths(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("/{i}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn router_layer_is_one_guard_over_all_routes_and_methods() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("all")), Probe::new());
    let paths = paths(20);
    let app = paths.iter().fold(Router::new(), |app, path| {
        let visit = visiting(&probe);
        app.route(path, get(visit.clone()).post(visit.clone()).put(visit.clone()).delete(visit))
    });
    all_are_served(app.layer(GuardLayer::new(&guard)), &paths, &probe, 1).await;
    assert_eq!(guard.stats().granted, 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn method_router_layer_is_one_guard_over_its_methods() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("methods")), Probe::new());
    let layer = GuardLayer::new(&guard);
    let paths = paths(5);
    let app = paths.iter().fold(Router::new(), |app, path| {
        let visit = visiting(&probe);
        let methods = get(visit.clone()).post(visit.clone()).put(visit.clone()).delete(visit);
        app.route(path, methods.layer(layer.clone()))
    });
    all_are_served(app, &paths, &probe, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn separate_layers_of_one_guard_share_it() {
    let (guard, probe) = (Arc::new(EndpointGuard::builder("apart").permits(3).build()), Probe::new());
    let visit = visiting(&probe);
    let nested = Router::new().route("/0", any(visit.clone())).route_layer(GuardLayer::new(&guard));
    let merged = Router::new().route("/1", any(visit.clone())).layer(GuardLayer::new(&guard));
    let methods = get(visit.clone()).layer(GuardLayer::new(&guard));
    let methods = methods.merge(post(visit.clone()).route_layer(GuardLayer::new(&guard)));
    let methods = methods.merge(put(visit.clone()).layer(GuardLayer::new(&guard)));
    let methods = methods.merge(delete(visit).layer(GuardLayer::new(&guard)));
    let app = Router::new().nest("/a", nested.clone()).nest("/b", nested).merge(merged).route("/2", methods);
    let paths = ["/a/0", "/b/0", "/1", "/2"].map(String::from);
    all_are_served(app, &paths, &probe, 3).await;
}

#[tokio::test]
async fn route_layer_leaves_unknown_paths_unguarded() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("route")), Probe::new());
    let visitor = Arc::clone(&probe);
    let app = Router::new().route("/", any(async move || visitor.visit().await));
    let address = serve(Listening::Plain, app.route_layer(GuardLayer::new(&guard))).await;
    let mut holder = Client::sending(address, http::get("/")).await;
    eventually("the handler runs", || probe.started() == 1).await;

    let mut stranger = Client::sending(address, http::get("/unknown")).await;
    assert_eq!(stranger.response().await.status, 404);

    probe.release(1);
    assert_eq!(holder.response().await.status, 200);
}

#[tokio::test]
async fn requests_are_served_in_the_order_of_their_arrival() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("order")), Probe::new());
    let address = serve(Listening::Plain, held_route(&guard, &probe)).await;
    let mut clients = Vec::new();
    for i in 0..5 {
        clients.push(Client::sending(address, http::get("/")).await);
        eventually("the request holds a permit or waits", || guard.stats().held + guard.stats().waiting == i + 1).await;
    }
    for (i, mut client) in clients.into_iter().enumerate() {
        eventually("its handler runs", || probe.started() == i + 1).await;
        probe.release(1);
        assert_eq!(client.response().await.text(), "done");
    }
    assert_eq!(probe.most_inside(), 1);
}

#[tokio::test]
async fn requests_pipelined_on_one_connection_are_all_served() {
    for listening in [Listening::Plain, Listening::Watched] {
        let (guard, probe) = (Arc::new(EndpointGuard::new("pipeline")), Probe::open());
        let address = serve(listening, held_route(&guard, &probe)).await;
        let pipeline = [http::get("/").into_bytes(), http::post("/", b"ten bytes!"), http::get("/").into_bytes()];
        let mut client = Client::sending(address, pipeline.concat()).await;
        for _ in 0..3 {
            assert_eq!(client.response().await.text(), "done", "{listening:?}");
        }
        assert_eq!(guard.stats().granted, 3);
    }
}

#[tokio::test]
async fn pipelined_requests_wait_behind_another_connection_and_are_served() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("pipeline")), Probe::new());
    let address = serve(Listening::Watched, held_route(&guard, &probe)).await;
    let mut holder = Client::sending(address, http::get("/")).await;
    eventually("the handler runs", || probe.started() == 1).await;
    let mut client = Client::sending(address, http::get("/").repeat(2)).await;
    eventually("the first request waits", || guard.stats().waiting == 1).await;

    probe.release(3);
    assert_eq!(holder.response().await.status, 200);
    assert_eq!(client.response().await.status, 200);
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn panicking_handler_admits_the_next_request() {
    let guard = Arc::new(EndpointGuard::new("panics"));
    let app = Router::new()
        .route("/panic", any(async || -> () { panic!("on purpose") }))
        .route("/", any(async || "served"))
        .layer(GuardLayer::new(&guard));
    let address = serve(Listening::Plain, app).await;
    let mut client = Client::sending(address, http::get("/panic")).await;
    assert!(client.rest().await.is_empty(), "the connection ends, as without a guard");
    let mut next = Client::sending(address, http::get("/")).await;
    assert_eq!(next.response().await.text(), "served");
    eventually("no permit is held", || guard.stats().held == 0).await;
    let stats = guard.stats();
    assert_eq!((stats.panicked, stats.detached, stats.finished_detached), (1, 0, 0));
}

#[tokio::test]
async fn handler_that_acquires_its_own_guard_is_refused_at_once() {
    let guard = Arc::new(EndpointGuard::new("self"));
    let again = Arc::clone(&guard);
    let handler = async move || match again.acquire().await {
        Ok(_) => panic!("the handler holds the only permit"),
        Err(error) => {
            assert_eq!(error, AcquireErrorKind::WouldDeadlock);
            Err::<(), _>(error)
        }
    };
    let app = Router::new().route("/", get(handler)).layer(GuardLayer::new(&guard));
    let address = serve(Listening::Plain, app).await;
    let response = Client::sending(address, http::get("/")).await.response().await;
    assert_eq!(
        (response.status, response.json()["type"].as_str()),
        (500, Some("https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock"))
    );
    eventually("no permit is held", || guard.stats().held == 0).await;
}

#[tokio::test]
async fn layer_added_twice_is_refused_instead_of_hanging() {
    let guard = Arc::new(EndpointGuard::new("twice"));
    let app = Router::new()
        .route("/", get(async || StatusCode::OK).layer(GuardLayer::new(&guard)))
        .layer(GuardLayer::new(&guard));
    let address = serve(Listening::Plain, app).await;
    for _ in 0..2 {
        let response = Client::sending(address, http::get("/")).await.response().await;
        assert_eq!(response.status, 500);
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        assert_eq!(response.json()["type"], "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock");
    }
}

#[tokio::test]
async fn another_guard_inside_is_fine() {
    let (outer, inner) = (Arc::new(EndpointGuard::new("outer")), Arc::new(EndpointGuard::new("inner")));
    let third = Arc::new(EndpointGuard::new("third"));
    let by_hand = Arc::clone(&third);
    let handler = async move || by_hand.run(async { "inside three" }).await;
    let app = Router::new().route("/", get(handler).layer(GuardLayer::new(&inner))).layer(GuardLayer::new(&outer));
    let address = serve(Listening::Plain, app).await;
    assert_eq!(Client::sending(address, http::get("/")).await.response().await.text(), "inside three");
    assert_eq!([&outer, &inner, &third].map(|guard| guard.stats().granted), [1; 3]);
}
