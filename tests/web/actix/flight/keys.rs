//! Which requests share, and which are served alone.

use std::sync::Arc;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{Bytes, get, resource};
use actix_web::{Error, HttpMessage, HttpRequest};
use onelane::web::FlightOptions;
use onelane::web::actix::FlightMiddleware;

use super::{ALONE, COLLAPSED, LED, Seen, Shared, numbered};
use support::actix::{Server, Work, ask};
use support::client::{eventually, web_client};

/// Two concurrent requests, and whether they share a response.
#[tokio::test]
async fn only_identical_requests_share() {
    let cases = [
        ([("GET", "/a?x=1", "h"), ("GET", "/a?x=1", "h")], true),
        ([("GET", "/a?x=1", "h"), ("GET", "/a?x=2", "h")], false),
        ([("GET", "/a?x=1", "h"), ("GET", "/a", "h")], false),
        ([("GET", "/a", "h"), ("GET", "/b", "h")], false),
        ([("GET", "/a", "h"), ("GET", "/a/", "h")], false),
        ([("GET", "/a", "h"), ("GET", "/a", "other")], false),
        ([("GET", "/a", "h"), ("GET", "/a", "h:81")], false),
        ([("GET", "/a", "h"), ("HEAD", "/a", "h")], false),
        ([("HEAD", "/a", "h"), ("HEAD", "/a", "h")], true),
        ([("POST", "/a", "h"), ("POST", "/a", "h")], false),
        ([("OPTIONS", "/a", "h"), ("OPTIONS", "/a", "h")], false),
        ([("DELETE", "/a", "h"), ("DELETE", "/a", "h")], false),
        ([("GET", "http://h/a", "h"), ("GET", "/a", "h")], true),
        // A request that names two hosts is served alone.
        ([("GET", "http://other/a", "h"), ("GET", "http://other/a", "h")], false),
    ];
    for (requests, shares) in cases {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(numbered));
        let raw = requests.map(|(method, target, host)| {
            format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n")
        });
        let (mut first, mut second) = shared.raw_pair(&server, &raw, shares).await;
        let heads = [first.read_until("\r\n\r\n").await, second.read_until("\r\n\r\n").await];
        let is_get = |i: usize| matches!(requests[i].0, "GET" | "HEAD") && !requests[i].1.starts_with("http://other");
        let expected = [LED, if shares { COLLAPSED } else { LED }];
        for (i, (head, expected)) in heads.iter().zip(expected).enumerate() {
            let expected = if is_get(i) { expected } else { ALONE }.expect("the response is a number");
            assert!(head.contains(&format!("cache-status: {expected}\r\n")), "{requests:?}: {head}");
        }
    }
}

/// A request with one of these headers is served alone, even alongside an identical one, unless the key accounts
/// for the header.
#[tokio::test]
async fn requests_that_depend_on_more_than_their_target_run_alone_by_default() {
    for (name, value) in [
        ("range", "bytes=0-1"),
        ("if-range", "\"a\""),
        ("if-match", "\"a\""),
        ("if-none-match", "\"a\""),
        ("if-modified-since", "Sat, 29 Oct 1994 19:43:31 GMT"),
        ("if-unmodified-since", "Sat, 29 Oct 1994 19:43:31 GMT"),
        ("upgrade", "websocket"),
        ("authorization", "Bearer a"),
        ("proxy-authorization", "Basic a"),
        ("cookie", "id=7"),
    ] {
        let request = |server: &Server, value: &str| web_client().get(server.url("/")).header(name, value);
        for (options, other, shares) in [
            (FlightOptions::new(), value, false),
            (FlightOptions::new().key_header(name), value, true),
            (FlightOptions::new().key_header(name), "another", false),
            (FlightOptions::new().ignore_header(name.to_uppercase()), "another", true),
        ] {
            let shown = format!("{options:?}");
            let shared = Shared::new(options);
            let server = Server::start(shared.app(numbered));
            let seen = shared.pair([request(&server, value), request(&server, other)], shares).await;
            let case = format!("{name}: {value} and {other}, {shown}");
            let runs = shared.flights.stats().runs;
            if shares {
                assert_eq!((seen[0].body.as_str(), seen[1].body.as_str(), runs), ("1", "1", 1), "{case}");
            } else {
                assert_ne!(seen[0].body, seen[1].body, "{case}");
                assert_eq!(runs, if value == other { 0 } else { 2 }, "{case}");
            }
        }
    }
}

#[tokio::test]
async fn request_with_a_body_runs_alone_and_keeps_its_body() {
    for body in ["content-length: 4\r\n\r\nbody", "transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"] {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start({
            let shared = shared.clone();
            move |config| {
                let work = Arc::clone(&shared.work);
                let echo = move |body: Bytes| {
                    let work = Arc::clone(&work);
                    async move {
                        work.run().await;
                        body
                    }
                };
                config.service(resource("/").wrap(shared.flights.clone()).route(get().to(echo)));
            }
        });
        let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{body}");
        let (mut first, mut second) = shared.raw_pair(&server, &[request.clone(), request], false).await;
        for client in [&mut first, &mut second] {
            let response = client.read_until("body").await;
            assert!(response.contains("cache-status: onelane; fwd=bypass\r\n"), "{response}");
        }
        assert_eq!(shared.flights.stats().runs, 0);
    }
}

#[tokio::test]
async fn header_in_the_key_separates_users_and_their_values_are_not_confused() {
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [([Headers<'_>; 2], bool); 6] = [
        ([&[("x-user", "ada")], &[("x-user", "ada")]], true),
        ([&[("x-user", "ada")], &[("x-user", "grace")]], false),
        ([&[("x-user", "ada")], &[]], false),
        ([&[("x-user", "")], &[]], false),
        ([&[("x-user", "a"), ("x-user", "b")], &[("x-user", "ab")]], false),
        ([&[("x-user", "a"), ("x-tenant", "b")], &[("x-user", "b"), ("x-tenant", "a")]], false),
    ];
    for (headers, shares) in cases {
        let shared = Shared::new(FlightOptions::new().key_header("X-User").key_header("x-tenant"));
        let server = Server::start(shared.app(numbered));
        let requests = headers.map(|headers| {
            headers
                .iter()
                .fold(web_client().get(server.url("/")), |request, (name, value)| request.header(*name, *value))
        });
        let [first, second] = shared.pair(requests, shares).await;
        assert_eq!(first.body == second.body, shares, "{headers:?}");
    }
}

/// A user's response goes only to that user, however many users request it at the same time.
#[tokio::test]
async fn users_known_by_an_extension_share_only_with_themselves() {
    let work = Arc::new(Work::default());
    let flights = FlightMiddleware::keyed("mine", |request: &ServiceRequest| {
        request.extensions().get::<User>().map(|user| user.0.clone())
    });
    let server = Server::start_with(3, false, {
        let (work, flights) = (Arc::clone(&work), flights.clone());
        move |config| {
            let work = Arc::clone(&work);
            let handler = move |request: HttpRequest| {
                let work = Arc::clone(&work);
                async move {
                    work.run().await;
                    let extensions = request.extensions();
                    let user = extensions.get::<User>().map_or("nobody", |user| user.0.as_str());
                    format!("page of {user}")
                }
            };
            let mine = resource("/mine").wrap(flights.clone()).wrap(from_fn(authenticate)).route(get().to(handler));
            config.service(mine);
        }
    });
    let users = ["ada", "grace", "edith"];
    let mut calls = Vec::new();
    for _ in 0..5 {
        for user in users {
            calls.push((user, ask(web_client().get(server.url("/mine")).header("x-user", user))));
        }
    }
    let strangers: Vec<_> = (0..2).map(|_| server.get("/mine")).collect();
    eventually("one run for each user", || flights.stats().waiting == 15 && flights.stats().running == 3).await;
    eventually("requests without a user run alone", || work.inside() == 5).await;
    work.let_finish(5);
    for (user, call) in calls {
        assert_eq!(
            call.await.expect("no panic").text().await.expect("the body is complete"),
            format!("page of {user}")
        );
    }
    for stranger in strangers {
        assert_eq!(Seen::of(stranger.await.expect("no panic")).await, Seen::new(200, ALONE, "page of nobody"));
    }
    assert_eq!((work.started(), flights.stats().runs, flights.stats().shared), (5, 3, 12));
}

struct User(String);

async fn authenticate(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let user = request.headers().get("x-user").and_then(|user| user.to_str().ok()).map(str::to_owned);
    if let Some(user) = user {
        request.extensions_mut().insert(User(user));
    }
    next.call(request).await
}
