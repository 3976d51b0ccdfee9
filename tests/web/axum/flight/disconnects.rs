//! Clients that disconnect while a run continues.

use std::sync::Arc;

use onelane::EndpointGuard;
use onelane::web::FlightOptions;
use onelane::web::axum::{FlightLayer, GuardLayer};

use super::{Collapsed, Led, Site, get_with, numbered, part_of};
use support::http::{self, Client, Disconnect, Listening, Probe, eventually, serve};

const BOTH: [Disconnect; 2] = [Disconnect::Fin, Disconnect::Rst];

#[tokio::test]
async fn clients_that_disconnect_change_nothing_for_the_one_that_stays() {
    for disconnect in BOTH {
        for stays in 0..4 {
            let site = Site::new(FlightOptions::new()).await;
            let mut clients = site.send(&[(); 4].map(|()| http::get("/"))).await;
            for (_, client) in clients.iter_mut().enumerate().filter(|(i, _)| *i != stays) {
                client.disconnect(disconnect).await;
            }
            eventually("the followers have disconnected", || site.layer.stats().waiting == 1).await;
            assert_eq!((site.probe.started(), site.probe.cut_off()), (1, 0));
            site.probe.release(1);
            let response = clients[stays].response().await;
            assert_eq!((response.status, response.text()), (200, "answer 1"), "client {stays} stays, {disconnect:?}");
            assert_eq!((site.layer.stats().running, site.layer.stats().cancelled), (0, 0));
        }
    }
}

#[tokio::test]
async fn handler_is_dropped_when_all_clients_have_disconnected_and_a_later_request_starts_anew() {
    for disconnect in BOTH {
        for count in 1..=3 {
            let site = Site::new(FlightOptions::new()).await;
            let mut clients = site.send(&vec![http::get("/"); count]).await;
            for client in &mut clients {
                assert_eq!(site.probe.cut_off(), 0);
                client.disconnect(disconnect).await;
            }
            eventually("the handler is dropped", || site.probe.cut_off() == 1).await;
            eventually("nothing remains", || site.layer.stats().running == 0).await;
            let stats = site.layer.stats();
            assert_eq!((stats.waiting, stats.cancelled), (0, 1), "{count} clients, {disconnect:?}");
            assert_eq!(site.parts(&[http::get("/")]).await, [(2, Led)]);
        }
    }
}

#[tokio::test]
async fn detached_handler_finishes_after_all_clients_have_disconnected() {
    for disconnect in BOTH {
        for count in 1..=2 {
            let site = Site::new(FlightOptions::new().detached()).await;
            let mut clients = site.send(&vec![http::get("/"); count]).await;
            for client in &mut clients {
                client.disconnect(disconnect).await;
            }
            eventually("the followers have disconnected", || site.layer.stats().waiting == 0).await;
            assert_eq!((site.layer.stats().running, site.probe.cut_off()), (1, 0));
            site.probe.release(1);
            eventually("the handler has finished", || site.probe.finished() == 1).await;
            eventually("nothing remains", || site.layer.stats().running == 0).await;
            assert_eq!(site.layer.stats().cancelled, 0, "{count} clients, {disconnect:?}");
        }
    }
}

#[tokio::test]
async fn detached_run_is_shared_with_requests_that_arrive_after_all_clients_have_disconnected() {
    let site = Site::new(FlightOptions::new().detached()).await;
    let mut clients = site.send(&[http::get("/")]).await;
    clients[0].disconnect(Disconnect::Rst).await;
    eventually("the leader has disconnected", || site.layer.stats().waiting == 0).await;
    let mut late = Client::sending(site.address, http::get("/")).await;
    eventually("the request waits", || site.layer.stats().waiting == 1).await;
    site.probe.release(1);
    let response = late.response().await;
    assert_eq!((response.text(), part_of(&response)), ("answer 1", Collapsed));
}

#[tokio::test]
async fn request_that_is_served_alone_is_dropped_when_its_client_disconnects() {
    for disconnect in BOTH {
        let site = Site::new(FlightOptions::new().detached()).await;
        let mut clients = site.send(&[get_with("POST", "/", &[("content-length", "0")])]).await;
        clients[0].disconnect(disconnect).await;
        eventually("its handler is dropped", || site.probe.cut_off() == 1).await;
    }
}

/// The guard behind the layer finishes a handler that has begun, as it does without the layer.
#[tokio::test]
async fn guarded_handler_behind_the_layer_finishes_when_all_clients_have_disconnected() {
    let (layer, probe, guard) = (FlightLayer::new("outer"), Probe::new(), Arc::new(EndpointGuard::new("inner")));
    let app = numbered(&probe, |run| run.to_string()).layer(GuardLayer::new(&guard)).layer(layer.clone());
    let site = Site { address: serve(Listening::Plain, app).await, layer, probe };
    let mut clients = site.send(&[http::get("/"), http::get("/")]).await;
    for client in &mut clients {
        client.disconnect(Disconnect::Rst).await;
    }
    eventually("the handler continues without its clients", || guard.stats().detached == 1).await;
    eventually("the run has ended", || site.layer.stats().running == 0).await;
    site.probe.release(1);
    eventually("no permit is held", || guard.stats().held == 0).await;
    assert_eq!((site.probe.finished(), site.probe.cut_off(), guard.stats().finished_detached), (1, 0, 1));
}
