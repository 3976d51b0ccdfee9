//! Shared responses in actix-web, on real servers with several workers, called over real sockets.

mod again;
mod behind;
mod closing;
mod disconnects;
mod failures;
mod in_handlers;
mod keys;
mod places;
mod sharing;
mod spans;
mod stopping_workers;
mod unshareable;

use std::future::ready;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::web::{Bytes, Path, ServiceConfig, get, resource, route, scope};
use actix_web::{HttpRequest, HttpResponse};
use futures::future::LocalBoxFuture;
use futures::stream;
use onelane::guard::FlightStats;
use onelane::web::FlightOptions;
use onelane::web::actix::FlightMiddleware;
use reqwest::{RequestBuilder, Response};

use support::actix::{Server, Work, ask};
use support::client::{Disconnect, RawClient, eventually};

const LED: Option<&str> = Some("onelane; fwd=miss");
const COLLAPSED: Option<&str> = Some("onelane; fwd=miss; collapsed");
const ALONE: Option<&str> = Some("onelane; fwd=bypass");

/// What happened to a request.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u16,
    cache_status: Option<String>,
    body: String,
}

impl Seen {
    fn new(status: u16, cache_status: Option<&str>, body: &str) -> Self {
        Self { status, cache_status: cache_status.map(str::to_owned), body: body.to_owned() }
    }

    async fn of(response: Response) -> Self {
        let (status, cache_status) = (response.status().as_u16(), header(&response, "cache-status"));
        Self { status, cache_status, body: response.text().await.expect("the body is complete") }
    }
}

/// A middleware, and the work behind it.
#[derive(Clone)]
struct Shared {
    flights: FlightMiddleware,
    work: Arc<Work>,
    /// Handlers that have finished their work.
    runs: Arc<AtomicUsize>,
}

impl Shared {
    fn new(options: FlightOptions) -> Self {
        Self { flights: FlightMiddleware::new("test").options(options), work: Arc::default(), runs: Arc::default() }
    }

    /// An app in which every route does the work, and `answer` turns the number of the run into the response.
    fn app(
        &self,
        respond: impl Fn(usize) -> HttpResponse + Send + Clone + 'static,
    ) -> impl Fn(&mut ServiceConfig) + Send + Clone + 'static {
        let shared = self.clone();
        move |config| {
            let handler = shared.handler(respond.clone());
            config.service(scope("").wrap(shared.flights.clone()).default_service(route().to(handler)));
        }
    }

    fn handler(
        &self,
        respond: impl Fn(usize) -> HttpResponse + Clone + 'static,
    ) -> impl Fn() -> LocalBoxFuture<'static, HttpResponse> + Clone + 'static {
        let (work, runs) = (Arc::clone(&self.work), Arc::clone(&self.runs));
        move || {
            let (work, runs, respond) = (Arc::clone(&work), Arc::clone(&runs), respond.clone());
            Box::pin(async move {
                work.run().await;
                respond(runs.fetch_add(1, Ordering::SeqCst) + 1)
            })
        }
    }

    /// Items below `prefix`: a response that can be shared, and one that can't.
    fn items(&self, prefix: &'static str) -> impl Fn(&mut ServiceConfig) + Clone + 'static {
        let shared = self.clone();
        move |config| {
            config.service(scope(prefix).service(resource("/{kind}/{id}").route(get().to(shared.item()))));
        }
    }

    fn item(
        &self,
    ) -> impl Fn(HttpRequest, Path<(String, String, u64)>) -> LocalBoxFuture<'static, HttpResponse> + Clone + 'static
    {
        let work = Arc::clone(&self.work);
        move |request, path| {
            let work = Arc::clone(&work);
            Box::pin(async move {
                work.run().await;
                let (tenant, kind, id) = path.into_inner();
                assert_eq!(request.match_info().get("tenant"), Some(&*tenant));
                let text = format!("{tenant}'s {kind} {id}");
                match kind.as_str() {
                    "page" => HttpResponse::Ok().body(text),
                    _ => HttpResponse::Ok().streaming(stream::once(ready(io::Result::Ok(Bytes::from(text))))),
                }
            })
        }
    }

    async fn items_are_shared_by_path(&self, server: &Server) {
        for (kind, runs) in [("page", 3), ("stream", 9)] {
            let started = self.work.started();
            let items = [("ada", 1), ("ada", 2), ("grace", 1)];
            let mut calls = Vec::new();
            for _ in 0..3 {
                for (tenant, id) in items {
                    calls.push((tenant, id, server.get(&format!("/of/{tenant}/{kind}/{id}"))));
                }
            }
            eventually("one run for each", || {
                self.flights.stats().waiting == 9 && self.flights.stats().running == 3 && self.work.inside() == 3
            })
            .await;
            self.work.let_finish(runs);
            for (tenant, id, call) in calls {
                let seen = Seen::of(call.await.expect("no panic")).await;
                assert_eq!((seen.status, seen.body), (200, format!("{tenant}'s {kind} {id}")));
            }
            assert_eq!(self.work.started() - started, runs);
        }
        self.is_over().await;
    }

    /// Sends two requests at the same time. The first one leads, if any does.
    async fn two_calls(&self, server: &Server, first: &str, second: &str) -> (Response, Response) {
        let (started, waiting) = (self.work.started(), self.flights.stats().shared);
        let first = server.get(first);
        eventually("the first request leads", || self.work.started() == started + 1).await;
        let second = server.get(second);
        eventually("the second request waits for the first", || self.flights.stats().shared == waiting + 1).await;
        self.work.let_finish(2);
        let responses = (first.await.expect("no panic"), second.await.expect("no panic"));
        // A later request must not find what remains of the run.
        self.work.hold_all();
        responses
    }

    async fn two(&self, server: &Server, first: &str, second: &str) -> (Seen, Seen) {
        let (first, second) = self.two_calls(server, first, second).await;
        (Seen::of(first).await, Seen::of(second).await)
    }

    /// Sends two requests that do no work.
    async fn unworked_two(&self, server: &Server, path: &str) -> (Seen, Seen) {
        let (first, second) = (server.get(path), server.get(path));
        (Seen::of(first.await.expect("no panic")).await, Seen::of(second.await.expect("no panic")).await)
    }

    /// Sends two requests at the same time and checks whether they share.
    async fn pair(&self, requests: [RequestBuilder; 2], shares: bool) -> [Seen; 2] {
        let [first, second] = requests;
        let first = ask(first);
        eventually("the first request runs", || self.work.inside() == 1).await;
        let second = ask(second);
        self.second_shares(shares).await;
        self.work.let_finish(2);
        [Seen::of(first.await.expect("no panic")).await, Seen::of(second.await.expect("no panic")).await]
    }

    async fn raw_pair(&self, server: &Server, requests: &[String; 2], shares: bool) -> (RawClient, RawClient) {
        let first = RawClient::send(server.address, &requests[0]).await;
        eventually("the first request runs", || self.work.inside() == 1).await;
        let second = RawClient::send(server.address, &requests[1]).await;
        self.second_shares(shares).await;
        self.work.let_finish(2);
        (first, second)
    }

    async fn second_shares(&self, shares: bool) {
        eventually("the second request has arrived", || self.flights.stats().shared == 1 || self.work.inside() == 2)
            .await;
        assert_eq!((self.flights.stats().shared == 1, self.work.inside()), (shares, if shares { 1 } else { 2 }));
    }

    /// That many clients share a run and disconnect.
    async fn all_disconnect(&self, server: &Server, clients: usize, disconnect: Disconnect) {
        let mut disconnecting = Vec::new();
        for waiting in 1..=clients {
            disconnecting.push(server.raw_get().await);
            eventually("the request waits", || self.flights.stats().waiting == waiting).await;
        }
        eventually("the handler runs", || self.work.inside() == 1).await;
        for disconnecting in disconnecting {
            disconnecting.disconnect(disconnect).await;
        }
    }

    /// Returns `true` if no run continues and no request waits.
    async fn is_over(&self) {
        eventually("nothing continues", || is_idle(&self.flights.stats()) && self.work.inside() == 0).await;
    }
}

fn is_idle(stats: &FlightStats) -> bool {
    stats.running == 0 && stats.waiting == 0
}

fn numbered(run: usize) -> HttpResponse {
    HttpResponse::Ok().body(run.to_string())
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name).map(|value| value.to_str().expect("the header is ASCII").to_owned())
}
