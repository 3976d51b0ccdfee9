//! Clients that disconnect.

use rustix::process::{Pid, test_kill_process};
use support::http::{Disconnect, eventually};

use super::apps::{Framework, Limits, Site};
use super::work::FileGate;
use super::{on_axum_and_actix, pool};

on_axum_and_actix! {
    request_whose_client_disconnects_while_it_waits_never_runs,
    worker_whose_client_disconnects_is_killed_and_the_next_request_runs,
    shielded_function_runs_to_its_end_without_its_client,
}

fn is_running(pid: u32) -> bool {
    test_kill_process(Pid::from_raw(pid.cast_signed()).unwrap()).is_ok()
}

async fn request_whose_client_disconnects_while_it_waits_never_runs(framework: Framework) {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        let (site, gate) = (Site::new(framework, pool(1).build()).await, FileGate::new());
        let mut running = site.running(&gate, "/").await;
        let mut leaving = site.queued(&gate.at("/")).await;
        leaving.disconnect(disconnect).await;
        eventually("the request leaves the queue", || site.pool.stats().tasks.queued == 0).await;
        let mut behind = site.queued(&gate.at("/")).await;
        gate.open();
        assert_eq!((running.response().await.status, behind.response().await.status), (200, 200));
        assert_eq!(gate.started().len(), 2, "{disconnect:?}");
        assert_eq!(site.pool.stats().workers.killed, 0, "{disconnect:?}");
    }
}

async fn worker_whose_client_disconnects_is_killed_and_the_next_request_runs(framework: Framework) {
    for disconnect in [Disconnect::Fin, Disconnect::Rst] {
        let (site, gate) = (Site::new(framework, pool(1).build()).await, FileGate::new());
        let mut leaving = site.running(&gate, "/").await;
        let worker = gate.started()[0];
        assert!(is_running(worker));
        leaving.disconnect(disconnect).await;
        eventually("the worker has ended", || !is_running(worker)).await;
        site.serves().await;
        assert_eq!(site.pool.stats().workers.killed, 1, "{disconnect:?}");
    }
}

async fn shielded_function_runs_to_its_end_without_its_client(framework: Framework) {
    let limits = Limits { is_shielded: true, ..Limits::default() };
    let (site, gate) = (Site::with_limits(framework, pool(1).build(), limits).await, FileGate::new());
    let mut running = site.running(&gate, "/").await;
    let mut queued = site.queued(&gate.at("/")).await;
    for client in [&mut running, &mut queued] {
        client.disconnect(Disconnect::Fin).await;
    }
    // The server closes the connection once it has noticed.
    if framework == Framework::Actix {
        assert_eq!(running.rest().await, b"");
    }
    gate.open();
    eventually("both ran", || gate.started().len() == 2 && site.pool.stats().tasks.running == 0).await;
    assert_eq!(site.pool.stats().workers.killed, 0);
}
