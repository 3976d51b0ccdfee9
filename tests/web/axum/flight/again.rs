//! Requests that join the next run, because they could not share the response of their first run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::future::join_all;
use onelane::web::FlightOptions;
use onelane::web::axum::FlightLayer;

use super::{Alone, Collapsed, Led, Site, part_of, run_of};
use support::http::{self, Client, Listening, Probe, eventually, serve};

fn refused_first(status: StatusCode) -> impl Fn(usize) -> Response + Clone {
    move |run| if run == 1 { status.into_response() } else { format!("answer {run}").into_response() }
}

#[tokio::test]
async fn one_401_costs_one_more_run() {
    for status in [StatusCode::UNAUTHORIZED, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS] {
        let site = Site::responding(FlightOptions::new(), refused_first(status)).await;
        let mut clients = site.send(&vec![http::get("/"); 21]).await;
        site.probe.release(21);
        let refused = clients[0].response().await;
        assert_eq!((refused.status, part_of(&refused), run_of(&refused)), (status.as_u16(), Alone, 1));
        let mut led = 0;
        for client in &mut clients[1..] {
            let response = client.response().await;
            assert_eq!((response.status, response.text(), run_of(&response)), (200, "answer 2", 2));
            led += usize::from(part_of(&response) == Led);
            assert!(matches!(part_of(&response), Led | Collapsed));
        }
        assert_eq!((site.probe.started(), site.probe.most_inside(), led), (2, 1, 1), "{status}");
        assert_eq!((site.layer.stats().runs, site.layer.stats().waiting), (2, 0));
    }
}

/// Serves a handler that takes `length` and always responds with `status`.
async fn slow(options: FlightOptions, status: StatusCode, length: Duration) -> Site {
    let (layer, probe) = (FlightLayer::new("site").options(options), Probe::new());
    let visitor = Arc::clone(&probe);
    let handler = async move || {
        visitor.visit_for(length).await;
        status
    };
    let address = serve(Listening::Plain, Router::new().route("/", get(handler)).layer(layer.clone())).await;
    Site { layer, probe, address }
}

#[tokio::test]
async fn requests_that_all_time_out_run_one_at_a_time() {
    for status in [StatusCode::REQUEST_TIMEOUT, StatusCode::UNAUTHORIZED] {
        let site = slow(FlightOptions::new(), status, Duration::from_millis(20)).await;
        let mut clients = join_all((0..20).map(|_| Client::sending(site.address, http::get("/")))).await;
        for response in join_all(clients.iter_mut().map(Client::response)).await {
            assert_eq!((response.status, part_of(&response)), (status.as_u16(), Alone));
        }
        assert_eq!((site.probe.started(), site.probe.most_inside()), (20, 1), "{status}");
    }
}

/// No request waits for other requests forever.
#[tokio::test]
async fn request_is_refused_after_32_runs() {
    let site = Site::responding(FlightOptions::new(), |_| StatusCode::UNAUTHORIZED).await;
    let mut clients = site.send(&vec![http::get("/"); 40]).await;
    for run in 1..=32 {
        assert_eq!((site.probe.started(), site.probe.most_inside()), (run, 1));
        site.probe.release(1);
        if run < 32 {
            eventually("the next run begins", || site.probe.started() > run).await;
        }
    }
    let responses = join_all(clients.iter_mut().map(Client::response)).await;
    let with = |status| responses.iter().filter(|response| response.status == status).count();
    assert_eq!((with(401), with(503)), (32, 8));
    assert_eq!((site.probe.started(), site.probe.most_inside(), site.layer.stats().waiting), (32, 1, 0));
}

#[tokio::test]
async fn max_wait_covers_all_runs_of_a_request_together() {
    let options = FlightOptions::new().max_wait(Duration::from_millis(500));
    let site = slow(options, StatusCode::UNAUTHORIZED, Duration::from_millis(200)).await;
    let start = Instant::now();
    let mut clients = join_all((0..10).map(|_| Client::sending(site.address, http::get("/")))).await;
    let responses = join_all(clients.iter_mut().map(Client::response)).await;
    let elapsed = start.elapsed();
    let count = |status| responses.iter().filter(|response| response.status == status).count();
    assert!((1..=2).contains(&count(401)) && count(401) + count(503) == 10, "{} and {}", count(401), count(503));
    assert!(elapsed < Duration::from_millis(1_900), "{elapsed:?}: each wait began anew");
    assert_eq!(site.layer.stats().timed_out, count(503) as u64);
    assert_eq!(site.probe.most_inside(), 1);
}

#[tokio::test]
async fn personal_response_sends_the_others_away_at_once() {
    let site = Site::responding(FlightOptions::new(), |run| [("set-cookie", format!("session={run}"))]).await;
    let mut clients = site.send(&vec![http::get("/"); 6]).await;
    site.probe.release(1);
    eventually("the others run at once", || site.probe.started() == 6).await;
    assert_eq!((site.probe.most_inside(), site.layer.stats().runs), (5, 1));
    site.probe.release(5);
    for client in &mut clients {
        assert_eq!(part_of(&client.response().await), Alone);
    }
}

/// Requests that join the next run keep their places, even if other requests arrive in the meantime.
#[tokio::test]
async fn full_flight_refuses_no_request_that_joins_the_next_run() {
    let runs = Arc::new(AtomicUsize::new(0));
    let (layer, probe) = (FlightLayer::new("full").options(FlightOptions::new().max_waiters(9)), Probe::new());
    let (visitor, counter) = (Arc::clone(&probe), Arc::clone(&runs));
    let handler = async move || {
        visitor.visit_for(Duration::from_millis(5)).await;
        let run = counter.fetch_add(1, Ordering::SeqCst) + 1;
        if run.is_multiple_of(2) { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
    };
    let address = serve(Listening::Plain, Router::new().route("/", get(handler)).layer(layer.clone())).await;
    // Ten clients that never exceed the limit together, each with many requests in a row.
    let clients = (0..10).map(async |_| {
        let mut client = Client::connect(address).await;
        for _ in 0..50 {
            client.send(http::get("/")).await;
            let status = client.response().await.status;
            assert!(matches!(status, 200 | 401), "{status}");
        }
    });
    join_all(clients).await;
    assert_eq!((layer.stats().refused, probe.most_inside()), (0, 1));
}
