//! Handlers in worker processes behind guards and flights.

use futures::future::join_all;
use support::http::{Client, Disconnect, eventually};

use super::apps::{Framework, Site};
use super::work::FileGate;
use super::{is_problem, on_axum_and_actix, pool};

on_axum_and_actix! {
    crash_behind_a_guard_releases_its_permit,
    worker_behind_a_guard_holds_its_permit_until_it_has_ended,
    requests_behind_a_flight_share_one_call,
    keyed_guard_admits_one_request_per_key_and_a_crash_frees_the_key,
}

async fn crash_behind_a_guard_releases_its_permit(framework: Framework) {
    let (site, gate) = (Site::new(framework, pool(2).build()).await, FileGate::new());
    for _ in 0..3 {
        is_problem(&site.get("/guarded/abort").await, 500, "failed", None);
    }
    let mut first = site.running(&gate, "/guarded").await;
    let mut second = site.send(&gate.at("/guarded")).await;
    eventually("the second request waits", || site.guard.stats().waiting == 1).await;
    assert_eq!(gate.started().len(), 1);
    gate.open();
    assert_eq!((first.response().await.status, second.response().await.status), (200, 200));
    eventually("nothing is held", || site.guard.stats().held == 0).await;
}

/// A server that watches the connection kills the worker. Other servers let the handler continue.
async fn worker_behind_a_guard_holds_its_permit_until_it_has_ended(framework: Framework) {
    let (site, gate) = (Site::new(framework, pool(2).build()).await, FileGate::new());
    let mut leaving = site.running(&gate, "/guarded").await;
    let mut next = site.send(&gate.at("/guarded")).await;
    eventually("the next request waits", || site.guard.stats().waiting == 1).await;
    leaving.disconnect(Disconnect::Rst).await;
    if framework == Framework::Axum {
        eventually("the next request runs", || gate.started().len() == 2).await;
        assert_eq!(site.pool.stats().workers.killed, 1);
    } else {
        eventually("the guard notices the disconnect", || site.guard.stats().detached == 1).await;
        assert_eq!(gate.started().len(), 1);
    }
    gate.open();
    assert_eq!(next.response().await.status, 200);
    assert_eq!(gate.started().len(), 2);
}

async fn requests_behind_a_flight_share_one_call(framework: Framework) {
    let (site, gate) = (Site::new(framework, pool(2).build()).await, FileGate::new());
    let mut first = site.running(&gate, "/flight").await;
    let path = gate.at("/flight");
    let mut others = join_all((0..5).map(|_| site.send(&path))).await;
    while site.get("/flight/waiting").await.text() != "6" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    // The client of the call leaves, and the others still get the response.
    first.disconnect(Disconnect::Rst).await;
    drop(first);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    gate.open();
    for other in &mut others {
        assert_eq!(other.response().await.text(), "done");
    }
    assert_eq!((gate.started().len(), site.pool.stats().workers.killed), (1, 0));
}

async fn keyed_guard_admits_one_request_per_key_and_a_crash_frees_the_key(framework: Framework) {
    let (site, gate) = (Site::new(framework, pool(3).build()).await, FileGate::new());
    let path = gate.at("/user");
    let by = |user: &str| format!("GET {path} HTTP/1.1\r\nhost: test\r\nx-user: {user}\r\n\r\n");
    let mut ada = Client::sending(site.address, by("ada")).await;
    eventually("the request runs", || gate.started().len() == 1).await;
    let mut again = Client::sending(site.address, by("ada")).await;
    eventually("the same user waits", || site.users.stats().waiting == 1).await;
    let mut grace = Client::sending(site.address, by("grace")).await;
    eventually("another user runs", || gate.started().len() == 2).await;
    let worker = rustix::process::Pid::from_raw(gate.started()[0].cast_signed()).unwrap();
    rustix::process::kill_process(worker, rustix::process::Signal::SEGV).unwrap();
    is_problem(&ada.response().await, 500, "failed", None);
    eventually("the same user runs", || gate.started().len() == 3).await;
    gate.open();
    assert_eq!((again.response().await.status, grace.response().await.status), (200, 200));
    eventually("no key is in use", || site.users.is_empty()).await;
}
