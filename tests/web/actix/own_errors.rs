//! Refusals and errors in a user's own types: with the request's head, in the app's data, in thiserror and anyhow.

use std::sync::Arc;

use actix_web::web::{Data, get, resource};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use onelane::web::actix::{FlightMiddleware, GuardMiddleware, blocking_handler};
use onelane::web::{FlightOptions, GuardOptions, GuardSource, Guarded, Refusal, RequestGuard, RequestHead};
use onelane::{AcquireError, EndpointGuard, KeyedGuard, Queue};
use serde_json::{Value, json};

use support::actix::{Server, assert_problem};

const BUSY: &str = "https://docs.rs/onelane/latest/onelane/web/index.html#busy";

/// Names the path and the query of the request in the refusal.
fn with_path(refusal: Refusal, head: &RequestHead<'_>) -> Refusal {
    assert!(head.header("Host").is_some(), "the head has the headers");
    refusal.with_member("path", head.path()).with_member("query", head.query()).with_member("method", head.method())
}

#[tokio::test]
async fn refusal_depends_on_the_head_of_its_request() {
    let guard = Arc::new(EndpointGuard::builder("localized").queue(Queue::Reject).build());
    let keyed = Arc::new(KeyedGuard::<String>::new("keyed"));
    let pool = onelane::BlockingPool::new("closed pool");
    pool.close();
    let server = Server::start({
        let guard = Arc::clone(&guard);
        move |config| {
            let options = || GuardOptions::new().on_refusal(with_path);
            let flights = FlightMiddleware::new("panics").options(FlightOptions::new().on_refusal(with_path));
            let nothing = || async { "in" };
            async fn panics() -> &'static str {
                panic!("on purpose")
            }
            config
                .service(
                    resource("/guard").wrap(GuardMiddleware::new(&guard).options(options())).route(get().to(nothing)),
                )
                .service(
                    resource("/key")
                        .wrap(GuardMiddleware::keyed(&keyed, |_| None::<String>).options(options()))
                        .route(get().to(nothing)),
                )
                .route("/pool", get().to(blocking_handler(|| "in").on(&pool).on_refusal(with_path)))
                .service(resource("/flight").wrap(flights).route(get().to(panics)));
        }
    });
    let _permit = guard.try_acquire().expect("the test is set up");
    for (path, status) in [("/guard", 503), ("/pool", 503), ("/key", 400), ("/flight", 500)] {
        let response = server.get(&format!("{path}?a=1")).await.expect("no panic");
        assert_eq!(response.status(), status, "{path}");
        let problem: Value = response.json().await.expect("a problem is JSON");
        let members = (&problem["path"], &problem["query"], &problem["method"]);
        assert_eq!(members, (&json!(path), &json!("a=1"), &json!("GET")), "{problem}");
    }
}

struct Tenant;

impl GuardSource<HttpRequest> for Tenant {
    fn guard(head: &RequestHead<'_>, request: &HttpRequest) -> RequestGuard {
        let guards = request.app_data::<Data<KeyedGuard<String>>>().expect("the app has its guards");
        RequestGuard::keyed(Arc::clone(guards), head.query().map(str::to_owned))
    }

    fn refuse(refusal: Refusal, head: &RequestHead<'_>) -> Refusal {
        refusal.with_member("tenant", head.query())
    }
}

#[tokio::test]
async fn extractor_takes_a_keyed_guard_from_the_data_of_the_app() {
    let guards = Arc::new(KeyedGuard::builder("tenant").queue(Queue::Reject).build());
    let server = Server::start({
        let guards = Data::from(Arc::clone(&guards));
        move |config| {
            let handler = |_permit: Guarded<Tenant>| async { "in" };
            config.app_data(guards.clone()).route("/", get().to(handler));
        }
    });
    let _permit = guards.try_acquire("a".to_owned()).expect("the test is set up");
    let refused = server.get("/?a").await.expect("no panic");
    assert_eq!(refused.status(), 429);
    let problem: Value = refused.json().await.expect("a problem is JSON");
    assert_eq!(problem["tenant"], "a");
    assert_eq!(server.get("/?b").await.expect("no panic").status(), 200);
    assert_eq!(server.get("/").await.expect("no panic").status(), 400);
}

/// An error of a service, with thiserror.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error("the report is not available")]
    NoReport(#[from] AcquireError),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl ResponseError for ServiceError {
    fn error_response(&self) -> HttpResponse {
        match Refusal::find_in(self) {
            Some(refusal) => refusal.error_response(),
            None => HttpResponse::ImATeapot().finish(),
        }
    }
}

#[tokio::test]
async fn error_in_thiserror_and_anyhow_keeps_status_retry_after_and_body() {
    static GUARD: EndpointGuard = EndpointGuard::builder("section").queue(Queue::Reject).build();
    async fn typed() -> Result<&'static str, ServiceError> {
        let _permit = GUARD.acquire().await?;
        Ok("in")
    }
    async fn any() -> Result<&'static str, ServiceError> {
        let section = async || -> anyhow::Result<&'static str> {
            let _permit = GUARD.acquire().await?;
            Ok("in")
        };
        section().await.map_err(|error| ServiceError::Other(error.context("while the report was made")))
    }
    async fn unrelated() -> Result<&'static str, ServiceError> {
        Err(anyhow::anyhow!("no refusal").into())
    }
    let server = Server::start(|config| {
        config.route("/typed", get().to(typed)).route("/any", get().to(any)).route("/unrelated", get().to(unrelated));
    });
    assert_eq!(server.get("/typed").await.expect("no panic").status(), 200);
    let _permit = GUARD.try_acquire().expect("the test is set up");
    for path in ["/typed", "/any"] {
        let problem = assert_problem(server.get(path).await.expect("no panic"), 503, Some("1"), BUSY).await;
        for internal in ["section", "acquire()", "report is not"] {
            assert!(!problem.to_string().contains(internal), "the client learns nothing of the code: {problem}");
        }
    }
    assert_eq!(server.get("/unrelated").await.expect("no panic").status(), 418);
}
