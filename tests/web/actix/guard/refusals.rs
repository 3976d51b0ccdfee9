//! Requests that are refused.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::get;
use futures::future::join_all;
use onelane::guard::AcquireErrorKind;
use onelane::web::{GuardOptions, Refusal};
use onelane::{AcquireError, EndpointGuard, Queue};
use reqwest::Response;
use tokio::time::sleep;

use super::guarded;
use support::actix::{Server, Work, assert_problem};
use support::client::eventually;

#[tokio::test]
async fn busy_guard_without_a_queue_refuses_with_503() {
    let guard = EndpointGuard::builder("busy").queue(Queue::Reject).build();
    refused_while_one_is_inside(guard, 0, "https://docs.rs/onelane/latest/onelane/web/index.html#busy").await;
}

#[tokio::test]
async fn full_queue_refuses_with_503() {
    let guard = EndpointGuard::builder("full").queue(Queue::Bounded(1)).build();
    refused_while_one_is_inside(guard, 1, "https://docs.rs/onelane/latest/onelane/web/index.html#queue-full").await;
}

#[tokio::test]
async fn wait_beyond_its_limit_is_refused_with_503() {
    let guard = EndpointGuard::builder("slow").max_wait(Duration::from_millis(50)).build();
    refused_while_one_is_inside(guard, 0, "https://docs.rs/onelane/latest/onelane/web/index.html#timeout").await;
}

async fn refused_while_one_is_inside(guard: EndpointGuard, waiting: usize, kind: &str) {
    let (guard, work) = (Arc::new(guard), Arc::new(Work::default()));
    let server = Server::start(guarded(&guard, GuardOptions::new(), &work));
    let inside = server.get("/");
    eventually("the first request is inside", || work.started() == 1).await;
    let queued: Vec<_> = (0..waiting).map(|_| server.get("/")).collect();
    eventually("the queue is full", || guard.stats().waiting == waiting).await;

    let refusal = server.get("/").await.expect("no panic");
    assert_problem(refusal, 503, Some("1"), kind).await;
    assert_eq!(work.started(), 1, "a refused request does not run");

    work.let_finish(1 + waiting);
    assert_eq!(inside.await.expect("no panic").status(), 200);
    for response in join_all(queued).await {
        assert_eq!(response.expect("no panic").status(), 200);
    }
    work.let_finish(1);
    assert_eq!(server.get("/").await.expect("no panic").status(), 200, "a request is admitted again afterwards");
}

#[tokio::test]
async fn closed_guard_refuses_with_503_without_retry_after() {
    let (guard, work) = (Arc::new(EndpointGuard::new("closed")), Arc::new(Work::default()));
    let server = Server::start(guarded(&guard, GuardOptions::new(), &work));
    let inside = server.get("/");
    eventually("the first request is inside", || work.started() == 1).await;
    let queued = server.get("/");
    eventually("the second request waits", || guard.stats().waiting == 1).await;

    guard.close();
    assert_problem(
        queued.await.expect("no panic"),
        503,
        None,
        "https://docs.rs/onelane/latest/onelane/web/index.html#closed",
    )
    .await;
    assert_problem(
        server.get("/").await.expect("no panic"),
        503,
        None,
        "https://docs.rs/onelane/latest/onelane/web/index.html#closed",
    )
    .await;
    work.let_finish(1);
    assert_eq!(inside.await.expect("no panic").status(), 200, "the request inside finishes");
    assert_eq!(work.started(), 1);
}

#[tokio::test]
async fn retry_after_reports_how_long_permits_are_held() {
    let guard = Arc::new(EndpointGuard::builder("timed").queue(Queue::Reject).build());
    let work = Arc::new(Work::default());
    let server = Server::start(guarded(&guard, GuardOptions::new(), &work));
    // The first holder is measured. A request that is refused meanwhile gets the default; the next one gets the
    // measured value.
    for (held, retry_after) in [(Duration::from_millis(1100), "1"), (Duration::ZERO, "2")] {
        let started = work.started();
        let inside = server.get("/");
        eventually("the request is inside", || work.started() > started).await;
        let refusal = server.get("/").await.expect("no panic");
        assert_problem(refusal, 503, Some(retry_after), "https://docs.rs/onelane/latest/onelane/web/index.html#busy")
            .await;
        // Real time, because the test measures a server in its own threads.
        sleep(held).await;
        work.let_finish(1);
        assert_eq!(inside.await.expect("no panic").status(), 200);
    }
}

#[tokio::test]
async fn error_returned_by_a_handler_is_the_same_response() {
    static GUARD: EndpointGuard = EndpointGuard::builder("section").queue(Queue::Reject).build();

    async fn section() -> Result<&'static str, AcquireError> {
        GUARD.run(async { "done" }).await
    }
    async fn blocks() -> Result<&'static str, AcquireError> {
        let _permit = GUARD.acquire_blocking()?;
        Ok("done")
    }
    async fn missed() -> Result<&'static str, AcquireError> {
        Err(AcquireErrorKind::GrantExpired.into())
    }
    async fn nested() -> Result<&'static str, AcquireError> {
        GUARD.run(section()).await?
    }
    let server = Server::start(|config| {
        config
            .route("/section", get().to(section))
            .route("/blocks", get().to(blocks))
            .route("/missed", get().to(missed))
            .route("/nested", get().to(nested));
    });
    assert_eq!(server.get("/section").await.expect("no panic").status(), 200);
    let permit = GUARD.try_acquire().expect("the permit is free");
    assert_problem(
        server.get("/section").await.expect("no panic"),
        503,
        Some("1"),
        "https://docs.rs/onelane/latest/onelane/web/index.html#busy",
    )
    .await;
    drop(permit);
    let nested = server.get("/nested").await.expect("no panic");
    assert_problem(nested, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock").await;
    let blocks = server.get("/blocks").await.expect("no panic");
    assert_problem(blocks, 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#blocking-in-async").await;
    let missed = server.get("/missed").await.expect("no panic");
    assert_problem(missed, 503, Some("1"), "https://docs.rs/onelane/latest/onelane/web/index.html#grant-expired").await;
    GUARD.close();
    assert_problem(
        server.get("/section").await.expect("no panic"),
        503,
        None,
        "https://docs.rs/onelane/latest/onelane/web/index.html#closed",
    )
    .await;
}

#[tokio::test]
async fn every_part_of_the_response_can_be_changed() {
    let options = GuardOptions::new().on_refusal(|refusal: Refusal, _| {
        refusal
            .with_status(409)
            .with_type("https://example.org/busy")
            .with_title("In use")
            .with_detail("Another client is configuring this device.")
            .with_retry_after(Some(Duration::from_millis(6500)))
            .with_header("x-device", "7")
            .with_header("link", "</a>")
            .with_header("link", "</b>")
    });
    let response = refused_with(options).await;
    assert_eq!(response.headers()["x-device"], "7");
    assert_eq!(response.headers().get_all("link").iter().count(), 2);
    let problem = assert_problem(response, 409, Some("7"), "https://example.org/busy").await;
    assert_eq!(problem["title"], "In use");
    assert_eq!(problem["detail"], "Another client is configuring this device.");

    let options = GuardOptions::new()
        .on_refusal(|refusal: Refusal, _| refusal.with_retry_after(None).with_body("text/plain", "in use"));
    let response = refused_with(options).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()[CONTENT_TYPE.as_str()], "text/plain");
    assert_eq!(response.headers().get("retry-after"), None);
    assert_eq!(response.text().await.expect("the body is complete"), "in use");
}

async fn refused_with(options: GuardOptions) -> Response {
    let guard = Arc::new(EndpointGuard::builder("changed").queue(Queue::Reject).build());
    let server = Server::start(guarded(&guard, options, &Arc::default()));
    let _permit = guard.try_acquire().expect("the permit is free");
    server.get("/").await.expect("no panic")
}
