//! Requests that share a response.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::AppendHeaders;
use axum::routing::get;
use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use onelane::EndpointGuard;
use onelane::web::FlightOptions;
use onelane::web::axum::{FlightLayer, GuardLayer};

use super::{Collapsed, Led, Site, part_of, run_of, with};
use crate::axum::http2::connect;
use support::http::{self, Client, Listening, Probe, bytes, eventually, serve, soon};

#[tokio::test]
async fn thousand_clients_share_one_run_and_all_get_its_response() {
    let site = Site::responding(FlightOptions::new(), |_| bytes(10_000)).await;
    let mut first = Client::sending(site.address, http::get("/")).await;
    eventually("its handler runs", || site.probe.started() == 1).await;
    let others = join_all((1..1000).map(|_| Client::sending(site.address, http::get("/")))).await;
    eventually("all requests wait", || site.layer.stats().waiting == 1000).await;

    site.probe.release(1);
    let led = first.response().await;
    assert_eq!((led.status, part_of(&led), &led.body), (200, Led, &bytes(10_000)));
    for mut other in others {
        let response = other.response().await;
        assert_eq!((response.status, part_of(&response), run_of(&response)), (200, Collapsed, 1));
        assert_eq!(response.body, led.body);
    }
    let stats = site.layer.stats();
    assert_eq!((site.probe.started(), site.probe.finished()), (1, 1));
    assert_eq!((stats.runs, stats.shared, stats.running, stats.waiting, stats.cancelled), (1, 999, 0, 0, 0));
}

#[tokio::test]
async fn response_is_not_kept() {
    let site = Site::new(FlightOptions::new()).await;
    for run in 1..=3 {
        assert_eq!(site.parts(&[http::get("/")]).await, [(run, Led)]);
    }
}

#[tokio::test]
async fn status_and_all_headers_are_shared() {
    let lines = [("link", "</a>"), ("content-type", "text/x-own"), ("link", "</b>"), ("cache-status", "origin; hit")];
    for status in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::INTERNAL_SERVER_ERROR, StatusCode::FOUND] {
        let respond = move |_| (status, AppendHeaders(lines), "the body");
        let site = Site::responding(FlightOptions::new(), respond).await;
        let mut clients = site.send(&[http::get("/"), http::get("/"), http::get("/")]).await;
        site.probe.release(3);
        let responses = join_all(clients.iter_mut().map(Client::response)).await;
        for (i, response) in responses.iter().enumerate() {
            assert_eq!((response.status, response.text()), (status.as_u16(), "the body"));
            let ours: Vec<&str> = response.head.lines().filter(|line| !line.starts_with("date: ")).skip(1).collect();
            let part = if i == 0 { "onelane; fwd=miss" } else { "onelane; fwd=miss; collapsed" };
            // The list of caches begins with the one nearest to the origin.
            let at = |line: &str| ours.iter().position(|other| *other == line);
            let (theirs, own) = (at("cache-status: origin; hit"), at(&format!("cache-status: {part}")));
            assert!(theirs.is_some() && theirs < own, "{}", response.head);
            for line in ["link: </a>", "link: </b>", "content-type: text/x-own", "x-run: 1", "content-length: 8"] {
                assert!(at(line).is_some(), "{line} in {}", response.head);
            }
        }
        assert_eq!(site.probe.started(), 1);
    }
}

#[tokio::test]
async fn empty_response_is_shared() {
    let site = Site::responding(FlightOptions::new(), |_| StatusCode::NO_CONTENT).await;
    let mut clients = site.send(&[http::get("/"), http::get("/")]).await;
    site.probe.release(2);
    for client in &mut clients {
        assert_eq!(client.response().await.status, 204);
    }
    assert_eq!(site.probe.started(), 1);
}

#[tokio::test]
async fn head_requests_share_with_each_other() {
    let site = Site::new(FlightOptions::new()).await;
    let head = || http::request("HEAD", "/");
    assert_eq!(site.parts(&[head(), head(), head()]).await, [(1, Led), (1, Collapsed), (1, Collapsed)]);
}

#[tokio::test]
async fn response_of_exactly_max_body_is_shared() {
    let site = Site::responding(FlightOptions::new().max_body(10_000), |_| bytes(10_000)).await;
    assert_eq!(site.parts(&[http::get("/"), http::get("/")]).await, [(1, Led), (1, Collapsed)]);
}

#[tokio::test]
async fn response_that_varies_by_a_header_in_the_key_or_an_ignored_one_is_shared() {
    for vary in ["accept-language", "Accept-Language, X-Ignored", "x-ignored"] {
        let options = FlightOptions::new().key_header("Accept-Language").ignore_header("X-Ignored");
        let site = Site::responding(options, move |_| [("vary", vary)]).await;
        let (en, de) = (with(&[("accept-language", "en")]), with(&[("accept-language", "de"), ("x-ignored", "1")]));
        let parts = site.parts(&[en.clone(), de.clone(), en, de]).await;
        assert_eq!(parts, [(1, Led), (2, Led), (1, Collapsed), (2, Collapsed)], "Vary: {vary}");
    }
}

#[tokio::test]
async fn response_with_cache_control_that_allows_sharing_is_shared() {
    for cache_control in ["public", "max-age=60", "no-cache", "x=\"private\"", "stale-if-error=1, public"] {
        let site = Site::responding(FlightOptions::new(), move |_| [("cache-control", cache_control)]).await;
        assert_eq!(site.parts(&[http::get("/"), http::get("/")]).await, [(1, Led), (1, Collapsed)], "{cache_control}");
    }
}

#[tokio::test]
async fn clients_of_both_versions_of_http_share() {
    let site = Site::new(FlightOptions::new()).await;
    let mut old = site.send(&[http::get("/")]).await;
    let (mut requests, _connection) = connect(site.address).await;
    let new =
        tokio::spawn(requests.send_request(Request::get("http://test/").body(Empty::<Bytes>::new()).expect("one")));
    eventually("the request waits", || site.layer.stats().waiting == 2).await;
    site.probe.release(1);
    assert_eq!(old[0].response().await.text(), "answer 1");
    let new = soon(new).await.expect("no panic").expect("answered");
    assert_eq!(new.headers()["cache-status"], "onelane; fwd=miss; collapsed");
    assert_eq!(new.into_body().collect().await.expect("the body is complete").to_bytes(), "answer 1");
}

/// One layer in front of many routes has one map of runs, with the path in the key.
#[tokio::test]
async fn layer_in_front_of_a_router_shares_within_each_route() {
    let (layer, probe) = (FlightLayer::new("router"), Probe::new());
    let route = |name: &'static str| {
        let probe = Arc::clone(&probe);
        get(async move || {
            probe.visit().await;
            name
        })
    };
    let app = Router::new().route("/a", route("a")).route("/b", route("b")).layer(layer.clone());
    let address = serve(Listening::Plain, app).await;
    let paths = ["/a", "/b", "/a", "/b"];
    let mut clients = join_all(paths.map(|path| Client::sending(address, http::get(path)))).await;
    eventually("all requests wait", || layer.stats().waiting == 4).await;
    probe.release(2);
    for (client, path) in clients.iter_mut().zip(paths) {
        assert_eq!(client.response().await.text(), &path[1..]);
    }
    assert_eq!(probe.started(), 2);
}

/// Requests that share a response are one request to the guard.
#[tokio::test]
async fn guard_behind_the_layer_is_acquired_once() {
    let (layer, probe, guard) = (FlightLayer::new("outer"), Probe::new(), Arc::new(EndpointGuard::new("inner")));
    let visitor = Arc::clone(&probe);
    let handler = async move || {
        visitor.visit().await;
        bytes(200_000)
    };
    let app = Router::new().route("/", get(handler)).layer(GuardLayer::new(&guard)).layer(layer.clone());
    let address = serve(Listening::Plain, app).await;
    let permit = guard.try_acquire().expect("the permit is free");
    let mut clients = join_all((0..20).map(|_| Client::sending(address, http::get("/")))).await;
    eventually("all requests wait", || layer.stats().waiting == 20).await;
    assert_eq!(guard.stats().waiting, 1);
    drop(permit);
    probe.release(1);
    for client in &mut clients {
        assert_eq!(client.response().await.body, bytes(200_000));
    }
    assert_eq!((guard.stats().granted, guard.stats().held), (2, 0));
}

/// Each request gets its own copy, so that an outer layer may change it.
#[tokio::test]
async fn response_can_be_changed_for_each_request_by_an_outer_layer() {
    let layer = FlightLayer::new("changed");
    let probe = Probe::new();
    let visitor = Arc::clone(&probe);
    let handler = async move || {
        visitor.visit().await;
        "shared"
    };
    let greet = async |headers: HeaderMap, request: axum::extract::Request, next: axum::middleware::Next| {
        let mut response = next.run(request).await;
        let name = headers.get("x-name").cloned().unwrap_or(HeaderValue::from_static("nobody"));
        response.headers_mut().insert("x-hello", name);
        response
    };
    let app = Router::new().route("/", get(handler)).layer(layer.clone()).layer(axum::middleware::from_fn(greet));
    let address = serve(Listening::Plain, app).await;
    let names = ["ada", "grace", "edsger"];
    let requests = names.map(|name| Client::sending(address, with(&[("x-name", name)])));
    let mut clients = join_all(requests).await;
    eventually("all requests wait", || layer.stats().waiting == 3).await;
    probe.release(1);
    for (client, name) in clients.iter_mut().zip(names) {
        let response = client.response().await;
        assert_eq!((response.header("x-hello"), response.text()), (Some(name), "shared"));
    }
    assert_eq!(probe.started(), 1);
}
