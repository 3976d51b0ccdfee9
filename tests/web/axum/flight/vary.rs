//! Responses that vary by request headers: RFC 9111, section 4.1.

use axum::http::HeaderMap;
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::get;
use axum::{Router, http::header::ACCEPT_LANGUAGE};
use futures::future::join_all;
use onelane::web::FlightOptions;
use onelane::web::axum::FlightLayer;
use std::sync::Arc;
use tower_http::cors::CorsLayer;

use super::{Alone, Collapsed, Led, Site, numbered, part_of, run_of, with};
use support::http::{self, Client, Listening, Probe, eventually, serve};

fn varying(vary: &'static str) -> impl Fn(usize) -> [(&'static str, &'static str); 1] + Clone + Send + Sync {
    move |_| [("vary", vary)]
}

/// A permissive CORS layer lists `Origin` and more in `Vary`.
#[tokio::test]
async fn requests_behind_which_a_cors_layer_stands_share_one_run() {
    let origin = with(&[("origin", "https://app.test")]);
    for (cors, request) in [
        (CorsLayer::permissive(), http::get("/")),
        (CorsLayer::permissive(), origin.clone()),
        (CorsLayer::very_permissive(), origin),
    ] {
        let (layer, probe) = (FlightLayer::new("cors"), Probe::new());
        let app = numbered(&probe, |run| run.to_string()).layer(cors).layer(layer.clone());
        let site = Site { address: serve(Listening::Plain, app).await, layer, probe };
        let mut clients = site.send(&vec![request; 20]).await;
        site.probe.release(20);
        for (i, client) in clients.iter_mut().enumerate() {
            let response = client.response().await;
            assert!(response.header("vary").is_some_and(|vary| vary.contains("origin")), "{}", response.head);
            assert_eq!((part_of(&response), response.text()), (if i == 0 { Led } else { Collapsed }, "1"));
        }
        assert_eq!((site.probe.started(), site.layer.stats().runs), (1, 1));
    }
}

#[tokio::test]
async fn requests_share_if_all_headers_that_the_response_varies_by_are_equal() {
    let cases: [(&str, &[(&str, &str)]); 7] = [
        ("accept-language", &[]),
        ("Accept-Language", &[("accept-LANGUAGE", "de")]),
        ("accept-language, accept", &[("accept-language", "de"), ("accept", "text/html")]),
        ("accept-language, accept", &[("accept", "text/html")]),
        ("accept-language", &[("accept-language", "")]),
        ("accept-language", &[("accept-language", "de"), ("accept-language", "en")]),
        ("accept-language,, x-other ,", &[("accept-language", "de"), ("x-unnamed", "1")]),
    ];
    for (vary, headers) in cases {
        let site = Site::responding(FlightOptions::new(), varying(vary)).await;
        let parts = site.parts(&[with(headers), with(headers), with(headers)]).await;
        assert_eq!(parts, [(1, Led), (1, Collapsed), (1, Collapsed)], "Vary: {vary}, {headers:?}");
    }
    // Headers that the response does not vary by may differ.
    let site = Site::responding(FlightOptions::new(), varying("accept-language")).await;
    let parts = site.parts(&[with(&[("accept", "text/html")]), with(&[])]).await;
    assert_eq!(parts, [(1, Led), (1, Collapsed)]);
}

#[tokio::test]
async fn requests_do_not_share_if_a_header_that_the_response_varies_by_differs() {
    let pairs: [[&[(&str, &str)]; 2]; 7] = [
        [&[("accept-language", "de")], &[]],
        [&[], &[("accept-language", "de")]],
        [&[("accept-language", "")], &[]],
        [&[("accept-language", "de")], &[("accept-language", "en")]],
        [&[("accept-language", "de"), ("accept-language", "en")], &[("accept-language", "de, en")]],
        [&[("accept-language", "de"), ("accept-language", "en")], &[("accept-language", "de")]],
        [&[("accept-language", "de"), ("accept", "a")], &[("accept-language", "de"), ("accept", "b")]],
    ];
    for [first, second] in pairs {
        let site = Site::responding(FlightOptions::new(), |_| {
            AppendHeaders([("vary", "accept"), ("vary", "Accept-Language")])
        });
        let site = site.await;
        let parts = site.parts(&[with(first), with(second)]).await;
        assert_eq!(parts, [(1, Led), (2, Led)], "{first:?} and {second:?}");
        assert_eq!(site.probe.most_inside(), 1, "the second request joined the next run");
    }
}

#[tokio::test]
async fn requests_in_two_languages_need_two_runs() {
    let (layer, probe) = (FlightLayer::new("languages"), Probe::new());
    let visitor = Arc::clone(&probe);
    let handler = async move |headers: HeaderMap| {
        visitor.visit().await;
        let language = headers[ACCEPT_LANGUAGE].to_str().expect("the header is text").to_owned();
        ([("vary", "accept-language")], language).into_response()
    };
    let app = Router::new().route("/", get(handler)).layer(layer.clone());
    let address = serve(Listening::Plain, app).await;
    let languages = ["de", "en"].repeat(10);
    let request = |language| with(&[("accept-language", language)]);
    let mut clients = join_all(languages.iter().map(|language| Client::sending(address, request(language)))).await;
    eventually("all requests wait", || layer.stats().waiting == 20).await;
    probe.release(20);
    let mut led = 0;
    for (client, language) in clients.iter_mut().zip(languages) {
        let response = client.response().await;
        assert_eq!(response.text(), language);
        led += usize::from(part_of(&response) == Led);
    }
    assert_eq!((led, probe.started(), probe.most_inside()), (2, 2, 1));
}

#[tokio::test]
async fn response_that_varies_by_everything_is_for_its_own_request() {
    for vary in ["*", "accept-language, *", "no header name"] {
        let site = Site::responding(FlightOptions::new(), varying(vary)).await;
        let mut clients = site.send(&[with(&[]), with(&[]), with(&[])]).await;
        site.probe.release(1);
        eventually("the others run at once", || site.probe.started() == 3).await;
        site.probe.release(2);
        let mut runs = Vec::new();
        for client in &mut clients {
            let response = client.response().await;
            assert_eq!(part_of(&response), Alone, "Vary: {vary}");
            runs.push(run_of(&response));
        }
        runs.sort();
        assert_eq!((runs, site.layer.stats().runs), (vec![1, 2, 3], 1), "Vary: {vary}");
    }
}
