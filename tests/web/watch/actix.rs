//! The watch middleware of actix-web, on servers with two workers.

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Service, ServiceRequest, Transform, fn_service};
use actix_web::test::TestRequest;
use actix_web::web::{self, Query, ServiceConfig};
use actix_web::{App, Error, HttpResponse, HttpServer, Resource};
use onelane::web::actix::{GuardMiddleware, WatchMiddleware, blocking_handler, cpu_handler, process_handler};
use onelane::{EndpointGuard, ProcessPool, run_blocking};
use support::actix::Server;
use support::http::Probe;
use support::inbox::{Inbox, THRESHOLD};
use support::waiting::{Gate, MS, Wait, spin_until};

use super::Site;
use crate::processes::work::{FileGate, wait_at_gate};

/// Serves an app with the services that `configure` adds. `configure` receives the middleware, and the wait that blocks
/// handlers.
fn site(configure: impl Fn(&mut ServiceConfig, &WatchMiddleware, &Wait) + Clone + Send + 'static) -> Site {
    let (gate, inbox) = (Gate::default(), Inbox::default());
    let watch = inbox.builder().threshold(THRESHOLD).build().unwrap();
    let (wait, watched) = (gate.wait(), watch.clone());
    let server = Server::serve(move || {
        let app = move || {
            let (configure, wait, watched) = (configure.clone(), wait.clone(), WatchMiddleware::new().watch(&watched));
            App::new().configure(move |config| configure(config, &watched, &wait))
        };
        let server = HttpServer::new(app).workers(2).h1_allow_half_closed(false).disable_signals();
        let server = server.bind("127.0.0.1:0").unwrap();
        (server.addrs()[0], server.run())
    });
    Site { gate, address: server.address, inbox, watch, _server: Box::new(server) }
}

/// Serves an app that is watched as a whole, on the runtime of actix-web or on one of tokio.
fn watched_app(threshold: Duration, in_tokio: bool, configure: fn(&mut ServiceConfig, &Wait)) -> Site {
    let (gate, inbox) = (Gate::default(), Inbox::default());
    let watch = inbox.builder().threshold(threshold).build().unwrap();
    let (wait, watched) = (gate.wait(), watch.clone());
    let start = move || {
        let app = move || {
            let wait = wait.clone();
            App::new().wrap(WatchMiddleware::new().watch(&watched)).configure(move |config| configure(config, &wait))
        };
        let server = HttpServer::new(app).workers(2).h1_allow_half_closed(false).disable_signals();
        let server = server.bind("127.0.0.1:0").unwrap();
        (server.addrs()[0], server.run())
    };
    let server = if in_tokio { Server::serve_in_tokio(start) } else { Server::serve(start) };
    Site { gate, address: server.address, inbox, watch, _server: Box::new(server) }
}

fn route(wait: &Wait) -> Resource {
    let wait = wait.clone();
    web::resource("/users/{id}").to(move || block(wait.clone()))
}

/// A handler that blocks its worker until the gate is open.
async fn block(wait: Wait) -> HttpResponse {
    wait.block();
    HttpResponse::Ok().finish()
}

#[test]
fn blocked_route_is_reported_before_its_response() {
    for in_tokio in [false, true] {
        let site = watched_app(THRESHOLD, in_tokio, |config, wait| {
            config.service(route(wait)).route("/waits", web::to(pending::<HttpResponse>));
        });
        let waits = site.send("GET", "/waits");
        let blocked = site.report_of("GET", "/users/7");
        assert_eq!(blocked.label(), Some("GET /users/{id}"), "{blocked:?}");
        assert!(blocked.thread().is_some(), "{blocked:?}");
        assert!(waits.is_unanswered());
        let stats = site.watch.stats();
        let labels: Vec<_> = stats.labels.iter().map(|stats| stats.label).collect();
        assert_eq!(labels, ["GET /users/{id}"], "{stats:?}");
    }
}

#[test]
fn two_blocked_workers_are_reported_with_the_same_label_and_their_own_threads() {
    let site = watched_app(THRESHOLD, false, |config, wait| {
        config.service(route(wait));
    });
    // actix-web gives each worker a connection in turn.
    let sent = ["/users/1", "/users/2"].map(|path| site.send("GET", path));
    let blocked = site.inbox.wait_for(2);
    site.gate.open();
    sent.into_iter().for_each(|sent| assert_eq!(sent.status(), 200));
    assert!(blocked.iter().all(|blocked| blocked.label() == Some("GET /users/{id}")), "{blocked:?}");
    assert!(blocked[0].thread().is_some() && blocked[1].thread().is_some(), "{blocked:?}");
    assert_ne!(blocked[0].thread(), blocked[1].thread());
}

#[test]
fn scopes_and_resources_can_be_watched_alone() {
    let site = site(|config, watched, wait| {
        config
            .service(web::scope("/scope").wrap(watched.clone()).service(route(wait)))
            .service(web::scope("/resource").service(route(wait).wrap(watched.clone())))
            .service(web::scope("/both").wrap(watched.clone()).service(route(wait).wrap(watched.clone())))
            .service(web::scope("/neither").service(route(wait)));
    });
    for (method, path, label) in [
        ("GET", "/scope/users/1", Some("GET /scope/users/{id}")),
        ("HEAD", "/scope/users/1", Some("HEAD /scope/users/{id}")),
        ("GET", "/resource/users/1", Some("GET /resource/users/{id}")),
        ("GET", "/both/users/1", Some("GET /both/users/{id}")),
        ("PUT", "/scope/users/2", Some("PUT /scope/users/{id}")),
        ("GET", "/scope/users/1", Some("GET /scope/users/{id}")),
        ("GET", "/neither/users/1", None),
    ] {
        assert_eq!(site.label_of(method, path), label, "{path}");
    }
}

#[test]
fn clients_cannot_create_labels() {
    let site = watched_app(MS * 10, false, |config, wait| {
        let wait = wait.clone();
        config.service(route(&wait)).default_service(web::to(move || block(wait.clone())));
    });
    for number in 0..50 {
        site.report_of(&format!("METHOD{number}"), &format!("/users/{number}"));
        site.report_of("GET", &format!("/unknown/{number}"));
    }
    assert_eq!(site.labels(), BTreeSet::from(["OTHER /users/{id}", "unmatched"]));
    let stats = site.watch.stats();
    assert!(
        stats.labels.iter().all(|stats| ["OTHER /users/{id}", "unmatched", ""].contains(&stats.label)),
        "{stats:?}"
    );
}

#[actix_web::test]
async fn middleware_remembers_a_bounded_number_of_paths() {
    let inner =
        fn_service(async |request: ServiceRequest| Ok::<_, Error>(request.into_response(HttpResponse::Ok().finish())));
    let service = WatchMiddleware::new().new_transform(inner).await.unwrap();
    let remembered = async |path: String| -> usize {
        service.call(TestRequest::with_uri(&path).to_srv_request()).await.unwrap();
        let debug = format!("{service:?}");
        let remembered = debug.split_once("remembered: ").and_then(|(_, rest)| rest.split(',').next());
        remembered.and_then(|paths| paths.parse().ok()).unwrap()
    };
    let mut most = 0;
    for number in 0..3_000 {
        most = most.max(remembered(format!("/{number}")).await);
    }
    assert_eq!(most, 1_024);
    let before = remembered("/short".to_owned()).await;
    assert_eq!(remembered(format!("/{}", "x".repeat(256))).await, before, "a long path is not remembered");
}

#[test]
fn wait_in_the_queue_of_a_guard_is_not_reported() {
    let probe = Probe::new();
    let guards = ["inside", "outside"].map(|name| Arc::new(EndpointGuard::new(name)));
    let (held, guarded) = (Arc::clone(&probe), guards.clone());
    let site = site(move |config, watched, _| {
        let held = || {
            let probe = Arc::clone(&held);
            web::to(move || {
                let probe = Arc::clone(&probe);
                async move {
                    probe.visit().await;
                    "done"
                }
            })
        };
        let [inside, outside] = guarded.each_ref().map(GuardMiddleware::new);
        config
            .service(web::resource("/inside").wrap(watched.clone()).wrap(inside).route(held()))
            .service(web::resource("/outside").wrap(outside).wrap(watched.clone()).route(held()));
    });
    let sent = ["/inside", "/outside", "/inside", "/outside"].map(|path| site.send("GET", path));
    spin_until(|| guards.iter().all(|guard| guard.stats().waiting == 1));
    site.assert_silent();
    probe.release(4);
    sent.into_iter().for_each(|sent| assert_eq!(sent.status(), 200));
    assert!(site.inbox.all().is_empty(), "{:?}", site.inbox.all());
}

#[test]
fn handler_that_continues_without_its_client_has_its_label() {
    let (guard, probe) = (Arc::new(EndpointGuard::new("detached")), Probe::new());
    let (guarded, held) = (Arc::clone(&guard), Arc::clone(&probe));
    let site = site(move |config, watched, wait| {
        let (probe, wait) = (Arc::clone(&held), wait.clone());
        let handler = move || {
            let (probe, wait) = (Arc::clone(&probe), wait.clone());
            async move {
                probe.visit().await;
                block(wait).await
            }
        };
        let resource = web::resource("/users/{id}").wrap(watched.clone()).wrap(GuardMiddleware::new(&guarded));
        config.service(resource.to(handler));
    });
    let sent = site.send("GET", "/users/1");
    spin_until(|| probe.started() == 1);
    drop(sent);
    spin_until(|| guard.stats().detached == 1);
    probe.release(1);
    assert_eq!(site.inbox.wait_for(1)[0].label(), Some("GET /users/{id}"));
}

#[test]
fn handlers_on_pools_are_not_reported() {
    let pool = ProcessPool::builder("watched").workers(1).build();
    let file_gate = FileGate::new();
    let site = site(move |config, watched, wait| {
        let [blocking, cpu, called] = [wait.clone(), wait.clone(), wait.clone()];
        let called = move || {
            let wait = called.clone();
            async move {
                run_blocking(move || wait.block()).await.unwrap();
                "done"
            }
        };
        let process = process_handler(&pool, |Query(query): Query<_>| wait_at_gate(&query));
        let scope = web::scope("").wrap(watched.clone());
        let scope = scope.route("/blocking", web::to(blocking_handler(move || done(&blocking))));
        let scope = scope.route("/cpu", web::to(cpu_handler(move || done(&cpu))));
        config.service(scope.route("/run-blocking", web::to(called)).route("/process", web::to(process)));
    });
    let sent = ["/blocking", "/cpu", "/run-blocking"].map(|path| site.send("GET", path));
    let in_process = site.send("GET", &file_gate.at("/process"));
    spin_until(|| site.gate.inside() == 3 && file_gate.started().len() == 1);
    site.assert_silent();
    site.gate.open();
    file_gate.open();
    sent.into_iter().for_each(|sent| assert_eq!(sent.status(), 200));
    assert_eq!(in_process.status(), 200);
}

fn done(wait: &Wait) -> &'static str {
    wait.block();
    "done"
}
