//! Work done once for all who ask for it at the same time, in axum: a whole answer by a layer, and a value by hand.
//!
//! Run it: `cargo run --example axum_single_flight`. `PORT` (default 3000, 0 for any) and `HOLD_MS` (default 2000) change
//! where it listens and how long its handlers take.
//!
//! Try it:
//!
//! ```text
//! curl -i localhost:3000/report & curl -i localhost:3000/report & wait     # one run; Cache-Status: … collapsed
//! curl localhost:3000/report -H 'x-user: ada' & curl localhost:3000/report -H 'x-user: grace' & wait  # two runs
//! curl localhost:3000/square/12 & curl localhost:3000/square/12 & wait     # 144 144, in one run
//! curl -i localhost:3000/square/2000                                       # 422: the work's own error
//! curl localhost:3000/stats
//! ```

#![allow(clippy::print_stdout, reason = "it shows on stdout what happens when")]

use std::env;
use std::time::Duration;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use onelane::web::FlightOptions;
use onelane::web::axum::FlightLayer;
use onelane::{FlightError, SingleFlight};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

static SQUARES: SingleFlight<u64, u64, TooLarge> = SingleFlight::new("squares");

/// What the work may come to instead of a square: a response of its own, and so the error of the flight is one.
#[derive(Clone, Debug)]
struct TooLarge(u64);

impl IntoResponse for TooLarge {
    fn into_response(self) -> Response {
        (StatusCode::UNPROCESSABLE_ENTITY, format!("{} is too large", self.0)).into_response()
    }
}

/// The layer shares its answers, so it needs no word about it.
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

/// Of the pages and the squares together.
fn stats(pages: &FlightLayer) -> Json<Value> {
    let (pages, squares) = (pages.stats(), SQUARES.stats());
    Json(json!({ "runs": pages.runs + squares.runs, "shared": pages.shared + squares.shared }))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    // The report is for its user: a key without the user would hand one user's report to another. A real service takes
    // the user from its authentication rather than from a header that anybody can set: see `FlightLayer::keyed`.
    let shared = FlightLayer::with_options("pages", FlightOptions::new().key_header("x-user"));
    let pages = shared.clone();
    let app = Router::new()
        .route("/report", get(report).layer(shared))
        .route("/square/{n}", get(square))
        .route("/stats", get(async move || stats(&pages)));

    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await
}
