//! Responses that are shared by concurrent requests.

mod again;
mod closing;
mod disconnects;
mod links;
mod not_shared;
mod readiness;
mod refusals;
mod shared;
mod unshareable;
mod vary;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use onelane::web::FlightOptions;
use onelane::web::axum::FlightLayer;

use support::http::{Client, ClientResponse, Listening, Probe, eventually, serve};

/// A site that responds to every request with the number of its run, when the test releases it.
struct Site {
    layer: FlightLayer,
    probe: Arc<Probe>,
    address: SocketAddr,
}

/// The part that a request had in a run, as its response's `Cache-Status` reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Led,
    Collapsed,
    Alone,
}

use Part::{Alone, Collapsed, Led};

impl Site {
    async fn new(options: FlightOptions) -> Self {
        Self::responding(options, |run| format!("answer {run}")).await
    }

    /// The `n`th run produces `answer(n)`.
    async fn responding<R: IntoResponse>(
        options: FlightOptions,
        respond: impl Fn(usize) -> R + Clone + Send + Sync + 'static,
    ) -> Self {
        let layer = FlightLayer::new("site").options(options);
        let app = |handler: Router| handler.layer(layer.clone());
        let probe = Probe::new();
        let address = serve(Listening::Plain, app(numbered(&probe, respond))).await;
        Self { layer, probe, address }
    }

    /// Sends requests, each one once the one before it is served or waits.
    async fn send(&self, requests: &[String]) -> Vec<Client> {
        let mut clients = Vec::new();
        let before = self.under_way();
        for request in requests {
            clients.push(Client::sending(self.address, request).await);
            let expected = before + clients.len() as isize;
            eventually("the request is served or waits", || self.under_way() == expected).await;
        }
        clients
    }

    /// Returns the number of runs, and for each request its part in which run.
    async fn parts(&self, requests: &[String]) -> Vec<(usize, Part)> {
        let mut clients = self.send(requests).await;
        self.probe.release(requests.len());
        let mut parts = Vec::new();
        for (client, request) in clients.iter_mut().zip(requests) {
            let response = if request.starts_with("HEAD") {
                let head = client.head().await;
                ClientResponse { status: 200, head, body: Vec::new() }
            } else {
                client.response().await
            };
            assert_eq!(response.status, 200);
            parts.push((run_of(&response), part_of(&response)));
        }
        assert_eq!(self.layer.stats().waiting, 0);
        parts
    }

    /// Returns how many requests wait for a run or have started one, and how many are or were served alone.
    fn under_way(&self) -> isize {
        let stats = self.layer.stats();
        (stats.waiting + self.probe.started()) as isize - stats.runs as isize
    }
}

/// A router whose handler reports in a header which of its runs it was.
fn numbered<R: IntoResponse>(
    probe: &Arc<Probe>,
    respond: impl Fn(usize) -> R + Clone + Send + Sync + 'static,
) -> Router {
    let (probe, runs) = (Arc::clone(probe), Arc::new(AtomicUsize::new(0)));
    Router::new().fallback(async move || -> Response {
        let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
        probe.visit().await;
        let mut response = respond(run).into_response();
        response.headers_mut().insert("x-run", HeaderValue::from(run));
        response
    })
}

fn run_of(response: &ClientResponse) -> usize {
    response.header("x-run").and_then(|run| run.parse().ok()).unwrap_or_else(|| panic!("no run in {}", response.head))
}

fn part_of(response: &ClientResponse) -> Part {
    match response.header("cache-status") {
        Some("onelane; fwd=miss") => Led,
        Some("onelane; fwd=miss; collapsed") => Collapsed,
        Some("onelane; fwd=bypass") => Alone,
        other => panic!("Cache-Status: {other:?}"),
    }
}

/// `GET /`, with headers.
fn with(headers: &[(&str, &str)]) -> String {
    get_with("GET", "/", headers)
}

fn get_with(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nhost: test\r\n{headers}\r\n")
}
