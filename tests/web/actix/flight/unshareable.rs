//! Responses for one request only.

use std::collections::HashSet;
use std::io;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, SET_COOKIE, TRAILER, VARY};
use actix_web::web::Bytes;
use futures::stream;
use onelane::web::FlightOptions;

use super::{ALONE, Seen, Shared, header};
use support::actix::{LARGE, Server, Streams, chunk};
use support::client::{Disconnect, eventually, web_client};

/// Three requests for each response at the same time. The first gets the response of its run. The others run alone,
/// and so does a request that arrives later.
#[tokio::test]
async fn unshareable_responses_go_to_their_own_requests_and_the_key_is_bypassed_for_a_while() {
    type Respond = fn(usize) -> HttpResponse;
    let responses: [(&str, Respond); 10] = [
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
        ("Vary: *", |run| HttpResponse::Ok().insert_header((VARY, "*")).body(format!("{run}"))),
        ("a partial response", |run| HttpResponse::PartialContent().body(format!("{run}"))),
        ("a trailer", |run| HttpResponse::Ok().insert_header((TRAILER, "x-sum")).body(format!("{run}"))),
    ];
    for (what, respond) in responses {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start(shared.app(respond));
        let calls: Vec<_> = (0..3).map(|_| server.get("/")).collect();
        eventually("all requests wait for the first", || {
            shared.flights.stats().waiting == 3 && shared.work.inside() == 1
        })
        .await;
        assert_eq!(shared.work.started(), 1, "{what}");
        shared.work.let_finish(3);
        let mut bodies = HashSet::new();
        for call in calls {
            let seen = Seen::of(call.await.expect("no panic")).await;
            assert_eq!(seen.cache_status.as_deref(), ALONE, "{what}");
            assert!(bodies.insert(seen.body), "{what}: two requests got the same response");
        }
        let expected = [1, 2, 3].map(|run| respond(run).into_body());
        for expected in expected {
            let expected = actix_web::body::to_bytes(expected).await.expect("the request succeeds");
            assert!(bodies.remove(std::str::from_utf8(&expected).expect("the header is text")), "{what}");
        }
        assert_eq!(shared.flights.stats().runs, 1, "{what}");

        // No request waits for the head of another's response again.
        let later: Vec<_> = (0..2).map(|_| server.get("/")).collect();
        eventually("both run at once", || shared.work.inside() == 2).await;
        shared.work.let_finish(2);
        for response in later {
            assert_eq!(header(&response.await.expect("no panic"), "cache-status").as_deref(), ALONE, "{what}");
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
    one.disconnect(Disconnect::Rst).await;
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
        let requests = languages.map(|language| web_client().get(server.url("/")).header("accept-language", language));
        shared.pair(requests, runs == 1).await;
        assert_eq!(shared.work.started(), runs);
    }
}
