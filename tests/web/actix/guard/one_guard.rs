//! One guard over resources, methods and workers.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use actix_web::web::{delete, get, post, put, resource, route, scope};
use futures::future::join_all;
use onelane::EndpointGuard;
use onelane::web::GuardOptions;
use onelane::web::actix::GuardMiddleware;
use reqwest::Method;

use super::guarded;
use support::actix::{Server, Work, lock};
use support::client::web_client;

#[tokio::test]
async fn over_many_resources_methods_and_workers_admits_one_at_a_time() {
    let guard = Arc::new(EndpointGuard::new("shared"));
    let work = Arc::new(Work::default());
    work.let_finish(1000);
    let seen: Arc<Mutex<HashSet<ThreadId>>> = Arc::default();
    let server = Server::start({
        let (guard, work, seen) = (Arc::clone(&guard), Arc::clone(&work), Arc::clone(&seen));
        move |config| {
            let handler = {
                let (work, seen) = (Arc::clone(&work), Arc::clone(&seen));
                move || {
                    let (work, seen) = (Arc::clone(&work), Arc::clone(&seen));
                    async move {
                        lock(&seen).insert(thread::current().id());
                        work.run().await;
                        "done"
                    }
                }
            };
            let middleware = || GuardMiddleware::new(&guard);
            config
                .service(
                    resource("/one")
                        .wrap(middleware())
                        .route(get().to(handler.clone()))
                        .route(post().to(handler.clone())),
                )
                .service(scope("/scope").wrap(middleware()).route("/inner", route().to(handler.clone())))
                .route("/route", get().to(handler.clone()).wrap(middleware()));
            for i in 0..20 {
                let routes = [get(), post(), put(), delete()].map(|route| route.to(handler.clone()));
                let many = resource(&*format!("/many/{i}")).wrap(middleware());
                config.service(routes.into_iter().fold(many, |many, route| many.route(route)));
            }
        }
    });
    let mut calls: Vec<_> =
        [(Method::GET, "/one"), (Method::POST, "/one"), (Method::PUT, "/scope/inner"), (Method::GET, "/route")]
            .map(|(method, path)| (method, path.to_owned()))
            .into();
    for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE] {
        calls.extend((0..20).map(|i| (method.clone(), format!("/many/{i}"))));
    }
    let responses =
        join_all(calls.iter().map(|(method, path)| web_client().request(method.clone(), server.url(path)).send()));
    for response in responses.await {
        assert_eq!(response.expect("the server responds").status(), 200);
    }
    assert_eq!((work.finished(), work.most_inside()), (84, 1));
    assert_eq!(lock(&seen).len(), 2, "both workers served requests");
    let stats = guard.stats();
    assert_eq!((stats.granted, stats.held, stats.waiting, stats.refused, stats.cancelled), (84, 0, 0, 0, 0));
    assert!(stats.queued > 0, "no request had to wait, so the test proved nothing");
}

#[tokio::test]
async fn around_a_whole_scope_in_a_static_admits_one_at_a_time() {
    static GUARD: EndpointGuard = EndpointGuard::new("app");
    let work = Arc::new(Work::default());
    work.let_finish(1000);
    let server = Server::start(guarded(&GUARD, GuardOptions::new(), &work));
    let responses = join_all((0..20).map(|_| web_client().post(server.url("/")).send()));
    for response in responses.await {
        assert_eq!(response.expect("the server responds").status(), 200);
    }
    assert_eq!((work.finished(), work.most_inside()), (20, 1));
    assert_eq!((GUARD.stats().granted, GUARD.stats().held), (20, 0));
}
