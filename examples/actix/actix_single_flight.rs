//! Concurrent callers share one run, in actix-web: whole responses through a middleware, single values through a
//! `SingleFlight`.
//!
//! Run it: `cargo run --example actix_single_flight`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default
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

use std::time::Duration;
use std::{env, fmt};

use actix_web::http::StatusCode;
use actix_web::rt::time::sleep;
use actix_web::web::{Data, Json, Path, get, resource};
use actix_web::{App, HttpRequest, ResponseError};
use onelane::background::{BoxError, ShutdownReport};
use onelane::web::FlightOptions;
use onelane::web::actix::{FlightMiddleware, serve};
use onelane::{FlightError, ServiceHost, SingleFlight};
use serde_json::{Value, json};

static SQUARES: SingleFlight<u64, u64, TooLarge> = SingleFlight::new("squares");

/// The error of the work. Because it is a response, the `FlightError` around it is a response too.
#[derive(Debug)]
struct TooLarge(u64);

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is too large", self.0)
    }
}

impl ResponseError for TooLarge {
    fn status_code(&self) -> StatusCode {
        StatusCode::UNPROCESSABLE_ENTITY
    }
}

/// Shared by its middleware, so the handler itself does not mention the flight.
async fn report(request: HttpRequest) -> String {
    let user = request.headers().get("x-user").and_then(|user| user.to_str().ok()).unwrap_or("everyone");
    println!("report for {user}");
    hold().await;
    format!("the report for {user}")
}

async fn square(n: Path<u64>) -> Result<String, FlightError<TooLarge>> {
    let n = n.into_inner();
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
async fn stats(reports: Data<FlightMiddleware>) -> Json<Value> {
    let (reports, squares) = (reports.stats(), SQUARES.stats());
    Json(json!({ "runs": reports.runs + squares.runs, "shared": reports.shared + squares.shared }))
}

#[actix_web::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    // Each user has their own report: without the user in the key, one user would get the report of another. A real
    // service takes the user from its authentication, not from a header that any client can set: see
    // `FlightMiddleware::keyed`. The middleware is created outside the closure below, so that all workers share it.
    let shared = FlightMiddleware::new("reports").options(FlightOptions::new().key_header("x-user"));
    let app = move || {
        App::new()
            .app_data(Data::new(shared.clone()))
            .service(resource("/report").wrap(shared.clone()).route(get().to(report)))
            .route("/square/{n}", get().to(square))
            .route("/stats", get().to(stats))
    };
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    // Without half-closed connections, a client that closes its connection has disconnected, and a run without callers
    // is dropped.
    let server = serve(ServiceHost::default(), move |drain| {
        let server = drain.http_server(app).h1_allow_half_closed(false).bind(format!("127.0.0.1:{port}"))?;
        println!("listening on http://{}", server.addrs()[0]);
        Ok(server)
    });
    Ok(server.await?)
}
