//! The same service in axum and in actix-web.

use std::any::Any;
use std::collections::HashMap;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{self as actix, ServiceConfig};
use axum::extract::{self, State};
use axum::http::StatusCode;
use axum::http::header::SET_COOKIE;
use axum::http::request::Parts;
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream;
use onelane::offload::Priority;
use onelane::web::actix as for_actix;
use onelane::web::axum as for_axum;
use onelane::web::{ProcessHandler, Refusal, RefusalReason};
use onelane::{EndpointGuard, KeyedGuard, ProcessPool};
use serde_json::{Value, json};
use support::actix::Server;
use support::http::{Listening, serve};

use super::work::{fail, wait_at_gate};

type Query = HashMap<String, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framework {
    Axum,
    Actix,
}

/// A server with a pool of worker processes, and the guards in front of some of its routes.
pub(super) struct Site {
    pub(super) framework: Framework,
    pub(super) address: SocketAddr,
    pub(super) pool: ProcessPool,
    pub(super) guard: Arc<EndpointGuard>,
    pub(super) users: Arc<KeyedGuard<String>>,
    /// The server, which ends when this value is dropped.
    _server: Box<dyn Any>,
}

/// Sets the limits of every handler of a site.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    pub(super) max_wait: Option<Duration>,
    pub(super) timeout: Option<Duration>,
    pub(super) is_shielded: bool,
}

impl Limits {
    fn apply<A, R>(self, mut handler: ProcessHandler<A, R>) -> ProcessHandler<A, R> {
        if let Some(limit) = self.max_wait {
            handler = handler.max_wait(limit);
        }
        if let Some(limit) = self.timeout {
            handler = handler.timeout(limit);
        }
        if self.is_shielded { handler.shield() } else { handler }
    }
}

/// Changes the status of each refusal, and adds how the worker ended.
fn with_exit(refusal: Refusal, _: &onelane::web::RequestHead<'_>) -> Refusal {
    let RefusalReason::Process(error) = refusal.reason() else { panic!("{:?}", refusal.reason()) };
    let exit = error.death().map(|death| format!("{:?}", death.exit()));
    refusal.with_status(599).with_member("exit", exit)
}

impl Site {
    pub(super) async fn new(framework: Framework, pool: ProcessPool) -> Self {
        Self::with_limits(framework, pool, Limits::default()).await
    }

    pub(super) async fn with_limits(framework: Framework, pool: ProcessPool, limits: Limits) -> Self {
        let guard = Arc::new(EndpointGuard::new("guarded"));
        let users = Arc::new(KeyedGuard::new("users"));
        let (address, server): (_, Box<dyn Any>) = match framework {
            Framework::Axum => {
                let app = axum_app(&pool, limits, &guard, &users);
                (serve(Listening::Watched, app).await, Box::new(()))
            }
            Framework::Actix => {
                let server = Server::start(actix_app(&pool, limits, &guard, &users));
                (server.address, Box::new(server))
            }
        };
        Self { framework, address, pool, guard, users, _server: server }
    }
}

fn sum_of(base: u64, id: u64, query: &Query, body: u64) -> Value {
    let add: u64 = query["add"].parse().unwrap();
    json!({ "sum": base + id + add + body, "pid": std::process::id() })
}

#[expect(clippy::needless_pass_by_value, reason = "a handler gets the values of its extractors")]
fn reversed(body: Bytes) -> Bytes {
    body.iter().rev().copied().collect()
}

fn axum_app(pool: &ProcessPool, limits: Limits, guard: &Arc<EndpointGuard>, users: &Arc<KeyedGuard<String>>) -> Router {
    type Sum = (State<u64>, extract::Path<u64>, extract::Query<Query>, Json<u64>);
    fn sum((State(base), extract::Path(id), extract::Query(query), Json(body)): Sum) -> Json<Value> {
        Json(sum_of(base, id, &query, body))
    }
    fn gate(extract::Query(query): extract::Query<Query>) -> String {
        wait_at_gate(&query)
    }
    fn own_error((): ()) -> Result<String, impl IntoResponse> {
        let cookies = [(SET_COOKIE, "a=1"), (SET_COOKIE, "b=2")];
        Err((StatusCode::IM_A_TEAPOT, AppendHeaders(cookies), "no"))
    }
    fn streams((): ()) -> axum::body::Body {
        axum::body::Body::from_stream(stream::iter([Ok::<_, std::io::Error>("a")]))
    }
    fn user(head: &Parts) -> Option<String> {
        head.headers.get("x-user").and_then(|user| Some(user.to_str().ok()?.to_owned()))
    }
    let fault = |extract::Path(fault): extract::Path<String>| fail(&fault);
    let handler = || limits.apply(for_axum::process_handler(pool, gate));
    let flight = for_axum::FlightLayer::new("flight");
    let waiting = {
        let flight = flight.clone();
        async move || flight.stats().waiting.to_string()
    };
    Router::new()
        .route("/", get(handler()))
        .route("/urgent", get(handler().label("urgent").priority(Priority::High)))
        .route("/sum/{id}", post(limits.apply(for_axum::process_handler(pool, sum))))
        .route("/echo", post(for_axum::process_handler(pool, reversed)))
        .route("/error", get(for_axum::process_handler(pool, own_error)))
        .route("/stream", get(for_axum::process_handler(pool, streams)))
        .route("/fault/{fault}", get(limits.apply(for_axum::process_handler(pool, fault))))
        .route("/changed/{fault}", get(for_axum::process_handler(pool, fault).on_refusal(with_exit)))
        .route("/guarded", get(handler()).layer(for_axum::GuardLayer::new(guard)))
        .route("/guarded/{fault}", get(for_axum::process_handler(pool, fault)).layer(for_axum::GuardLayer::new(guard)))
        .route("/flight", get(handler()).layer(flight))
        .route("/flight/waiting", get(waiting))
        .route("/user", get(handler()).layer(for_axum::GuardLayer::keyed(users, user)))
        .route("/plain", get(async || "at once"))
        .with_state(1000)
}

fn actix_app(
    pool: &ProcessPool,
    limits: Limits,
    guard: &Arc<EndpointGuard>,
    users: &Arc<KeyedGuard<String>>,
) -> impl Fn(&mut ServiceConfig) + Send + Clone + 'static {
    type Sum = (actix::Path<u64>, actix::Query<Query>, actix::Json<u64>);
    fn sum((id, query, body): Sum) -> actix::Json<Value> {
        actix::Json(sum_of(1000, *id, &query, *body))
    }
    #[expect(clippy::needless_pass_by_value, reason = "a handler gets the values of its extractors")]
    fn gate(query: actix::Query<Query>) -> String {
        wait_at_gate(&query)
    }
    fn own_error((): ()) -> actix_web::HttpResponse {
        let mut response = actix_web::HttpResponse::ImATeapot();
        response.append_header(("set-cookie", "a=1")).append_header(("set-cookie", "b=2")).body("no")
    }
    fn streams((): ()) -> actix_web::HttpResponse {
        actix_web::HttpResponse::Ok().streaming(stream::iter([Ok::<_, std::io::Error>(Bytes::from("a"))]))
    }
    fn user(request: &actix_web::dev::ServiceRequest) -> Option<String> {
        request.headers().get("x-user").and_then(|user| Some(user.to_str().ok()?.to_owned()))
    }
    let fault = |fault: actix::Path<String>| fail(&fault);
    let (pool, guard, users) = (pool.clone(), Arc::clone(guard), Arc::clone(users));
    let flight = for_actix::FlightMiddleware::new("flight");
    move |config| {
        let handler = || limits.apply(for_actix::process_handler(&pool, gate));
        let guarded = || for_actix::GuardMiddleware::new(&guard);
        let waiting = {
            let flight = flight.clone();
            move || ready(flight.stats().waiting.to_string())
        };
        config
            .route("/", actix::get().to(handler()))
            .route("/urgent", actix::get().to(handler().label("urgent").priority(Priority::High)))
            .route("/sum/{id}", actix::post().to(limits.apply(for_actix::process_handler(&pool, sum))))
            .route("/echo", actix::post().to(for_actix::process_handler(&pool, reversed)))
            .route("/error", actix::get().to(for_actix::process_handler(&pool, own_error)))
            .route("/stream", actix::get().to(for_actix::process_handler(&pool, streams)))
            .route("/fault/{fault}", actix::get().to(limits.apply(for_actix::process_handler(&pool, fault))))
            .route("/changed/{fault}", actix::get().to(for_actix::process_handler(&pool, fault).on_refusal(with_exit)))
            .service(actix::resource("/guarded").wrap(guarded()).route(actix::get().to(handler())))
            .service(
                actix::resource("/guarded/{fault}")
                    .wrap(guarded())
                    .route(actix::get().to(for_actix::process_handler(&pool, fault))),
            )
            .route("/flight/waiting", actix::get().to(waiting))
            .service(actix::resource("/flight").wrap(flight.clone()).route(actix::get().to(handler())))
            .service(
                actix::resource("/user")
                    .wrap(for_actix::GuardMiddleware::keyed(Arc::clone(&users), user))
                    .route(actix::get().to(handler())),
            )
            .route("/plain", actix::get().to(async || "at once"));
    }
}
