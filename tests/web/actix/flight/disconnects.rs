//! Clients that disconnect while a run continues.

use onelane::web::FlightOptions;

use super::{COLLAPSED, LED, Seen, Shared, numbered};
use support::actix::Server;
use support::client::{Disconnect, eventually};

#[tokio::test]
async fn leader_that_disconnects_leaves_its_run_to_the_followers() {
    for (disconnect, half_closed) in WAYS {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start_with(2, half_closed, shared.app(numbered));
        let first = server.raw_get().await;
        eventually("the first request leads", || shared.work.inside() == 1).await;
        let others: Vec<_> = (0..3).map(|_| server.get("/")).collect();
        eventually("the others share", || shared.flights.stats().waiting == 4).await;
        first.disconnect(disconnect).await;
        eventually("the leader has disconnected", || shared.flights.stats().waiting == 3).await;
        assert_eq!((shared.work.inside(), shared.work.cut()), (1, 0), "{disconnect:?}: the run continues");
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
    for (disconnect, half_closed) in WAYS {
        let shared = Shared::new(FlightOptions::new());
        let server = Server::start_with(2, half_closed, shared.app(numbered));
        let first = server.get("/");
        eventually("the first request leads", || shared.work.inside() == 1).await;
        let mut disconnecting = Vec::new();
        for _ in 0..4 {
            disconnecting.push(server.raw_get().await);
        }
        let stays = server.get("/");
        eventually("all requests share", || shared.flights.stats().waiting == 6).await;
        for disconnecting in disconnecting {
            disconnecting.disconnect(disconnect).await;
        }
        eventually("the followers have disconnected", || shared.flights.stats().waiting == 2).await;
        shared.work.let_finish(1);
        assert_eq!(Seen::of(first.await.expect("no panic")).await, Seen::new(200, LED, "1"));
        assert_eq!(Seen::of(stays.await.expect("no panic")).await, Seen::new(200, COLLAPSED, "1"));
        assert_eq!((shared.work.started(), shared.work.cut()), (1, 0), "{disconnect:?}");
        shared.is_over().await;
    }
}

#[tokio::test]
async fn handler_is_dropped_when_all_clients_have_disconnected_and_the_next_request_starts_anew() {
    for clients in [1, 3] {
        for (disconnect, half_closed) in WAYS {
            let shared = Shared::new(FlightOptions::new());
            let server = Server::start_with(2, half_closed, shared.app(numbered));
            shared.all_disconnect(&server, clients, disconnect).await;
            eventually(&format!("the handler is dropped: {disconnect:?}"), || shared.work.cut() == 1).await;
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
        for (disconnect, half_closed) in WAYS {
            let shared = Shared::new(FlightOptions::new().detached());
            let server = Server::start_with(2, half_closed, shared.app(numbered));
            shared.all_disconnect(&server, clients, disconnect).await;
            eventually("the followers have disconnected", || shared.flights.stats().waiting == 0).await;
            assert_eq!(
                (shared.work.inside(), shared.flights.stats().running),
                (1, 1),
                "{disconnect:?}: the handler continues"
            );
            // A request that arrives meanwhile shares the run.
            let late = server.get("/");
            eventually("the request shares", || shared.flights.stats().waiting == 1).await;
            shared.work.let_finish(1);
            assert_eq!(Seen::of(late.await.expect("no panic")).await, Seen::new(200, COLLAPSED, "1"));

            shared.all_disconnect(&server, clients, disconnect).await;
            eventually("the followers have disconnected", || shared.flights.stats().waiting == 0).await;
            shared.work.let_finish(1);
            eventually("the handler finishes without a client", || shared.work.finished() == 2).await;
            shared.is_over().await;
            assert_eq!((shared.work.started(), shared.work.cut()), (2, 0));
            assert_eq!(shared.flights.stats().cancelled, 0);
        }
    }
}

const WAYS: [(Disconnect, bool); 3] = [(Disconnect::Fin, false), (Disconnect::Rst, false), (Disconnect::Rst, true)];
