//! Refusals and errors in a user's own types: with the request's head, in an app's state, in thiserror and anyhow.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use onelane::web::axum::{FlightLayer, GuardLayer, blocking_handler};
use onelane::web::{FlightOptions, GuardOptions, GuardSource, Guarded, Refusal, RequestGuard, RequestHead};
use onelane::{AcquireError, EndpointGuard, KeyedGuard, Queue};
use serde_json::json;

use super::refusals::is_problem;
use support::http::{self, Client, Listening, Probe, eventually, serve};

const BUSY: &str = "https://docs.rs/onelane/latest/onelane/web/index.html#busy";

/// Names the language and the path of the request in the refusal.
fn in_language(refusal: Refusal, head: &RequestHead<'_>) -> Refusal {
    let native = head.native::<axum::http::request::Parts>().map(|parts| parts.method.clone());
    assert_eq!(native.as_ref().map(axum::http::Method::as_str), Some(head.method()));
    let language = head.header("Accept-Language").unwrap_or("en").to_owned();
    refusal.with_member("path", head.path()).with_member("query", head.query()).with_member("language", language)
}

fn german(path: &str) -> String {
    http::get(path).replace("host:", "accept-language: de\r\nhost:")
}

#[tokio::test]
async fn refusal_depends_on_the_head_of_its_request() {
    let guard = Arc::new(EndpointGuard::builder("localized").queue(Queue::Reject).build());
    let keyed = Arc::new(KeyedGuard::<String>::new("keyed"));
    let pool = onelane::BlockingPool::new("closed pool");
    pool.close();
    let options = || GuardOptions::new().on_refusal(in_language);
    let flight_options = FlightOptions::new().on_refusal(in_language);
    let app = Router::new()
        .route("/guard", get(async || ()))
        .layer(GuardLayer::new(&guard).options(options()))
        .route("/pool", get(blocking_handler(|| ()).on(&pool).on_refusal(in_language)))
        .route("/key", get(async || ()).layer(GuardLayer::keyed(&keyed, |_| None::<String>).options(options())))
        .route(
            "/flight",
            get(async || {
                panic!("on purpose");
                #[expect(unreachable_code, reason = "the type of the handler")]
                ()
            })
            .layer(FlightLayer::new("panics").options(flight_options)),
        );
    let address = serve(Listening::Plain, app).await;
    let _permit = guard.try_acquire().expect("the test is set up");
    for (path, status) in [("/guard", 503), ("/pool", 503), ("/key", 400), ("/flight", 500)] {
        let response = Client::sending(address, german(&format!("{path}?a=1"))).await.response().await;
        let problem = response.json();
        assert_eq!(response.status, status, "{path}: {problem}");
        let members = (&problem["path"], &problem["query"], &problem["language"]);
        assert_eq!(members, (&json!(path), &json!("a=1"), &json!("de")), "{problem}");
    }
}

/// The state of an app that has its guards there.
#[derive(Clone)]
struct AppState {
    report: Arc<EndpointGuard>,
    per_tenant: Arc<KeyedGuard<String>>,
    probe: Arc<Probe>,
}

struct Report;

impl GuardSource<AppState> for Report {
    fn guard(_: &RequestHead<'_>, state: &AppState) -> RequestGuard {
        RequestGuard::from(&state.report)
    }
}

struct Tenant;

impl GuardSource<AppState> for Tenant {
    fn guard(head: &RequestHead<'_>, state: &AppState) -> RequestGuard {
        RequestGuard::keyed(&state.per_tenant, head.header("x-tenant").map(str::to_owned))
    }

    fn refuse(refusal: Refusal, head: &RequestHead<'_>) -> Refusal {
        refusal.with_member("tenant", head.header("x-tenant"))
    }
}

#[tokio::test]
async fn extractor_takes_guards_and_keys_from_the_state_of_the_app() {
    let state = AppState {
        report: Arc::new(EndpointGuard::builder("report").queue(Queue::Reject).build()),
        per_tenant: Arc::new(KeyedGuard::builder("tenant").queue(Queue::Reject).build()),
        probe: Probe::new(),
    };
    let held = async |_permit: Guarded<Tenant>, State(state): State<AppState>| state.probe.visit().await;
    let app = Router::new()
        .route("/report", get(async |_permit: Guarded<Report>| "in"))
        .route("/tenant", get(held))
        .with_state(state.clone());
    let address = serve(Listening::Plain, app).await;
    let tenant = |name: &str| http::get("/tenant").replace("host:", &format!("x-tenant: {name}\r\nhost:"));

    let mut first = Client::sending(address, tenant("a")).await;
    eventually("the first handler runs", || state.probe.started() == 1).await;
    let refused = Client::sending(address, tenant("a")).await.response().await;
    assert_eq!((refused.status, &refused.json()["tenant"]), (429, &json!("a")));
    let mut other = Client::sending(address, tenant("b")).await;
    eventually("another tenant is not held up", || state.probe.started() == 2).await;
    let missing = Client::sending(address, http::get("/tenant")).await.response().await;
    assert_eq!(missing.status, 400);
    state.probe.release(2);
    assert_eq!((first.response().await.status, other.response().await.status), (200, 200));

    let permit = state.report.try_acquire().expect("the test is set up");
    is_problem(&Client::sending(address, http::get("/report")).await.response().await, 503, BUSY);
    drop(permit);
    assert_eq!(Client::sending(address, http::get("/report")).await.response().await.status, 200);
}

/// An error of a service, with thiserror.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error("the report is not available")]
    NoReport(#[from] AcquireError),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl IntoResponse for ServiceError {
    fn into_response(self) -> Response {
        match Refusal::find_in(&self) {
            Some(refusal) => refusal.into_response(),
            None => axum::http::StatusCode::IM_A_TEAPOT.into_response(),
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
    let app = Router::new().route("/typed", get(typed)).route("/any", get(any)).route("/unrelated", get(unrelated));
    let address = serve(Listening::Plain, app).await;
    let respond = async |path| Client::sending(address, http::get(path)).await.response().await;
    assert_eq!(respond("/typed").await.text(), "in");
    let _permit = GUARD.try_acquire().expect("the test is set up");
    for path in ["/typed", "/any"] {
        let response = respond(path).await;
        is_problem(&response, 503, BUSY);
        assert_eq!(response.header("retry-after"), Some("1"));
        let text = response.text();
        for internal in ["section", "acquire()", "report is not"] {
            assert!(!text.contains(internal), "the client learns nothing of the code: {text}");
        }
    }
    assert_eq!(respond("/unrelated").await.status, 418);
}

#[test]
fn custom_refusal_is_a_response_without_a_framework() {
    let refusal = Refusal::custom(429, "https://example.org/quota", "Over quota")
        .with_detail("Come back tomorrow.")
        .with_header("x-quota", "0")
        .with_member("limit", 3);
    assert_eq!((&*refusal.type_uri(), refusal.title()), ("https://example.org/quota", "Over quota"));
    assert_eq!(refusal.detail(), "Come back tomorrow.");
    assert_eq!(refusal.headers().collect::<Vec<_>>(), [("x-quota", "0")]);
    let response = axum::http::Response::<axum::body::Bytes>::from(refusal);
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-quota"]),
        (429, &"0".parse().expect("the test is set up"))
    );
    let problem: serde_json::Value = serde_json::from_slice(response.body()).expect("the test is set up");
    let expected = json!({
        "type": "https://example.org/quota", "title": "Over quota", "status": 429,
        "detail": "Come back tomorrow.", "limit": 3,
    });
    assert_eq!(problem, expected);
}

#[test]
fn refusal_is_an_error_whose_source_is_what_happened() {
    let refusal = Refusal::from(AcquireError::from(onelane::guard::AcquireErrorKind::Closed));
    let boxed: Box<dyn std::error::Error + Send + Sync> = refusal.into();
    assert!(boxed.source().expect("the test is set up").is::<AcquireError>());
    assert_eq!(Refusal::find_in(&*boxed).expect("the test is set up").status(), 503);
}
