//! Closed layers, and the runs that `drained` waits for.

use axum::http::StatusCode;
use onelane::web::FlightOptions;
use onelane::web::axum::FlightLayer;
use onelane::{Managed, ManagedSnapshot};

use super::{Alone, Collapsed, Led, Site, part_of};
use crate::axum::refusals::is_problem;
use support::http::{self, Client, Disconnect, eventually, soon};

const CLOSED: &str = "https://docs.rs/onelane/latest/onelane/web/index.html#closed";

#[tokio::test]
async fn closed_layer_refuses_requests_and_is_drained_when_its_runs_have_ended() {
    let site = Site::new(FlightOptions::new()).await;
    let mut clients = site.send(&[http::get("/"), http::get("/"), http::get("/")]).await;
    let layer = site.layer.clone();
    let drained = tokio::spawn(async move { layer.drained().await });
    assert!(!site.layer.is_closed());
    site.layer.close();
    assert!(site.layer.is_closed());
    for path in ["/", "/other"] {
        let refused = Client::sending(site.address, http::get(path)).await.response().await;
        is_problem(&refused, 503, CLOSED);
        assert_eq!(refused.header("retry-after"), None);
    }
    // A request that is served alone is not affected.
    let mut alone = Client::sending(site.address, http::request("POST", "/")).await;
    eventually("the request is served", || site.probe.started() == 2).await;
    assert!(!drained.is_finished(), "a run is left");
    site.probe.release(2);
    for (client, part) in clients.iter_mut().zip([Led, Collapsed, Collapsed]) {
        assert_eq!(part_of(&client.response().await), part);
    }
    assert_eq!(part_of(&alone.response().await), Alone);
    soon(drained).await.expect("no panic");
    assert_eq!((site.probe.started(), site.layer.stats().runs), (2, 1));
}

#[tokio::test]
async fn request_that_would_join_the_next_run_is_refused_by_a_closed_layer() {
    let site = Site::responding(FlightOptions::new(), |_| StatusCode::UNAUTHORIZED).await;
    let mut clients = site.send(&[http::get("/"), http::get("/"), http::get("/")]).await;
    site.layer.close();
    site.probe.release(1);
    let [leader, followers @ ..] = &mut clients[..] else { panic!("there are three clients") };
    assert_eq!(leader.response().await.status, 401);
    for follower in followers {
        is_problem(&follower.response().await, 503, CLOSED);
    }
    soon(site.layer.drained()).await;
    assert_eq!((site.probe.started(), site.layer.stats().runs), (1, 1));
}

#[tokio::test]
async fn drained_waits_for_a_detached_run_without_clients() {
    let site = Site::new(FlightOptions::new().detached()).await;
    let mut clients = site.send(&[http::get("/"), http::get("/")]).await;
    for client in &mut clients {
        client.disconnect(Disconnect::Rst).await;
    }
    eventually("the clients have left", || site.layer.stats().waiting == 0).await;
    site.layer.close();
    let expected = ManagedSnapshot::new("flight").with_active(1).with_closed(true);
    assert_eq!(Managed::snapshot(&site.layer), expected);
    let layer = site.layer.clone();
    let drained = tokio::spawn(async move { Managed::drained(&layer).await });
    tokio::task::yield_now().await;
    assert!(!drained.is_finished(), "the handler continues");
    site.probe.release(1);
    soon(drained).await.expect("no panic");
    assert_eq!((site.probe.finished(), site.probe.cut_off()), (1, 0));
}

#[test]
fn name_may_come_from_a_configuration() {
    for options in [None, Some(FlightOptions::new().max_waiters(1))] {
        let name = |number: u8| format!("page-{number}");
        let layers = [FlightLayer::new(name(1)), FlightLayer::keyed(name(2), |_| Some("key"))];
        let layers = layers.map(|layer| match &options {
            Some(options) => layer.options(options.clone()),
            None => layer,
        });
        for (layer, name) in layers.iter().zip(["page-1", "page-2"]) {
            assert_eq!((&*layer.stats().name, layer.name()), (name, name));
        }
    }
    assert_eq!(FlightLayer::new("literal").name(), "literal");
}
