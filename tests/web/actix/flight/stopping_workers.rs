//! Workers that stop while requests share a run.

use onelane::web::FlightOptions;
use tokio::time::timeout;

use super::{COLLAPSED, LED, Seen, Shared, numbered};
use support::actix::Server;
use support::client::{PATIENCE, eventually, web_client};

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
    for response in calls {
        assert_eq!(Seen::of(response.await.expect("no panic")).await.body, "1");
    }
    timeout(PATIENCE, stopping).await.expect("the server stops").expect("no panic");
    assert_eq!(shared.work.started(), 1);
    shared.is_over().await;
}

/// Two servers with one worker each behave like two workers of one server, but can be stopped one by one.
#[tokio::test]
async fn followers_on_other_workers_join_the_next_run_when_the_leaders_worker_ends() {
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
        for response in lost {
            assert!(response.await.expect("no panic").is_err(), "the connection ends with its worker");
        }
        eventually("the others share a run", || shared.work.inside() == 1 && shared.flights.stats().waiting == 2).await;
        assert_eq!((shared.work.cut(), shared.flights.stats().running), (1, 1));
        shared.work.let_finish(1);
        let mut seen = Vec::new();
        for response in saved {
            seen.push(Seen::of(response.await.expect("no panic").expect("the server responds")).await);
        }
        let (led, collapsed) = (Seen::new(200, LED, "1"), Seen::new(200, COLLAPSED, "1"));
        assert!(seen.contains(&led) && seen.contains(&collapsed), "{seen:?}");
        shared.is_over().await;
        let next = other.get("/");
        eventually("the next request leads", || shared.work.inside() == 1).await;
        shared.work.let_finish(1);
        assert_eq!(Seen::of(next.await.expect("no panic")).await, Seen::new(200, LED, "2"));
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
        let mut responses = Vec::new();
        for follower in followers {
            if let Ok(response) = follower.await.expect("no panic") {
                responses.push(Seen::of(response).await);
            }
        }
        assert_eq!(responses, [Seen::new(200, COLLAPSED, "1")]);
        shared.is_over().await;
    }
}
