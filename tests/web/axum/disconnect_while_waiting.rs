//! Clients that disconnect while their request waits: its handler never runs.

use std::net::SocketAddr;
use std::sync::Arc;

use onelane::EndpointGuard;
use onelane::web::axum::GuardLayer;

use crate::axum::held_route;
use support::http::{self, Client, Disconnect, Listening, Probe, bytes, eventually, serve};

use Listening::{Plain, Watched};

/// The handler of one request runs while another request waits.
struct Queue {
    address: SocketAddr,
    guard: Arc<EndpointGuard>,
    probe: Arc<Probe>,
    holder: Client,
    waiter: Client,
}

impl Queue {
    /// A request waits, of which `sent` has been sent.
    async fn with(listening: Listening, sent: &[u8]) -> Self {
        let (guard, probe) = (Arc::new(EndpointGuard::new("queue")), Probe::new());
        let address = serve(listening, held_route(&guard, &probe)).await;
        let holder = Client::sending(address, http::get("/")).await;
        eventually("its handler runs", || probe.started() == 1).await;
        let mut waiter = Client::connect(address).await;
        waiter.send_what_fits(sent).await;
        eventually("the request was queued", || guard.stats().queued == 1).await;
        Self { address, guard, probe, holder, waiter }
    }

    /// The client disconnects and leaves the queue at once, though the holder continues.
    async fn client_disconnects(mut self, disconnect: Disconnect, what: &str) {
        self.waiter.disconnect(disconnect).await;
        let gone = format!("left the queue, {what}, {disconnect:?}");
        eventually(&gone, || self.guard.stats().waiting == 0).await;
        assert_eq!(self.guard.stats().held, 1, "{what}, {disconnect:?}: the holder continues");
        self.ends_with_one_run(what).await;
    }

    async fn ends_with_one_run(mut self, what: &str) {
        self.probe.release(2);
        assert_eq!(self.holder.response().await.status, 200);
        eventually("no permit is held", || self.guard.stats().held == 0).await;
        assert_eq!(self.probe.started(), 1, "{what}: its handler never runs");
        assert_eq!(self.guard.stats().detached + self.guard.stats().finished_detached, 0);
    }
}

async fn disconnects_unseen_by_the_handler(listening: Listening, what: &str, sent: &[u8]) {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        Queue::with(listening, sent).await.client_disconnects(disconnect, what).await;
    }
}

#[tokio::test]
async fn request_without_a_body_never_runs() {
    for listening in [Plain, Watched] {
        disconnects_unseen_by_the_handler(listening, "GET", http::get("/").as_bytes()).await;
    }
}

#[tokio::test]
async fn request_with_a_body_up_to_the_read_ahead_limit_never_runs() {
    for length in [10, 4 * 1024, 60_000, 64 * 1024] {
        for listening in [Plain, Watched] {
            let what = format!("body of {length} bytes, {listening:?}");
            disconnects_unseen_by_the_handler(listening, &what, &http::post("/", &bytes(length))).await;
        }
    }
}

#[tokio::test]
async fn request_with_a_chunked_body_never_runs() {
    let (small, large) = (bytes(100), bytes(20_000));
    for listening in [Plain, Watched] {
        let sent = http::post_chunked("/", &[&small, &large, &small]);
        disconnects_unseen_by_the_handler(listening, "chunked", &sent).await;
    }
}

#[tokio::test]
async fn request_that_was_sent_100_continue_never_runs() {
    let head = "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 1000\r\n\r\n";
    for listening in [Plain, Watched] {
        for disconnect in [Disconnect::Fin, Disconnect::Rst] {
            for body in [0, 500, 1000] {
                let mut queue = Queue::with(listening, head.as_bytes()).await;
                assert!(
                    queue.waiter.head().await.starts_with("HTTP/1.1 100"),
                    "the client may send its body while the request waits"
                );
                queue.waiter.send(bytes(body)).await;
                queue.client_disconnects(disconnect, &format!("after {body} of 1000 bytes, {listening:?}")).await;
            }
        }
    }
}

#[tokio::test]
async fn request_that_broke_off_never_runs() {
    for listening in [Plain, Watched] {
        let mut sent = http::post_head("/", 1000).into_bytes();
        sent.extend(bytes(10));
        disconnects_unseen_by_the_handler(listening, "10 of 1000 bytes", &sent).await;
        let mut sent = http::post_chunked("/", &[&bytes(100)]);
        sent.truncate(sent.len() - 40);
        disconnects_unseen_by_the_handler(listening, "half a chunk", &sent).await;
    }
}

#[tokio::test]
async fn malformed_body_is_refused_while_the_request_waits_and_never_runs() {
    let sent = "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\nno length\r\n";
    let mut queue = Queue::with(Plain, sent.as_bytes()).await;
    let response = queue.waiter.response().await;
    assert_eq!(
        (response.status, response.json()["type"].as_str()),
        (400, Some("https://docs.rs/onelane/latest/onelane/web/index.html#body-unreadable"))
    );
    assert_eq!(queue.guard.stats().waiting, 0);
    queue.ends_with_one_run("malformed").await;
}

#[tokio::test]
async fn pipelined_requests_never_run_with_a_watched_listener() {
    disconnects_unseen_by_the_handler(Watched, "two GETs", http::get("/").repeat(2).as_bytes()).await;
    let with_body = [http::post("/", &bytes(5000)), http::post("/", &bytes(5000))].concat();
    disconnects_unseen_by_the_handler(Watched, "two POSTs", &with_body).await;
}

#[tokio::test]
async fn body_beyond_the_read_ahead_limit_never_runs_with_a_watched_listener() {
    let sent = http::post("/", &bytes(150_000));
    disconnects_unseen_by_the_handler(Watched, "body of 150,000 bytes", &sent).await;
}

/// The client resets the connection. A client that only closes can't be noticed: its kernel keeps the end of the stream
/// back behind bytes for which the server's kernel has no room.
#[tokio::test]
async fn body_of_two_megabytes_whose_client_resets_never_runs_with_a_watched_listener() {
    let sent = http::post("/", &bytes(2 * 1024 * 1024));
    Queue::with(Watched, &sent).await.client_disconnects(Disconnect::Rst, "body of 2 MiB").await;
}

#[tokio::test]
async fn requests_behind_a_client_that_disconnected_move_up() {
    let mut queue = Queue::with(Plain, http::get("/").as_bytes()).await;
    let mut behind = Client::sending(queue.address, http::post("/", b"body")).await;
    eventually("two requests wait", || queue.guard.stats().waiting == 2).await;
    queue.waiter.disconnect(Disconnect::Fin).await;
    eventually("one request has left", || queue.guard.stats().waiting == 1).await;
    queue.probe.release(2);
    assert_eq!(queue.holder.response().await.status, 200);
    assert_eq!(behind.response().await.status, 200);
    assert_eq!((queue.probe.started(), queue.guard.stats().cancelled), (2, 1));
}

/// For the outer guard its handler already runs, and would finish. The inner guard checks the connection itself.
#[tokio::test]
async fn request_that_waits_at_an_inner_guard_never_runs_with_a_watched_listener() {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        let (outer, inner) = (EndpointGuard::builder("outer").permits(2).build(), EndpointGuard::new("inner"));
        let (outer, inner, probe) = (Arc::new(outer), Arc::new(inner), Probe::new());
        let app = held_route(&inner, &probe).layer(GuardLayer::new(&outer));
        let address = serve(Watched, app).await;
        let mut holder = Client::sending(address, http::get("/")).await;
        eventually("its handler runs", || probe.started() == 1).await;
        let mut waiter = Client::sending(address, http::post("/", &bytes(1000))).await;
        eventually("the request waits inside the outer guard", || inner.stats().waiting == 1).await;
        assert_eq!(outer.stats().held, 2);

        waiter.disconnect(disconnect).await;
        eventually("the request has left both guards", || inner.stats().waiting == 0 && outer.stats().held == 1).await;
        probe.release(2);
        assert_eq!(holder.response().await.status, 200);
        eventually("no permit is held", || outer.stats().held + inner.stats().held == 0).await;
        assert_eq!(probe.started(), 1);
    }
}
