//! Responses of workers.

use std::sync::Mutex;

use axum::Router;
use axum::extract::{FromRequest, Request};
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use onelane::web::ProcessArgument;
use onelane::web::axum::process_handler;
use support::http::{self, Client, Listening, serve};
use support::spans::enable_spans;
use tracing::{Instrument, Span, info_span};

use super::apps::{Framework, Site};
use super::{is_problem, on_axum_and_actix, pool};

on_axum_and_actix! {
    function_in_a_worker_gets_the_values_of_its_extractors,
    large_bodies_survive_both_ways,
    function_is_not_called_if_an_extractor_rejects,
    own_error_keeps_its_status_headers_and_body,
    response_that_can_not_be_sent_is_500,
}

async fn function_in_a_worker_gets_the_values_of_its_extractors(framework: Framework) {
    let site = Site::new(framework, pool(1).build()).await;
    let head = "POST /sum/200?add=30 HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 1\r\n";
    let response = Client::sending(site.address, format!("{head}\r\n4")).await.response().await;
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
    let json = response.json();
    assert_eq!(json["sum"], 1234);
    assert_ne!(json["pid"], std::process::id());
}

async fn large_bodies_survive_both_ways(framework: Framework) {
    let site = Site::new(framework, pool(1).build()).await;
    for length in [0, 1, 100_000] {
        let body = http::bytes(length);
        let response = Client::sending(site.address, http::post("/echo", &body)).await.response().await;
        assert_eq!((response.status, response.body.len()), (200, length));
        assert!(response.body.iter().eq(body.iter().rev()), "{length} bytes, reversed by the worker");
    }
}

async fn function_is_not_called_if_an_extractor_rejects(framework: Framework) {
    let site = Site::new(framework, pool(1).build()).await;
    let response = Client::sending(site.address, http::post("/sum/200?add=30", b"4")).await.response().await;
    assert!([400, 415].contains(&response.status), "{}: no JSON", response.status);
    assert_eq!(site.pool.stats().tasks.started, 0);
}

async fn own_error_keeps_its_status_headers_and_body(framework: Framework) {
    let site = Site::new(framework, pool(1).build()).await;
    let response = site.get("/error").await;
    assert_eq!((response.status, response.text()), (418, "no"));
    let cookies: Vec<_> = response.head.lines().filter(|line| line.starts_with("set-cookie")).collect();
    assert_eq!(cookies, ["set-cookie: a=1", "set-cookie: b=2"]);
}

async fn response_that_can_not_be_sent_is_500(framework: Framework) {
    let site = Site::new(framework, pool(1).build()).await;
    is_problem(&site.get("/stream").await, 500, "answer-broken", None);
    site.serves().await;
    assert_eq!(site.pool.stats().workers.started, 1);
}

static SPANS: Mutex<Vec<Option<&str>>> = Mutex::new(Vec::new());

/// An argument that records the span in which a thread of the pool converts it.
struct Noting;

#[derive(serde::Deserialize)]
struct Sent;

impl serde::Serialize for Sent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        SPANS.lock().unwrap().push(Span::current().metadata().map(tracing::Metadata::name));
        serializer.serialize_unit_struct("Sent")
    }
}

impl<S: Sync> FromRequest<S> for Noting {
    type Rejection = ();

    async fn from_request(_: Request, _: &S) -> Result<Self, ()> {
        Ok(Self)
    }
}

impl ProcessArgument for Noting {
    type Sent = Sent;

    fn into_sent(self) -> Sent {
        Sent
    }

    fn from_sent(_: Sent) -> Self {
        Self
    }
}

#[tokio::test]
async fn task_runs_in_the_span_of_its_request() {
    let _spans = enable_spans();
    let pool = pool(1).build();
    let in_span = from_fn(async |request: Request, next: Next| next.run(request).instrument(info_span!("call")).await);
    let app = Router::new().route("/", get(process_handler(&pool, |_: Noting| "done"))).layer(in_span);
    let response = Client::sending(serve(Listening::Plain, app).await, http::get("/")).await.response().await;
    assert_eq!(response.text(), "done");
    assert_eq!(*SPANS.lock().unwrap(), [Some("call")]);
}
