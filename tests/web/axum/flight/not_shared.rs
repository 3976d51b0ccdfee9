//! Requests that don't share: they ask for different things, or must be served alone.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use bytes::Bytes;
use futures::future::join_all;
use futures::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use onelane::web::FlightOptions;
use onelane::web::axum::FlightLayer;

use super::{Alone, Collapsed, Led, Part, Site, get_with, numbered, part_of, run_of, with};
use crate::axum::http2::connect;
use support::http::{self, Client, Listening, Probe, eventually, serve, soon};

/// Two of each: identical requests share, the others don't.
async fn only_identical_requests_share(options: FlightOptions, requests: &[String]) {
    let site = Site::new(options).await;
    let twice: Vec<String> = requests.iter().chain(requests).cloned().collect();
    let led = (1..=requests.len()).map(|run| (run, Led));
    let joined = (1..=requests.len()).map(|run| (run, Collapsed));
    assert_eq!(site.parts(&twice).await, led.chain(joined).collect::<Vec<_>>(), "{requests:#?}");
}

/// They don't share even though they are identical.
async fn none_shares(options: FlightOptions, request: String) {
    let site = Site::new(options).await;
    let parts = site.parts(&[request.clone(), request.clone()]).await;
    assert_eq!(parts, [(1, Alone), (2, Alone)], "{request}");
    assert_eq!(site.layer.stats().runs, 0, "{request}");
}

#[tokio::test]
async fn get_and_head_do_not_mix() {
    only_identical_requests_share(FlightOptions::new(), &["GET", "HEAD"].map(|method| http::request(method, "/")))
        .await;
}

#[tokio::test]
async fn different_paths_queries_and_hosts_do_not_share() {
    let targets = ["/", "/a", "/a/", "/A", "/a?", "/a?x=1", "/a?x=2", "/a%3Fx=1", "/%61"];
    // A question mark with nothing after it asks for the same thing.
    let targets = targets.into_iter().filter(|target| *target != "/a?");
    only_identical_requests_share(FlightOptions::new(), &targets.map(http::get).collect::<Vec<_>>()).await;
    let hosts = ["test", "other", "test:81"].map(|host| format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    only_identical_requests_share(FlightOptions::new(), &hosts).await;
}

/// A handler that builds links from one host would put them into the response of a client that asked the other.
#[tokio::test]
async fn request_that_names_two_hosts_is_served_alone() {
    none_shares(FlightOptions::new(), "GET http://test/ HTTP/1.1\r\nhost: other\r\n\r\n".into()).await;
    none_shares(FlightOptions::new(), "GET / HTTP/1.1\r\nhost: test\r\nhost: other\r\n\r\n".into()).await;
    let site = Site::new(FlightOptions::new()).await;
    let absolute = "GET http://test/ HTTP/1.1\r\nhost: test\r\n\r\n".to_owned();
    assert_eq!(site.parts(&[http::get("/"), absolute]).await, [(1, Led), (1, Collapsed)], "both names are the same");
}

/// An outer layer may have put something into the target that the client did not send.
#[tokio::test]
async fn requests_whose_targets_were_rewritten_differently_do_not_share() {
    let (layer, probe) = (FlightLayer::new("rewritten"), Probe::new());
    let visitor = Arc::clone(&probe);
    let handler = async move |uri: Uri| {
        visitor.visit().await;
        uri.path().to_owned()
    };
    let rewrite = async |mut request: Request, next: Next| {
        let user = request.headers()["x-user"].to_str().expect("the header is text");
        *request.uri_mut() = format!("/users/{user}/me").parse().expect("the target is valid");
        next.run(request).await
    };
    let app = Router::new().fallback(handler).layer(layer.clone()).layer(from_fn(rewrite));
    let address = serve(Listening::Plain, app).await;
    let users = ["ada", "grace", "ada"];
    let send = users.map(|user| Client::sending(address, get_with("GET", "/me", &[("x-user", user)])));
    let mut clients = join_all(send).await;
    eventually("all requests wait", || layer.stats().waiting == 3).await;
    probe.release(2);
    for (client, user) in clients.iter_mut().zip(users) {
        assert_eq!(client.response().await.text(), format!("/users/{user}/me"));
    }
    assert_eq!(layer.stats().runs, 2);
}

#[tokio::test]
async fn requests_by_different_schemes_do_not_share() {
    let site = Site::new(FlightOptions::new()).await;
    let requests = ["http", "https"].map(|scheme| format!("GET {scheme}://test/ HTTP/1.1\r\nhost: test\r\n\r\n"));
    assert_eq!(site.parts(&requests).await, [(1, Led), (2, Led)]);
}

#[tokio::test]
async fn methods_that_may_change_something_are_never_shared() {
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"] {
        none_shares(FlightOptions::new(), get_with(method, "/", &[("content-length", "0")])).await;
    }
}

#[tokio::test]
async fn request_with_a_body_is_served_alone() {
    none_shares(FlightOptions::new(), with(&[("content-length", "3")]) + "abc").await;
    none_shares(FlightOptions::new(), with(&[("transfer-encoding", "chunked")]) + "3\r\nabc\r\n0\r\n\r\n").await;
    let site = Site::new(FlightOptions::new()).await;
    let empty = with(&[("content-length", "0")]);
    assert_eq!(site.parts(&[http::get("/"), empty]).await, [(1, Led), (1, Collapsed)], "an empty body is none");
}

/// In HTTP/2 no header has to announce the body.
#[tokio::test]
async fn request_with_an_unannounced_body_is_served_alone() {
    let site = Site::new(FlightOptions::new()).await;
    let (mut requests, _connection) = connect(site.address).await;
    let mut responses = Vec::new();
    for n in 1..=2 {
        let body = StreamBody::new(stream::iter([Ok::<_, std::io::Error>(Frame::data(Bytes::from("abc")))]));
        let request = hyper::Request::get("http://test/").body(body).expect("the request is valid");
        responses.push(tokio::spawn(requests.send_request(request)));
        eventually("the request is served", || site.probe.started() == n).await;
    }
    site.probe.release(2);
    for response in responses {
        let response = soon(response).await.expect("no panic").expect("answered");
        assert_eq!(response.headers()["cache-status"], "onelane; fwd=bypass");
    }
    assert_eq!(site.layer.stats().runs, 0);
}

#[tokio::test]
async fn request_that_identifies_the_client_is_served_alone() {
    for header in ["authorization", "Cookie", "proxy-authorization"] {
        none_shares(FlightOptions::new(), with(&[(header, "Basic YWRh")])).await;
        none_shares(FlightOptions::new(), with(&[(header, "")])).await;
    }
}

#[tokio::test]
async fn request_that_identifies_the_client_shares_if_the_header_is_ignored() {
    for header in ["authorization", "cookie", "proxy-authorization"] {
        let site = Site::new(FlightOptions::new().ignore_header(header)).await;
        let requests = [with(&[(header, "ada")]), with(&[(header, "grace")]), with(&[])];
        assert_eq!(site.parts(&requests).await, [(1, Led), (1, Collapsed), (1, Collapsed)], "{header}");
    }
}

#[tokio::test]
async fn users_share_only_with_themselves_if_the_key_contains_the_header() {
    for header in ["Authorization", "cookie", "proxy-authorization", "X-User"] {
        let requests = [with(&[(header, "ada")]), with(&[(header, "grace")]), with(&[(header, "")]), with(&[])];
        only_identical_requests_share(FlightOptions::new().key_header(header), &requests).await;
    }
}

/// A header in the key does not excuse the other one.
#[tokio::test]
async fn request_that_identifies_the_client_twice_is_served_alone_unless_both_headers_are_accounted_for() {
    let both = with(&[("authorization", "ada"), ("cookie", "session=1")]);
    none_shares(FlightOptions::new().key_header("authorization"), both.clone()).await;
    none_shares(FlightOptions::new().ignore_header("cookie"), both.clone()).await;
    let site = Site::new(FlightOptions::new().key_header("authorization").ignore_header("cookie")).await;
    assert_eq!(site.parts(&[both.clone(), both]).await, [(1, Led), (1, Collapsed)]);
}

#[tokio::test]
async fn values_of_key_headers_are_not_confused() {
    let options = || FlightOptions::new().key_header("x-a").key_header("x-b");
    let requests = [
        with(&[("x-a", "1"), ("x-b", "2")]),
        with(&[("x-a", "2"), ("x-b", "1")]),
        with(&[("x-a", "12")]),
        with(&[("x-b", "12")]),
        with(&[("x-a", "1"), ("x-a", "2")]),
        with(&[("x-a", "1, 2")]),
        with(&[("x-a", "1")]),
        with(&[("x-a", "")]),
        with(&[]),
    ];
    only_identical_requests_share(options(), &requests).await;
}

#[tokio::test]
async fn partial_or_conditional_request_is_served_alone() {
    let particular = [
        ("range", "bytes=0-9"),
        ("if-range", "\"a\""),
        ("if-match", "\"a\""),
        ("if-none-match", "\"a\""),
        ("if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT"),
        ("if-unmodified-since", "Sat, 29 Oct 1994 19:43:31 GMT"),
        ("upgrade", "websocket"),
    ];
    for header in particular {
        none_shares(FlightOptions::new(), with(&[header])).await;
    }
    only_identical_requests_share(
        FlightOptions::new().key_header("if-none-match"),
        &[with(&[("if-none-match", "\"a\"")])],
    )
    .await;
}

/// Inside the nested routers, the path is the same.
#[tokio::test]
async fn nested_routers_do_not_share() {
    let (layer, probe) = (FlightLayer::new("nested"), Probe::new());
    let inner = |name: &'static str| {
        let probe = Arc::clone(&probe);
        let handler = async move || {
            probe.visit().await;
            name
        };
        Router::new().route("/page", get(handler)).layer(layer.clone())
    };
    let app = Router::new().nest("/a", inner("a")).nest("/b", inner("b"));
    let app = app.nest("/c", Router::new().nest("/a", inner("c")));
    let address = serve(Listening::Plain, app).await;
    let paths = [("/a/page", "a"), ("/b/page", "b"), ("/c/a/page", "c"), ("/a/page", "a")];
    let mut clients = join_all(paths.map(|(path, _)| Client::sending(address, http::get(path)))).await;
    eventually("all requests wait", || layer.stats().waiting == 4).await;
    probe.release(3);
    for (client, (path, name)) in clients.iter_mut().zip(paths) {
        assert_eq!(client.response().await.text(), name, "{path}");
    }
    assert_eq!((layer.stats().runs, layer.stats().shared), (3, 1));
}

#[derive(Clone)]
struct User(String);

/// The layer that authenticates requests knows the user.
#[tokio::test]
async fn users_share_only_with_themselves_by_what_a_middleware_found() {
    let authenticate = async |mut request: Request, next: Next| {
        let token = request.headers().get("x-token").and_then(|token| token.to_str().ok());
        let user = match token {
            Some("1" | "2") => Some("ada"),
            Some("3") => Some("grace"),
            _ => None,
        };
        if let Some(user) = user {
            request.extensions_mut().insert(User(user.to_owned()));
        }
        next.run(request).await
    };
    let layer = FlightLayer::keyed("users", |head: &Parts| head.extensions.get().map(|User(name)| name.clone()));
    let probe = Probe::new();
    let app = numbered(&probe, |run| run.to_string()).layer(layer.clone()).layer(from_fn(authenticate));
    let address = serve(Listening::Plain, app).await;
    let site = Site { layer, probe, address };
    let parts = site.parts(&["1", "3", "2", "3", "?", "?"].map(|token| with(&[("x-token", token)]))).await;
    let expected: [(usize, Part); 6] = [(1, Led), (2, Led), (1, Collapsed), (2, Collapsed), (3, Alone), (4, Alone)];
    assert_eq!(parts, expected, "ada has two tokens, and an anonymous request is served alone");
}

#[tokio::test]
async fn key_is_applied_in_addition_to_the_other_rules() {
    let layer = FlightLayer::keyed("users", |_: &Parts| Some("the same"));
    let probe = Probe::new();
    let address = serve(Listening::Plain, numbered(&probe, |run| run.to_string()).layer(layer.clone())).await;
    let site = Site { layer, probe, address };
    let requests = [with(&[]), get_with("GET", "/other", &[]), with(&[("cookie", "a=1")]), with(&[])];
    assert_eq!(site.parts(&requests).await, [(1, Led), (2, Led), (3, Alone), (1, Collapsed)]);
}

#[tokio::test]
async fn two_layers_share_nothing() {
    let probe = Probe::new();
    let app = numbered(&probe, |run| run.to_string());
    let (one, other) = (FlightLayer::new("one"), FlightLayer::new("other"));
    let first = serve(Listening::Plain, app.clone().layer(one.clone())).await;
    let second = serve(Listening::Plain, app.layer(other.clone())).await;
    let mut clients = [Client::sending(first, http::get("/")).await, Client::sending(second, http::get("/")).await];
    eventually("both run", || probe.started() == 2).await;
    probe.release(2);
    let mut runs = Vec::new();
    for client in &mut clients {
        let response = client.response().await;
        assert_eq!(part_of(&response), Led);
        runs.push(run_of(&response));
    }
    assert_ne!(runs[0], runs[1]);
    assert_eq!((one.stats().runs, other.stats().runs), (1, 1));
}
