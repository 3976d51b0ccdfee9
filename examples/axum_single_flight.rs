//! Concurrent callers share one run, in axum: whole responses through a layer, single values through a `SingleFlight`.
//!
//! Run it: `cargo run --example axum_single_flight`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default
//! 2000) set the port and how long the handlers take.
//!
//! Try it:
//!
//! ```text
//! curl -i localhost:3000/report & curl -i localhost:3000/report & wait     # one run; Cache-Status: … collapsed
//! curl localhost:3000/report -H 'x-user: ada' & curl localhost:3000/report -H 'x-user: grace' & wait  # two runs
//! curl localhost:3000/square/12 & curl localhost:3000/square/12 & wait     # 144 144, in one run
//! curl -i localhost:3000/square/2000                                       # 422: the error of the work itself
//! curl localhost:3000/stats
//! ```

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::env;
use std::time::Duration;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use onelane::background::{BoxError, ShutdownReport};
use onelane::web::FlightOptions;
use onelane::web::axum::{FlightLayer, serve};
use onelane::{FlightError, ServiceHost, SingleFlight};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

static SQUARES: SingleFlight<u64, u64, TooLarge> = SingleFlight::new("squares");

/// The error of the work. Because it is a response, the `FlightError` around it is a response too.
#[derive(Clone, Debug)]
struct TooLarge(u64);

impl IntoResponse for TooLarge {
    fn into_response(self) -> Response {
        (StatusCode::UNPROCESSABLE_ENTITY, format!("{} is too large", self.0)).into_response()
    }
}

/// Shared by its layer, so the handler itself does not mention the flight.
async fn report(headers: HeaderMap) -> String {
    let user = headers.get("x-user").and_then(|user| user.to_str().ok()).unwrap_or("everyone");
    println!("report for {user}");
    hold().await;
    format!("the report for {user}")
}

async fn square(Path(n): Path<u64>) -> Result<String, FlightError<TooLarge>> {
    let square = SQUARES.run(n, move || compute(n)).await?;
    Ok(square.to_string())
}

async fn compute(n: u64) -> Result<u64, TooLarge> {
    println!("square of {n}");
    hold().await;
    if n > 1000 { Err(TooLarge(n)) } else { Ok(n * n) }
}

async fn hold() {
    let millis = env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000);
    sleep(Duration::from_millis(millis)).await;
}

/// Returns the sums over reports and squares.
fn stats(pages: &FlightLayer) -> Json<Value> {
    let (pages, squares) = (pages.stats(), SQUARES.stats());
    Json(json!({ "runs": pages.runs + squares.runs, "shared": pages.shared + squares.shared }))
}

#[tokio::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    // Each user has their own report: without the user in the key, one user would get the report of another. A real
    // service takes the user from its authentication, not from a header that any client can set: see
    // `FlightLayer::keyed`.
    let shared = FlightLayer::new("pages").options(FlightOptions::new().key_header("x-user"));
    let pages = shared.clone();
    let app = Router::new()
        .route("/report", get(report).layer(shared))
        .route("/square/{n}", get(square))
        .route("/stats", get(async move || stats(&pages)));

    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(ServiceHost::default(), listener, app).await?)
}
