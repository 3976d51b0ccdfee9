//! Shared responses in actix-web, on real servers with several workers, called over real sockets.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::future::{pending, ready};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody, SizedStream};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, SET_COOKIE, TRAILER, VARY};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{Bytes, Path, ServiceConfig, get, resource, route, scope};
use actix_web::{App, Error, HttpMessage, HttpRequest, HttpResponse, HttpServer, ResponseError, error, test};
use futures::future::{LocalBoxFuture, join_all};
use futures::stream;
use onelane::web::actix::FlightMiddleware;
use onelane::web::{FlightOptions, Refusal, RefusalReason};
use onelane::{FlightError, FlightStats, SingleFlight};
use reqwest::{Method, RequestBuilder, Response};
use tokio::time::timeout;

use support::actix::{LARGE, Server, Streams, Work, ask, assert_problem, chunk, lock};
use support::client::{Leave, PATIENCE, RawClient, eventually, web_client};

const LED: Option<&str> = Some("onelane; fwd=miss");
const COLLAPSED: Option<&str> = Some("onelane; fwd=miss; collapsed");
const ALONE: Option<&str> = Some("onelane; fwd=bypass");

mod sharing {
    use super::*;

    #[tokio::test]
    async fn thousand_clients_across_workers_share_one_run() {
        let shared = Shared::new(FlightOptions::new());
        let arrivals: Arc<Mutex<HashSet<ThreadId>>> = Arc::default();
        let server = Server::start_with(3, false, {
            let (shared, arrivals) = (shared.clone(), Arc::clone(&arrivals));
            move |config| {
                let arrivals = Arc::clone(&arrivals);
                let arrive = move |request: ServiceRequest, next: Next<BoxBody>| {
                    lock(&arrivals).insert(thread::current().id());
                    next.call(request)
                };
                let answer = |run| HttpResponse::Ok().insert_header(("x-run", run)).body(format!("run {run}"));
                let flights =
                    scope("").wrap(shared.flights.clone()).default_service(route().to(shared.handler(answer)));
                config.service(scope("").wrap(from_fn(arrive)).service(flights));
            }
        });
        let client = web_client();
        let calls: Vec<_> = (0..1000).map(|_| ask(client.get(server.url("/report")))).collect();
        eventually("all wait for one run", || shared.flights.stats().waiting == 1000).await;
        assert_eq!((shared.work.started(), shared.flights.stats().running), (1, 1));
        shared.work.let_finish(1000);

        let mut cache_status = HashMap::new();
        for answer in join_all(calls).await {
            let answer = answer.expect("no panic");
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["x-run"]),
                (200, &"1".parse().expect("the response is a number"))
            );
            *cache_status.entry(header(&answer, "cache-status")).or_insert(0) += 1;
            assert_eq!(answer.text().await.expect("the body is complete"), "run 1");
        }
        let count = |of: Option<&str>| cache_status.get(&of.map(str::to_owned)).copied();
        assert_eq!((count(LED), count(COLLAPSED)), (Some(1), Some(999)), "{cache_status:?}");
        assert_eq!(lock(&arrivals).len(), 3, "every worker served some of them");
        assert_eq!(shared.work.started(), 1);
        let stats = shared.flights.stats();
        assert_eq!((stats.runs, stats.shared, stats.running, stats.waiting), (1, 999, 0, 0));
    }

    #[tokio::test]
    async fn request_after_the_end_of_a_run_starts_another() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(numbered));
        shared.work.let_finish(3);
        for run in ["1", "2", "3"] {
            let seen = Seen::of(server.get("/").await.expect("no panic")).await;
            assert_eq!(seen, Seen::new(200, LED, run));
        }
        assert_eq!((shared.flights.stats().runs, shared.flights.stats().shared), (3, 0));
    }

    #[tokio::test]
    async fn status_headers_and_body_are_shared_unchanged() {
        for status in [200, 201, 301, 404, 500] {
            let answer = move |run: usize| {
                HttpResponse::build(StatusCode::from_u16(status).expect("the response is a number"))
                    .insert_header(("x-run", run))
                    .append_header(("link", "</a>"))
                    .append_header(("link", "</b>"))
                    .insert_header(("cache-status", "inner; hit"))
                    .insert_header((CACHE_CONTROL, "max-age=60, public"))
                    .body("text")
            };
            let shared = Shared::new(FlightOptions::new());
            let server = Server::start(shared.app(answer));
            let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
            let client = client.build().expect("the response needs nothing else");
            let calls: Vec<_> = (0..3).map(|_| ask(client.get(server.url("/")))).collect();
            eventually("all requests wait", || shared.flights.stats().waiting == 3).await;
            shared.work.let_finish(3);
            let mut last_members = Vec::new();
            for answer in calls {
                let answer = answer.await.expect("no panic");
                assert_eq!((answer.status().as_u16(), header(&answer, "x-run").as_deref()), (status, Some("1")));
                let all = |name: &str| -> Vec<_> {
                    answer
                        .headers()
                        .get_all(name)
                        .iter()
                        .map(|value| value.to_str().expect("text").to_owned())
                        .collect()
                };
                assert_eq!(all("link"), ["</a>", "</b>"]);
                assert_eq!(all("content-length"), ["4"]);
                assert_eq!(all("date").len(), 1);
                let caches = all("cache-status");
                assert_eq!(
                    (caches.len(), caches[0].as_str()),
                    (2, "inner; hit"),
                    "the hop nearest to the client is last"
                );
                last_members.push(caches[1].clone());
                assert_eq!(answer.text().await.expect("the body is complete"), "text");
            }
            last_members.sort();
            assert_eq!(
                last_members.iter().map(String::as_str).map(Some).collect::<Vec<_>>(),
                [LED, COLLAPSED, COLLAPSED]
            );
        }
    }

    #[tokio::test]
    async fn reason_phrase_and_connection_close_are_shared_unchanged() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(|_| HttpResponse::Ok().reason("Fine").force_close().body("text")));
        let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned();
        let (mut first, mut second) = shared.raw_pair(&server, &[request.clone(), request], true).await;
        for client in [&mut first, &mut second] {
            let head = client.read_until("\r\n\r\n").await;
            assert!(head.starts_with("HTTP/1.1 200 Fine\r\n"), "{head}");
            assert!(head.contains("connection: close\r\n"), "{head}");
        }
    }

    #[tokio::test]
    async fn responses_without_a_body_are_shared() {
        for status in [200, 204] {
            let shared = Shared::new(FlightOptions::new());
            let server = Server::start(shared.app(move |run| {
                let status = StatusCode::from_u16(status).expect("the response is a number");
                HttpResponse::build(status).insert_header(("x-run", run)).finish()
            }));
            for method in [Method::GET, Method::HEAD] {
                let calls: Vec<_> =
                    (0..2).map(|_| ask(web_client().request(method.clone(), server.url("/")))).collect();
                eventually("both requests wait", || shared.flights.stats().waiting == 2).await;
                shared.work.let_finish(1);
                let answers = join_all(calls).await.into_iter().map(|answer| answer.expect("no panic"));
                let runs: HashSet<_> =
                    answers.map(|answer| (answer.status().as_u16(), header(&answer, "x-run"))).collect();
                assert_eq!(runs.len(), 1, "{runs:?}");
                assert_eq!(runs.into_iter().next().map(|(seen, _)| seen), Some(status));
            }
            assert_eq!(shared.work.started(), 2, "one run for each method");
        }
    }

    /// The followers get the same headers about a body as the leader.
    #[tokio::test]
    async fn head_requests_share_the_length_without_the_body() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(|_| HttpResponse::Ok().body("nine byte")));
        let calls: Vec<_> = (0..2).map(|_| ask(web_client().head(server.url("/")))).collect();
        eventually("both requests wait", || shared.flights.stats().waiting == 2).await;
        shared.work.let_finish(1);
        for answer in calls {
            let answer = answer.await.expect("no panic");
            assert_eq!(header(&answer, "content-length").as_deref(), Some("9"));
        }
    }

    #[tokio::test]
    async fn max_body_is_the_largest_body_that_is_shared() {
        for (length, runs) in [(100, 1), (101, 2)] {
            let shared = Shared::new(FlightOptions::new().max_body(100));
            let server = Server::start(shared.app(move |_| HttpResponse::Ok().body("x".repeat(length))));
            let (first, second) = shared.two(&server, "/", "/").await;
            assert_eq!((first.body.len(), second.body.len(), shared.work.started()), (length, length, runs));
        }
    }

    /// A stream of known length is read and shared.
    #[tokio::test]
    async fn stream_of_known_length_is_shared_if_it_is_small() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(|_| {
            let parts = stream::iter([chunk("in "), chunk("parts")]);
            HttpResponse::Ok().body(SizedStream::new(8, parts))
        }));
        let (first, second) = shared.two(&server, "/", "/").await;
        assert_eq!((first, second), (Seen::new(200, LED, "in pieces"), Seen::new(200, COLLAPSED, "in pieces")));
        assert_eq!(shared.work.started(), 1);
    }

    #[tokio::test]
    async fn stream_that_breaks_off_is_an_error_for_the_leader_and_the_followers_run_alone() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(|run| {
            if run > 1 {
                return HttpResponse::Ok().body("whole");
            }
            let parts = stream::iter([chunk("in "), Err(io::Error::other("broken"))]);
            HttpResponse::Ok().body(SizedStream::new(8, parts))
        }));
        let (first, second) = shared.two_calls(&server, "/", "/").await;
        assert_problem(first, 500, None, "urn:onelane:answer-broken").await;
        assert_eq!(Seen::of(second).await, Seen::new(200, ALONE, "whole"));
        assert_eq!(shared.work.started(), 2);
    }
}

mod answers_for_one {
    use super::*;

    /// Three requests for each response at the same time. The first gets the response of its run. The others run alone,
    /// and so does a request that arrives later.
    #[tokio::test]
    async fn unshareable_responses_go_to_their_own_requests_and_the_key_is_bypassed_for_a_while() {
        type Answer = fn(usize) -> HttpResponse;
        let answers: [(&str, Answer); 11] = [
            ("20 MB", |run| HttpResponse::Ok().body(format!("{run}").repeat(20 << 20))),
            ("a stream", |run| {
                HttpResponse::Ok().streaming(stream::iter([io::Result::Ok(Bytes::from(format!("{run}"))), chunk("!")]))
            }),
            ("Set-Cookie", |run| HttpResponse::Ok().insert_header((SET_COOKIE, "id=7")).body(format!("{run}"))),
            ("private", |run| HttpResponse::Ok().insert_header((CACHE_CONTROL, "private")).body(format!("{run}"))),
            ("private fields", |run| {
                HttpResponse::Ok().insert_header((CACHE_CONTROL, "max-age=1, Private=\"x\"")).body(format!("{run}"))
            }),
            ("no-store", |run| HttpResponse::Ok().insert_header((CACHE_CONTROL, "No-Store")).body(format!("{run}"))),
            ("a second Cache-Control", |run| {
                HttpResponse::Ok()
                    .append_header((CACHE_CONTROL, "max-age=1"))
                    .append_header((CACHE_CONTROL, "no-store"))
                    .body(format!("{run}"))
            }),
            ("Vary", |run| HttpResponse::Ok().insert_header((VARY, "Accept-Language")).body(format!("{run}"))),
            ("Vary: *", |run| HttpResponse::Ok().insert_header((VARY, "*")).body(format!("{run}"))),
            ("a partial response", |run| HttpResponse::PartialContent().body(format!("{run}"))),
            ("a trailer", |run| HttpResponse::Ok().insert_header((TRAILER, "x-sum")).body(format!("{run}"))),
        ];
        for (what, answer) in answers {
            let shared = Shared::new(FlightOptions::new());
            let server = Server::start(shared.app(answer));
            let calls: Vec<_> = (0..3).map(|_| server.get("/")).collect();
            eventually("all requests wait for the first", || shared.flights.stats().waiting == 3).await;
            assert_eq!(shared.work.started(), 1, "{what}");
            shared.work.let_finish(3);
            let mut bodies = HashSet::new();
            for call in calls {
                let seen = Seen::of(call.await.expect("no panic")).await;
                assert_eq!(seen.cache_status.as_deref(), ALONE, "{what}");
                assert!(bodies.insert(seen.body), "{what}: two requests got the same response");
            }
            let expected = [1, 2, 3].map(|run| answer(run).into_body());
            for expected in expected {
                let expected = actix_web::body::to_bytes(expected).await.expect("the request succeeds");
                assert!(bodies.remove(std::str::from_utf8(&expected).expect("the header is text")), "{what}");
            }
            assert_eq!(shared.flights.stats().runs, 1, "{what}");

            // No request waits for the head of another's response again.
            let later: Vec<_> = (0..2).map(|_| server.get("/")).collect();
            eventually("both run at once", || shared.work.inside() == 2).await;
            shared.work.let_finish(2);
            for answer in later {
                assert_eq!(header(&answer.await.expect("no panic"), "cache-status").as_deref(), ALONE, "{what}");
            }
            assert_eq!((shared.flights.stats().runs, shared.flights.stats().waiting), (1, 0), "{what}");
            // Another key is not affected.
            let other = server.get("/other");
            eventually("the response is the number of a run", || shared.flights.stats().runs == 2).await;
            shared.work.let_finish(1);
            assert_eq!(other.await.expect("no panic").status(), if what == "a partial response" { 206 } else { 200 });
        }
    }

    #[tokio::test]
    async fn endless_stream_reaches_its_own_client_piece_by_piece() {
        let shared = Shared::new(FlightOptions::new());
        let streams = Streams::default();
        let server = Server::start({
            let streams = streams.clone();
            shared.app(move |_| HttpResponse::Ok().streaming(streams.take()))
        });
        let parts = [streams.open(), streams.open()];
        let mut clients = [server.raw_get().await, server.raw_get().await];
        eventually("both requests wait for a head", || shared.flights.stats().waiting == 2).await;
        shared.work.let_finish(2);
        for client in &mut clients {
            assert!(client.read_until("\r\n\r\n").await.contains("cache-status: onelane; fwd=bypass"));
        }
        for text in ["first", "second", "third"] {
            for parts in &parts {
                parts.unbounded_send(chunk(text)).expect("the body can be read");
            }
            for client in &mut clients {
                client.read_until(text).await;
            }
        }
        // A client that disconnects ends its own stream, and no other.
        let [one, mut other] = clients;
        one.leave(Leave::Rst).await;
        eventually("one stream is dropped", || parts.iter().filter(|parts| parts.is_closed()).count() == 1).await;
        for parts in &parts {
            let _ = parts.unbounded_send(chunk("fourth"));
        }
        other.read_until("fourth").await;
        assert_eq!((shared.flights.stats().running, shared.flights.stats().waiting), (0, 0));
    }

    /// A client that reads slowly delays no other client, even if the response is another client's.
    #[tokio::test]
    async fn response_that_is_not_read_delays_no_other_client() {
        let shared = Shared::new(FlightOptions::new().max_body(LARGE as u64));
        let server = Server::start(shared.app(|_| HttpResponse::Ok().body(vec![b'x'; LARGE])));
        let mut slow = server.raw_get().await;
        eventually("the first request leads", || shared.work.inside() == 1).await;
        let second = server.get("/");
        eventually("the second request shares", || shared.flights.stats().shared == 1).await;
        shared.work.let_finish(1);
        let second = second.await.expect("no panic");
        assert_eq!(second.bytes().await.expect("the body is complete").len(), LARGE);
        slow.read_until("\r\n\r\n").await;
        assert_eq!((shared.flights.stats().running, shared.work.started()), (0, 1));
    }

    #[tokio::test]
    async fn named_vary_header_separates_requests_and_makes_responses_shareable() {
        for (options, languages, runs) in [
            (FlightOptions::new().key_header("Accept-Language"), ["de", "de"], 1),
            (FlightOptions::new().key_header("accept-language"), ["de", "en"], 2),
            (FlightOptions::new().ignore_header("accept-language"), ["de", "en"], 1),
        ] {
            let shared = Shared::new(options);
            let server = Server::start(
                shared.app(|run| HttpResponse::Ok().insert_header((VARY, "accept-LANGUAGE")).body(run.to_string())),
            );
            let requests =
                languages.map(|language| web_client().get(server.url("/")).header("accept-language", language));
            shared.pair(requests, runs == 1).await;
            assert_eq!(shared.work.started(), runs);
        }
    }
}

mod keys {
    use super::*;

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
            let is_get =
                |i: usize| matches!(requests[i].0, "GET" | "HEAD") && !requests[i].1.starts_with("http://other");
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
                let answer = client.read_until("body").await;
                assert!(answer.contains("cache-status: onelane; fwd=bypass\r\n"), "{answer}");
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
        let flights = FlightMiddleware::keyed("mine", FlightOptions::new(), |request: &ServiceRequest| {
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
}

mod clients_that_leave {
    use super::*;

    #[tokio::test]
    async fn leader_that_disconnects_leaves_its_run_to_the_followers() {
        for (leave, half_closed) in WAYS {
            let shared = Shared::new(FlightOptions::new());
            let server = Server::start_with(2, half_closed, shared.app(numbered));
            let first = server.raw_get().await;
            eventually("the first request leads", || shared.work.inside() == 1).await;
            let others: Vec<_> = (0..3).map(|_| server.get("/")).collect();
            eventually("the others share", || shared.flights.stats().waiting == 4).await;
            first.leave(leave).await;
            eventually("the leader has disconnected", || shared.flights.stats().waiting == 3).await;
            assert_eq!((shared.work.inside(), shared.work.cut()), (1, 0), "{leave:?}: the run continues");
            shared.work.let_finish(1);
            for other in others {
                assert_eq!(Seen::of(other.await.expect("no panic")).await, Seen::new(200, COLLAPSED, "1"));
            }
            assert_eq!(shared.work.started(), 1);
            shared.is_over().await;
        }
    }

    #[tokio::test]
    async fn followers_that_disconnect_change_nothing_for_the_others() {
        for (leave, half_closed) in WAYS {
            let shared = Shared::new(FlightOptions::new());
            let server = Server::start_with(2, half_closed, shared.app(numbered));
            let first = server.get("/");
            eventually("the first request leads", || shared.work.inside() == 1).await;
            let mut leavers = Vec::new();
            for _ in 0..4 {
                leavers.push(server.raw_get().await);
            }
            let stays = server.get("/");
            eventually("all requests share", || shared.flights.stats().waiting == 6).await;
            for leaver in leavers {
                leaver.leave(leave).await;
            }
            eventually("the followers have disconnected", || shared.flights.stats().waiting == 2).await;
            shared.work.let_finish(1);
            assert_eq!(Seen::of(first.await.expect("no panic")).await, Seen::new(200, LED, "1"));
            assert_eq!(Seen::of(stays.await.expect("no panic")).await, Seen::new(200, COLLAPSED, "1"));
            assert_eq!((shared.work.started(), shared.work.cut()), (1, 0), "{leave:?}");
            shared.is_over().await;
        }
    }

    #[tokio::test]
    async fn handler_is_dropped_when_all_clients_have_disconnected_and_the_next_request_starts_anew() {
        for clients in [1, 3] {
            for (leave, half_closed) in WAYS {
                let shared = Shared::new(FlightOptions::new());
                let server = Server::start_with(2, half_closed, shared.app(numbered));
                shared.all_disconnect(&server, clients, leave).await;
                eventually(&format!("the handler is dropped: {leave:?}"), || shared.work.cut() == 1).await;
                shared.is_over().await;
                // The run is counted last, when nothing of it remains.
                eventually("the run is counted", || shared.flights.stats().cancelled == 1).await;
                let next = server.get("/");
                eventually("the next request leads", || shared.work.inside() == 1).await;
                shared.work.let_finish(1);
                // The first run produced no response, so it has no number.
                assert_eq!(Seen::of(next.await.expect("no panic")).await, Seen::new(200, LED, "1"));
                assert_eq!((shared.work.started(), shared.work.finished()), (2, 1));
            }
        }
    }

    #[tokio::test]
    async fn detached_handler_finishes_after_all_clients_have_disconnected() {
        for clients in [1, 3] {
            for (leave, half_closed) in WAYS {
                let shared = Shared::new(FlightOptions::new().detached());
                let server = Server::start_with(2, half_closed, shared.app(numbered));
                shared.all_disconnect(&server, clients, leave).await;
                eventually("the followers have disconnected", || shared.flights.stats().waiting == 0).await;
                assert_eq!(
                    (shared.work.inside(), shared.flights.stats().running),
                    (1, 1),
                    "{leave:?}: the handler continues"
                );
                // A request that arrives meanwhile shares the run.
                let late = server.get("/");
                eventually("the request shares", || shared.flights.stats().waiting == 1).await;
                shared.work.let_finish(1);
                assert_eq!(Seen::of(late.await.expect("no panic")).await, Seen::new(200, COLLAPSED, "1"));

                shared.all_disconnect(&server, clients, leave).await;
                eventually("the followers have disconnected", || shared.flights.stats().waiting == 0).await;
                shared.work.let_finish(1);
                eventually("the handler finishes without a client", || shared.work.finished() == 2).await;
                shared.is_over().await;
                assert_eq!((shared.work.started(), shared.work.cut()), (2, 0));
                assert_eq!(shared.flights.stats().cancelled, 0);
            }
        }
    }

    const WAYS: [(Leave, bool); 3] = [(Leave::Fin, false), (Leave::Rst, false), (Leave::Rst, true)];
}

mod failures {
    use super::*;

    #[tokio::test]
    async fn panic_is_the_same_response_for_all_and_the_worker_survives() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start_with(
            2,
            false,
            shared.app(|run| {
                assert_ne!(run, 1, "panic requested by the test");
                HttpResponse::Ok().body(run.to_string())
            }),
        );
        let calls: Vec<_> = (0..4).map(|_| server.get("/")).collect();
        eventually("all requests wait", || shared.flights.stats().waiting == 4).await;
        shared.work.let_finish(1);
        for answer in calls {
            let answer = answer.await.expect("no panic here");
            assert_eq!(header(&answer, "cache-status"), None, "no request was served");
            assert_problem(answer, 500, None, "urn:onelane:panicked").await;
        }
        assert_eq!(shared.work.started(), 1, "the handler is not run again");
        shared.work.let_finish(4);
        for run in ["2", "3", "4", "5"] {
            assert_eq!(Seen::of(server.get("/").await.expect("no panic")).await, Seen::new(200, LED, run));
        }
        assert_eq!((shared.flights.stats().panicked, shared.flights.stats().runs), (1, 5));
    }

    #[tokio::test]
    async fn panic_for_a_lone_request_is_its_response() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(|run| panic!("panic requested by the test, in run {run}")));
        shared.work.let_finish(1);
        let answer = server.get("/").await.expect("no panic here");
        assert_problem(answer, 500, None, "urn:onelane:panicked").await;
        shared.is_over().await;
    }

    /// actix-web's middlewares see a handler's error as a response, so it is shared like any other response.
    #[tokio::test]
    async fn error_returned_by_the_handler_is_shared_as_the_response_it_becomes() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start({
            let shared = shared.clone();
            move |config| {
                let work = Arc::clone(&shared.work);
                let fails = move || {
                    let work = Arc::clone(&work);
                    async move {
                        work.run().await;
                        Err::<&str, _>(error::ErrorNotFound(format!("none in run {}", work.started())))
                    }
                };
                config.service(resource("/").wrap(shared.flights.clone()).route(get().to(fails)));
            }
        });
        let (first, second) = shared.two(&server, "/", "/").await;
        let text = "none in run 1";
        assert_eq!((first, second), (Seen::new(404, LED, text), Seen::new(404, COLLAPSED, text)));
    }

    /// An error of a service, such as a middleware's, can't be cloned.
    #[tokio::test]
    async fn error_of_an_inner_middleware_goes_to_its_own_request_and_the_others_run_alone() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start({
            let shared = shared.clone();
            move |config| {
                let work = Arc::clone(&shared.work);
                let fails_first = move |request: ServiceRequest, next: Next<BoxBody>| {
                    let work = Arc::clone(&work);
                    async move {
                        work.run().await;
                        if work.started() == 1 {
                            Err(error::ErrorImATeapot("short and stout"))
                        } else {
                            next.call(request).await
                        }
                    }
                };
                let inner = resource("/").wrap(from_fn(fails_first)).wrap(shared.flights.clone());
                config.service(inner.route(get().to(|| async { "done" })));
            }
        });
        let first = server.get("/");
        eventually("the first request leads", || shared.work.inside() == 1).await;
        let others: Vec<_> = (0..3).map(|_| server.get("/")).collect();
        eventually("the others wait for the first run", || shared.flights.stats().waiting == 4).await;
        shared.work.let_finish(1);
        let first = Seen::of(first.await.expect("no panic")).await;
        assert_eq!(first, Seen::new(418, None, "short and stout"));
        eventually("each of the others runs alone", || shared.work.inside() == 3).await;
        shared.work.let_finish(3);
        for other in others {
            assert_eq!(Seen::of(other.await.expect("no panic")).await, Seen::new(200, ALONE, "done"));
        }
        // An error says nothing about the next response, which may be shared.
        let (first, second) = shared.two(&server, "/", "/").await;
        assert_eq!((first, second), (Seen::new(200, LED, "done"), Seen::new(200, COLLAPSED, "done")));
        assert_eq!((shared.work.started(), shared.flights.stats().runs), (5, 2));
    }

    #[tokio::test]
    async fn one_waiter_too_many_gets_503_while_the_others_keep_waiting() {
        let shared = Shared::new(FlightOptions::new().max_waiters(1));
        let server = Server::start(shared.app(numbered));
        let calls = [server.get("/"), server.get("/")];
        eventually("two requests wait", || shared.flights.stats().waiting == 2).await;
        let refused = server.get("/").await.expect("no panic");
        assert_problem(refused, 503, Some("1"), "urn:onelane:too-many-waiters").await;
        shared.work.let_finish(1);
        for answer in calls {
            assert_eq!(answer.await.expect("no panic").status(), 200);
        }
        assert_eq!((shared.work.started(), shared.flights.stats().refused), (1, 1));
        shared.is_over().await;
    }

    #[tokio::test]
    async fn every_waiter_gets_503_after_the_wait_timeout_including_the_leader_and_the_handler_is_dropped() {
        let shared = Shared::new(FlightOptions::new().wait_timeout(Duration::from_millis(200)));
        let server = Server::start(shared.app(numbered));
        let calls: Vec<_> = (0..3).map(|_| server.get("/")).collect();
        for answer in calls {
            assert_problem(answer.await.expect("no panic"), 503, Some("1"), "urn:onelane:timeout").await;
        }
        eventually("every handler is dropped", || shared.work.cut() == shared.work.started()).await;
        assert_eq!(shared.flights.stats().timed_out, 3);
        shared.is_over().await;
    }

    #[tokio::test]
    async fn every_refusal_passes_through_on_refusal() {
        let seen: Arc<Mutex<Vec<RefusalReason>>> = Arc::default();
        let options = {
            let seen = Arc::clone(&seen);
            FlightOptions::new().max_waiters(1).on_refusal(move |refusal: Refusal| {
                lock(&seen).push(refusal.reason().clone());
                refusal.with_status(420).with_type("https://example.org/no").with_header("x-seen", "yes")
            })
        };
        let shared = Shared::new(options);
        let server = Server::start(shared.app(|_| panic!("panic requested by the test")));
        let calls = [server.get("/"), server.get("/")];
        eventually("two requests wait", || shared.flights.stats().waiting == 2).await;
        let mut answers = vec![(server.get("/").await.expect("no panic"), Some("1"))];
        shared.work.let_finish(1);
        for call in calls {
            answers.push((call.await.expect("no panic"), None));
        }
        for (answer, retry_after) in answers {
            assert_eq!(answer.headers()["x-seen"], "yes");
            assert_problem(answer, 420, retry_after, "https://example.org/no").await;
        }
        let reasons = lock(&seen).clone();
        assert!(matches!(reasons[0], RefusalReason::Flight(FlightError::TooManyWaiters)), "{reasons:?}");
        assert_eq!(reasons.len(), 3, "once for each response");
        for reason in &reasons[1..] {
            assert!(matches!(reason, RefusalReason::Flight(FlightError::Panicked { .. })), "{reasons:?}");
        }
    }

    /// The inner middleware would wait for the run that it is part of.
    #[tokio::test]
    async fn middleware_added_twice_returns_an_error_instead_of_hanging() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start({
            let shared = shared.clone();
            move |config| {
                let inner = resource("/").wrap(shared.flights.clone()).route(get().to(|| async { "never" }));
                config.service(scope("").wrap(shared.flights.clone()).service(inner));
            }
        });
        for _ in 0..2 {
            let answer = server.get("/").await.expect("no panic");
            assert_problem(answer, 500, None, "urn:onelane:would-deadlock").await;
            shared.is_over().await;
        }
    }
}

mod flights_by_hand {
    use super::*;

    #[tokio::test]
    async fn error_returned_by_a_handler_is_the_same_response() {
        static FLIGHT: SingleFlight<&str, &str, Infallible> =
            SingleFlight::builder("by hand").wait_timeout(Duration::from_millis(50)).build();

        type Answered = Result<&'static str, FlightError<Infallible>>;
        async fn late() -> Answered {
            FLIGHT.run("late", pending).await
        }
        async fn panicked() -> Answered {
            FLIGHT.run("panicked", || async { panic!("panic requested by the test") }).await
        }
        async fn crowded() -> Answered {
            Err(FlightError::TooManyWaiters)
        }
        async fn nested() -> Answered {
            Err(FlightError::WouldDeadlock)
        }
        let server = Server::start(|config| {
            config
                .route("/late", get().to(late))
                .route("/panicked", get().to(panicked))
                .route("/crowded", get().to(crowded))
                .route("/nested", get().to(nested));
        });
        for (path, status, retry_after, kind) in [
            ("/late", 503, Some("1"), "urn:onelane:timeout"),
            ("/panicked", 500, None, "urn:onelane:panicked"),
            ("/crowded", 503, Some("1"), "urn:onelane:too-many-waiters"),
            ("/nested", 500, None, "urn:onelane:would-deadlock"),
        ] {
            let problem = assert_problem(server.get(path).await.expect("no panic"), status, retry_after, kind).await;
            assert!(
                !problem.to_string().contains("panic requested by the test"),
                "details of the failure are not disclosed"
            );
        }
        assert_eq!(FlightError::<Infallible>::TooManyWaiters.status_code(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn error_of_the_work_itself_makes_its_own_response_for_all_that_share_it() {
        #[derive(Debug)]
        struct NoCoffee;

        impl fmt::Display for NoCoffee {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no coffee")
            }
        }

        impl ResponseError for NoCoffee {
            fn status_code(&self) -> StatusCode {
                StatusCode::IM_A_TEAPOT
            }

            fn error_response(&self) -> HttpResponse {
                HttpResponse::build(self.status_code()).body("short and stout")
            }
        }

        let flight: Arc<SingleFlight<(), &str, NoCoffee>> = Arc::new(SingleFlight::new("by hand"));
        let work: Arc<Work> = Arc::default();
        let server = Server::start({
            let (flight, work) = (Arc::clone(&flight), Arc::clone(&work));
            move |config| {
                let (flight, work) = (Arc::clone(&flight), Arc::clone(&work));
                let brew = move || {
                    let (flight, work) = (Arc::clone(&flight), Arc::clone(&work));
                    async move {
                        let brewed = || async move {
                            work.run().await;
                            Err(NoCoffee)
                        };
                        flight.run((), brewed).await
                    }
                };
                config.route("/", get().to(brew));
            }
        });
        let calls = [server.get("/"), server.get("/")];
        eventually("both requests wait", || flight.stats().waiting == 2).await;
        work.let_finish(1);
        for call in calls {
            assert_eq!(Seen::of(call.await.expect("no panic")).await, Seen::new(418, None, "short and stout"));
        }
        assert_eq!(work.started(), 1);
        assert_eq!(FlightError::Failed(Arc::new(NoCoffee)).status_code(), StatusCode::IM_A_TEAPOT);
    }
}

mod places {
    use super::*;

    /// actix-web's router changes the request in place while it looks for the handler, and an app panics if a clone of
    /// the request exists then.
    #[tokio::test]
    async fn around_an_app_requests_share_by_path_and_find_their_parameters() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::serve({
            let shared = shared.clone();
            move || {
                let app = move || App::new().wrap(shared.flights.clone()).configure(shared.items("/of/{tenant}"));
                let server = HttpServer::new(app).workers(2).disable_signals().h1_allow_half_closed(false);
                let server = server.bind("127.0.0.1:0").expect("a port is free");
                (server.addrs()[0], server.run())
            }
        });
        shared.items_are_shared_by_path(&server).await;
        // Requests without a handler share too.
        let (first, second) = shared.unworked_two(&server, "/nowhere").await;
        assert_eq!((first.status, second.status), (404, 404));
    }

    #[tokio::test]
    async fn around_a_scope_with_a_parameter_requests_share_by_path_and_find_their_parameters() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start({
            let shared = shared.clone();
            move |config| {
                let inner = scope("/of").wrap(shared.flights.clone()).configure(shared.items("/{tenant}"));
                config.service(inner);
            }
        });
        shared.items_are_shared_by_path(&server).await;
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start({
            let shared = shared.clone();
            move |config| {
                let inner = scope("/of/{tenant}").wrap(shared.flights.clone()).configure(shared.items(""));
                config.service(inner);
            }
        });
        shared.items_are_shared_by_path(&server).await;
    }

    #[tokio::test]
    async fn around_a_resource_or_a_route_requests_share_by_path_and_find_their_parameters() {
        for on_route in [false, true] {
            let shared = Shared::new(FlightOptions::new());
            let server = Server::start({
                let shared = shared.clone();
                move |config| {
                    let path = "/of/{tenant}/{kind}/{id}";
                    let handler = get().to(shared.item());
                    if on_route {
                        config.route(path, handler.wrap(shared.flights.clone()));
                    } else {
                        config.service(resource(path).wrap(shared.flights.clone()).route(handler));
                    }
                }
            });
            shared.items_are_shared_by_path(&server).await;
        }
    }

    /// An inner middleware has exclusive access to the request, and may keep parts of it until it calls the next
    /// service.
    #[tokio::test]
    async fn inner_and_outer_middlewares_see_the_requests_they_should() {
        let (outer, inner) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start({
            let (shared, outer, inner) = (shared.clone(), Arc::clone(&outer), Arc::clone(&inner));
            move |config| {
                let counting = |counter: &Arc<AtomicUsize>| {
                    let counter = Arc::clone(counter);
                    move |request: ServiceRequest, next: Next<BoxBody>| {
                        counter.fetch_add(1, Ordering::SeqCst);
                        let path = request.path().to_owned();
                        let answer = next.call(request);
                        async move {
                            let answer: ServiceResponse<_> = answer.await?;
                            assert_eq!(answer.request().path(), path, "the response belongs to its own request");
                            Ok(answer)
                        }
                    }
                };
                let counted = scope("")
                    .wrap(from_fn(counting(&inner)))
                    .wrap(shared.flights.clone())
                    .default_service(route().to(shared.handler(numbered)));
                config.service(scope("").wrap(from_fn(counting(&outer))).service(counted));
            }
        });
        let calls: Vec<_> = (0..4).map(|_| server.get("/")).collect();
        eventually("all requests wait", || shared.flights.stats().waiting == 4).await;
        shared.work.let_finish(1);
        for answer in calls {
            assert_eq!(answer.await.expect("no panic").status(), 200);
        }
        assert_eq!((outer.load(Ordering::SeqCst), inner.load(Ordering::SeqCst)), (4, 1));
    }

    #[tokio::test]
    async fn on_a_bare_tokio_runtime_requests_are_served_alone() {
        let shared = Shared::new(FlightOptions::new());
        shared.work.let_finish(3);
        let app =
            App::new().service(resource("/").wrap(shared.flights.clone()).route(get().to(shared.handler(numbered))));
        let app = test::init_service(app).await;
        let request = || test::TestRequest::get().uri("/").to_request();
        let answers = join_all((0..3).map(|_| test::call_service(&app, request()))).await;
        for answer in answers {
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers().get("cache-status").map(|value| value.as_bytes()), ALONE.map(str::as_bytes));
        }
        assert_eq!((shared.work.finished(), shared.flights.stats().runs), (3, 0));
    }

    /// actix-web's own test macro runs a system, so requests share as they do on a server.
    #[actix_web::test]
    async fn in_an_actix_test_requests_share() {
        let shared = Shared::new(FlightOptions::new());
        shared.work.let_finish(1);
        let app =
            App::new().service(resource("/").wrap(shared.flights.clone()).route(get().to(shared.handler(numbered))));
        let app = test::init_service(app).await;
        let request = || test::TestRequest::get().uri("/").to_request();
        let answers = join_all((0..3).map(|_| test::call_service(&app, request()))).await;
        for answer in answers {
            assert_eq!(test::read_body(answer).await, "1");
        }
        assert_eq!((shared.flights.stats().runs, shared.flights.stats().shared), (1, 2));
    }

    /// actix-web also runs on `#[tokio::main]`, without its own system.
    #[tokio::test]
    async fn on_a_server_in_a_tokio_runtime_requests_share() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::serve_in_tokio({
            let app = shared.app(numbered);
            move || {
                let server = HttpServer::new(move || App::new().configure(app.clone())).workers(2).disable_signals();
                let server = server.bind("127.0.0.1:0").expect("a port is free");
                (server.addrs()[0], server.run())
            }
        });
        let (first, second) = shared.two(&server, "/", "/").await;
        assert_eq!((first, second), (Seen::new(200, LED, "1"), Seen::new(200, COLLAPSED, "1")));
    }
}

mod workers_that_stop {
    use super::*;

    /// A graceful stop serves running requests to the end, including the ones that share.
    #[tokio::test]
    async fn server_that_stops_gracefully_serves_all_waiting_requests() {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start_with(2, false, shared.app(numbered));
        let calls: Vec<_> = (0..6).map(|_| server.get("/")).collect();
        eventually("all requests wait", || shared.flights.stats().waiting == 6).await;
        let stopping = tokio::spawn(server.handle.stop(true));
        eventually("the server accepts no more", || std::net::TcpStream::connect(server.address).is_err()).await;
        shared.work.let_finish(1);
        for answer in calls {
            assert_eq!(Seen::of(answer.await.expect("no panic")).await.body, "1");
        }
        timeout(PATIENCE, stopping).await.expect("the server stops").expect("no panic");
        assert_eq!(shared.work.started(), 1);
        shared.is_over().await;
    }

    /// Two servers with one worker each behave like two workers of one server, but can be stopped one by one.
    #[tokio::test]
    async fn followers_on_other_workers_run_alone_when_the_leaders_worker_ends() {
        // The worker that ends drives the run, or another one does.
        for first_follower_on_leaders in [false, true] {
            let shared = Shared::new(FlightOptions::new());
            let [leaders, other] = [1, 2].map(|_| Server::start_with(1, false, shared.app(numbered)));
            let client = web_client();
            let send = |server: &Server| tokio::spawn(client.get(server.url("/")).header("host", "one").send());
            let mut lost = vec![send(&leaders)];
            eventually("the first request leads", || shared.work.inside() == 1).await;
            let mut saved = Vec::new();
            for waiting in 2..=5 {
                if first_follower_on_leaders == (waiting % 2 == 0) {
                    lost.push(send(&leaders));
                } else {
                    saved.push(send(&other));
                }
                eventually("the request shares", || shared.flights.stats().waiting == waiting).await;
            }

            timeout(PATIENCE, leaders.handle.stop(false)).await.expect("the server stops");
            for answer in lost {
                assert!(answer.await.expect("no panic").is_err(), "the connection ends with its worker");
            }
            eventually("each of the others runs alone", || shared.work.inside() == 2).await;
            assert_eq!((shared.work.cut(), shared.flights.stats().running), (1, 0));
            shared.work.let_finish(2);
            for answer in saved {
                let seen = Seen::of(answer.await.expect("no panic").expect("the server responds")).await;
                assert_eq!((seen.status, seen.cache_status.as_deref()), (200, ALONE));
            }
            shared.is_over().await;
            let next = other.get("/");
            eventually("the next request leads", || shared.work.inside() == 1).await;
            shared.work.let_finish(1);
            assert_eq!(Seen::of(next.await.expect("no panic")).await, Seen::new(200, LED, "3"));
        }
    }

    /// The request that started the run has no special role.
    #[tokio::test]
    async fn run_continues_when_only_the_followers_workers_end() {
        for first_follower_on_leaders in [false, true] {
            let shared = Shared::new(FlightOptions::new());
            let [leaders, other] = [1, 2].map(|_| Server::start_with(1, false, shared.app(numbered)));
            let client = web_client();
            let send = |server: &Server| tokio::spawn(client.get(server.url("/")).header("host", "one").send());
            let leader = send(&leaders);
            eventually("the first request leads", || shared.work.inside() == 1).await;
            let order = if first_follower_on_leaders { [&leaders, &other] } else { [&other, &leaders] };
            let mut followers = Vec::new();
            for (server, waiting) in order.into_iter().zip(2..) {
                followers.push(send(server));
                eventually("the request shares", || shared.flights.stats().waiting == waiting).await;
            }
            timeout(PATIENCE, other.handle.stop(false)).await.expect("the server stops");
            eventually("one client has disconnected", || shared.flights.stats().waiting == 2).await;
            assert_eq!((shared.work.inside(), shared.work.cut()), (1, 0));
            shared.work.let_finish(1);
            let leader = leader.await.expect("no panic").expect("the server responds");
            assert_eq!(Seen::of(leader).await, Seen::new(200, LED, "1"));
            let mut answers = Vec::new();
            for follower in followers {
                if let Ok(answer) = follower.await.expect("no panic") {
                    answers.push(Seen::of(answer).await);
                }
            }
            assert_eq!(answers, [Seen::new(200, COLLAPSED, "1")]);
            shared.is_over().await;
        }
    }
}

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
        Self { flights: FlightMiddleware::with_options("test", options), work: Arc::default(), runs: Arc::default() }
    }

    /// An app in which every route does the work, and `answer` turns the number of the run into the response.
    fn app(
        &self,
        answer: impl Fn(usize) -> HttpResponse + Send + Clone + 'static,
    ) -> impl Fn(&mut ServiceConfig) + Send + Clone + 'static {
        let shared = self.clone();
        move |config| {
            let handler = shared.handler(answer.clone());
            config.service(scope("").wrap(shared.flights.clone()).default_service(route().to(handler)));
        }
    }

    fn handler(
        &self,
        answer: impl Fn(usize) -> HttpResponse + Clone + 'static,
    ) -> impl Fn() -> LocalBoxFuture<'static, HttpResponse> + Clone + 'static {
        let (work, runs) = (Arc::clone(&self.work), Arc::clone(&self.runs));
        move || {
            let (work, runs, answer) = (Arc::clone(&work), Arc::clone(&runs), answer.clone());
            Box::pin(async move {
                work.run().await;
                answer(runs.fetch_add(1, Ordering::SeqCst) + 1)
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
        let answers = (first.await.expect("no panic"), second.await.expect("no panic"));
        // A later request must not find what remains of the run.
        self.work.hold_all();
        answers
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
    async fn all_disconnect(&self, server: &Server, clients: usize, leave: Leave) {
        let mut leavers = Vec::new();
        for waiting in 1..=clients {
            leavers.push(server.raw_get().await);
            eventually("the request waits", || self.flights.stats().waiting == waiting).await;
        }
        eventually("the handler runs", || self.work.inside() == 1).await;
        for leaver in leavers {
            leaver.leave(leave).await;
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
