//! The queue of a pool: requests that it refuses, requests whose function produces no result, and their order.

use std::time::Duration;

use onelane::offload::process::WorkerExit;
use support::http::{ClientResponse, eventually};

use super::apps::{Framework, Limits, Site};
use super::work::FileGate;
use super::{is_problem, on_axum_and_actix, pool};

on_axum_and_actix! {
    request_beyond_the_queue_is_refused_at_once,
    request_that_waits_too_long_is_refused_and_never_runs,
    request_that_runs_too_long_gets_504_and_its_worker_is_killed,
    crash_is_500_and_the_next_request_is_served,
    memory_above_the_limit_is_500,
    closed_pool_and_missing_workers_are_503,
    refusal_can_be_changed_and_knows_how_the_worker_ended,
    other_requests_are_answered_while_a_worker_loops,
    urgent_request_runs_before_earlier_ones_and_has_its_label,
}

async fn request_beyond_the_queue_is_refused_at_once(framework: Framework) {
    let (site, gate) = (Site::new(framework, pool(1).max_queued(1).build()).await, FileGate::new());
    let mut running = site.running(&gate, "/").await;
    let mut queued = site.queued(&gate.at("/")).await;
    is_problem(&site.get(&gate.at("/")).await, 503, "pool-full", Some("1"));
    gate.open();
    assert_eq!((running.response().await.status, queued.response().await.status), (200, 200));
    assert_eq!(gate.started().len(), 2);
}

async fn request_that_waits_too_long_is_refused_and_never_runs(framework: Framework) {
    let limit = Some(Duration::from_millis(50));
    for limits in [Limits { max_wait: limit, ..Limits::default() }, Limits { timeout: limit, ..Limits::default() }] {
        let site = Site::with_limits(framework, pool(1).build(), limits).await;
        let gate = FileGate::new();
        let running = site.pool.task(|query| super::work::wait_at_gate(&query), gate.query()).start().unwrap();
        eventually("the task runs", || gate.started().len() == 1).await;
        is_problem(&site.get(&gate.at("/")).await, 503, "timeout", Some("1"));
        gate.open();
        assert_eq!(running.await.unwrap(), "done");
        assert_eq!(gate.started().len(), 1, "{limits:?}");
    }
}

async fn request_that_runs_too_long_gets_504_and_its_worker_is_killed(framework: Framework) {
    // Long enough for the worker to start.
    let limits = Limits { timeout: Some(Duration::from_secs(2)), ..Limits::default() };
    let site = Site::with_limits(framework, pool(1).build(), limits).await;
    is_problem(&site.get("/fault/loop").await, 504, "took-too-long", None);
    assert_eq!(site.pool.stats().workers.killed, 1);
    site.serves().await;
}

async fn crash_is_500_and_the_next_request_is_served(framework: Framework) {
    let site = Site::new(framework, pool(1).build()).await;
    for (fault, kind) in [("segfault", "failed"), ("abort", "failed"), ("exit", "failed"), ("panic", "panicked")] {
        is_problem(&site.get(&format!("/fault/{fault}")).await, 500, kind, None);
        site.serves().await;
    }
    assert_eq!(site.pool.stats().workers.died, 3);
}

async fn memory_above_the_limit_is_500(framework: Framework) {
    let site = Site::new(framework, pool(1).memory_limit(1 << 30).build()).await;
    is_problem(&site.get("/fault/memory").await, 500, "over-limit", None);
    site.serves().await;
}

async fn closed_pool_and_missing_workers_are_503(framework: Framework) {
    let site = Site::new(framework, pool(1).build()).await;
    site.pool.close();
    is_problem(&site.get("/fault/none").await, 503, "closed", None);

    let broken = pool(1).initializer(|| std::process::exit(9)).build();
    let site = Site::new(framework, broken).await;
    is_problem(&site.get("/fault/none").await, 503, "no-worker", None);
}

async fn refusal_can_be_changed_and_knows_how_the_worker_ended(framework: Framework) {
    let site = Site::new(framework, pool(1).build()).await;
    let exit = |response: &ClientResponse| response.json()["exit"].as_str().map(str::to_owned);
    let response = site.get("/changed/exit").await;
    assert_eq!((response.status, exit(&response)), (599, Some(format!("{:?}", WorkerExit::Code(3)))));
    let response = site.get("/changed/panic").await;
    assert_eq!((response.status, exit(&response)), (599, None));
}

async fn other_requests_are_answered_while_a_worker_loops(framework: Framework) {
    let site = Site::new(framework, pool(2).build()).await;
    let _looping = site.send("/fault/loop").await;
    eventually("the request runs", || site.pool.stats().workers.busy == 1).await;
    for _ in 0..10 {
        assert_eq!(site.get("/plain").await.text(), "at once");
        site.serves().await;
    }
    assert_eq!(site.pool.stats().tasks.running, 1);
}

async fn urgent_request_runs_before_earlier_ones_and_has_its_label(framework: Framework) {
    let site = Site::new(framework, pool(1).build()).await;
    let (first, second, urgent) = (FileGate::new(), FileGate::new(), FileGate::new());
    let _running = site.running(&first, "/").await;
    let _second = site.queued(&second.at("/")).await;
    let _urgent = site.queued(&urgent.at("/urgent")).await;
    first.open();
    eventually("the urgent request runs", || urgent.started().len() == 1).await;
    let stats = site.pool.stats().tasks;
    assert_eq!((second.started().len(), stats.queued), (0, 1));
    assert_eq!(stats.tasks.iter().map(|task| &*task.label).collect::<Vec<_>>(), ["urgent"]);
}
