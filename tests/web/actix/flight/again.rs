//! Requests that join the next run, because they could not share the response of their first run.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::VARY;
use actix_web::web::{get, resource};
use futures::future::join_all;
use onelane::web::FlightOptions;
use reqwest::RequestBuilder;

use super::{ALONE, COLLAPSED, LED, Seen, Shared, numbered};
use support::actix::{Server, ask};
use support::client::{eventually, web_client};

/// Returns the number of requests that led a run, and the number of requests that shared a response.
fn parts(seen: &[Seen]) -> (usize, usize) {
    let count = |part: Option<&str>| seen.iter().filter(|seen| seen.cache_status.as_deref() == part).count();
    (count(LED), count(COLLAPSED))
}

#[tokio::test]
async fn one_401_costs_one_more_run() {
    for status in [StatusCode::UNAUTHORIZED, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS] {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(move |run| match run {
            1 => HttpResponse::new(status),
            run => numbered(run),
        }));
        let first = server.get("/");
        eventually("the first request leads", || shared.work.inside() == 1).await;
        let others: Vec<_> = (0..20).map(|_| server.get("/")).collect();
        eventually("the others wait for the first", || shared.flights.stats().waiting == 21).await;
        shared.work.let_finish(1);
        assert_eq!(Seen::of(first.await.expect("no panic")).await, Seen::new(status.as_u16(), ALONE, ""));
        // 20 requests shared the first run, and 19 share the second. A request that is still about to leave the first one
        // would be counted as waiting, too.
        eventually("the others share the next run", || {
            shared.flights.stats().shared == 20 + 19 && shared.work.inside() == 1
        })
        .await;
        shared.work.let_finish(1);
        let mut seen = Vec::new();
        for other in others {
            seen.push(Seen::of(other.await.expect("no panic")).await);
        }
        assert!(seen.iter().all(|seen| (seen.status, &*seen.body) == (200, "2")), "{seen:?}");
        assert_eq!((parts(&seen), shared.work.started(), shared.work.most_inside()), ((1, 19), 2, 1), "{status}");
        shared.is_over().await;
    }
}

#[tokio::test]
async fn requests_that_all_time_out_run_one_at_a_time() {
    for status in [StatusCode::REQUEST_TIMEOUT, StatusCode::UNAUTHORIZED] {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(move |_| HttpResponse::new(status)));
        let calls: Vec<_> = (0..20).map(|_| server.get("/")).collect();
        eventually("all requests wait", || shared.flights.stats().waiting == 20).await;
        shared.work.let_finish(20);
        for call in calls {
            assert_eq!(Seen::of(call.await.expect("no panic")).await, Seen::new(status.as_u16(), ALONE, ""));
        }
        assert_eq!((shared.work.started(), shared.work.most_inside()), (20, 1), "{status}");
    }
}

#[tokio::test]
async fn max_wait_covers_all_runs_of_a_request_together() {
    let shared = Shared::new(FlightOptions::new().max_wait(Duration::from_millis(500)));
    let server = Server::start({
        let shared = shared.clone();
        move |config| {
            let work = Arc::clone(&shared.work);
            let slow = move || {
                let work = Arc::clone(&work);
                async move {
                    work.run().await;
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    HttpResponse::new(StatusCode::UNAUTHORIZED)
                }
            };
            config.service(resource("/").wrap(shared.flights.clone()).route(get().to(slow)));
        }
    });
    shared.work.let_finish(10);
    let responses = join_all((0..10).map(|_| server.get("/"))).await;
    let count = |status| {
        responses.iter().filter(|response| response.as_ref().expect("no panic").status().as_u16() == status).count()
    };
    assert!((1..=2).contains(&count(401)) && count(401) + count(503) == 10, "{} and {}", count(401), count(503));
    assert_eq!((shared.flights.stats().timed_out, shared.work.most_inside()), (count(503) as u64, 1));
}

#[tokio::test]
async fn requests_share_if_the_headers_that_the_response_varies_by_are_equal() {
    let vary =
        |vary: &'static str| move |run: usize| HttpResponse::Ok().insert_header((VARY, vary)).body(run.to_string());
    let in_languages = |server: &Server, languages: [Option<&str>; 2]| {
        let request = |language: Option<&str>| -> RequestBuilder {
            let request = web_client().get(server.url("/")).header("origin", "https://app.test");
            match language {
                Some(language) => request.header("accept-language", language),
                None => request,
            }
        };
        languages.map(request)
    };
    for (names, languages, shares) in [
        ("Accept-Language", [None, None], true),
        ("accept-LANGUAGE, Origin", [Some("de"), Some("de")], true),
        ("origin, access-control-request-method, access-control-request-headers", [Some("de"), Some("en")], true),
        ("accept-language", [Some("de"), Some("en")], false),
        ("accept-language", [Some("de"), None], false),
        ("accept-language", [None, Some("de")], false),
        ("accept-language", [Some(""), None], false),
    ] {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(vary(names)));
        let [first, second] = in_languages(&server, languages);
        let first = ask(first);
        eventually("the first request leads", || shared.work.inside() == 1).await;
        let second = ask(second);
        eventually("the second request waits", || shared.flights.stats().waiting == 2).await;
        shared.work.let_finish(2);
        assert_eq!(Seen::of(first.await.expect("no panic")).await, Seen::new(200, LED, "1"));
        let expected = if shares { Seen::new(200, COLLAPSED, "1") } else { Seen::new(200, LED, "2") };
        assert_eq!(Seen::of(second.await.expect("no panic")).await, expected, "{names}: {languages:?}");
        assert_eq!(shared.work.most_inside(), 1);
        // Nothing is remembered.
        let next = server.get("/");
        shared.work.let_finish(1);
        assert_eq!(Seen::of(next.await.expect("no panic")).await.cache_status.as_deref(), LED);
    }
}
