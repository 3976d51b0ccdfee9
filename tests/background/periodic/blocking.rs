//! Blocking calls: one at a time, whatever their timeout is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant as Clock;

use onelane::background::{
    BuildError, Every, ExitKind, Overlap, Placement, ServiceHost, ServiceHostBuilder, Supervision, TimeLimit,
    periodic_blocking,
};
use support::waiting::{Gate, MS, PATIENCE, until};
use tokio::time::timeout;

use super::SECOND;

fn threaded_host() -> ServiceHostBuilder {
    ServiceHost::builder().without_signals()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_that_exceeds_its_timeout_is_in_progress_until_its_thread_returns() {
    for placement in [Placement::Shared, Placement::Thread] {
        for overlap in [Overlap::Skip, Overlap::Queue] {
            let gate = Gate::default();
            let wait = gate.wait();
            let calls = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&calls);
            let every = Every::fixed_rate(MS * 5).tick_timeout(MS * 4).overlap(overlap);
            let service = periodic_blocking("blocks", every, move |cx| {
                if counter.fetch_add(1, Ordering::Relaxed) == 0 {
                    wait.block();
                    assert_eq!(cx.remaining(), Some(std::time::Duration::ZERO));
                }
                Ok(())
            });
            let host = threaded_host().service(service.placement(placement)).build().unwrap();
            host.start().await.unwrap();
            let ticks = || host.status().service("blocks").unwrap().ticks().unwrap();
            until("many calls are skipped", || ticks().skipped() > 20).await;
            assert_eq!((calls.load(Ordering::Relaxed), gate.inside(), ticks().running()), (1, 1, 1), "{placement:?}");
            gate.open();
            until("more calls", || ticks().runs() > 3).await;
            let failure = ticks().last_failure().unwrap().clone();
            assert!(matches!(failure, ExitKind::TimedOut(TimeLimit::Tick(_))), "{failure:?}");
            assert!(timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap().is_clean());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_calls_block_no_task_and_see_the_stop() {
    for placement in [Placement::Shared, Placement::Thread] {
        let service = periodic_blocking("loops", Every::secs(3600), |cx| {
            while !cx.is_stopping() {
                // A blocking call cannot await.
                std::thread::sleep(MS);
            }
            Ok(())
        });
        let host = threaded_host().service(service.placement(placement)).build().unwrap();
        host.start().await.unwrap();
        until("the call begins", || host.status().service("loops").unwrap().ticks().unwrap().running() == 1).await;
        let start = Clock::now();
        let report = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert!(start.elapsed() < SECOND * 3, "{:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_that_ignores_the_stop_is_reported() {
    for placement in [Placement::Shared, Placement::Thread] {
        let gate = Gate::default();
        let wait = gate.wait();
        let service = periodic_blocking("hangs", Every::secs(3600), move |_| {
            wait.block();
            Ok(())
        });
        let service = service.placement(placement).stop_timeout(MS * 50).cleanup_timeout(MS * 50);
        let host = threaded_host().service(service).build().unwrap();
        host.start().await.unwrap();
        until("the call begins", || gate.inside() == 1).await;
        let report = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
        let service = report.service("hangs").unwrap();
        assert!(!service.is_clean() && !service.is_dropped(), "{placement:?}: {service:?}");
        assert_eq!(host.status().service("hangs").unwrap().ticks().unwrap().running(), 1);
        gate.open();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generation_waits_for_the_call_of_the_last_one() {
    let gate = Gate::default();
    let wait = gate.wait();
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    let service = periodic_blocking("follower", Every::fixed_rate(MS * 5), move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        wait.block();
        Ok(())
    });
    let restarts = Arc::new(AtomicUsize::new(0));
    let leader = onelane::background::service_fn("leader", move |cx| {
        let is_first = restarts.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_first {
                cx.sleep(MS * 100).await;
                return Err("the leader fails once".into());
            }
            cx.stopping().await;
            Ok(())
        }
    });
    let host = threaded_host()
        .service(leader.backoff(onelane::background::Backoff::new(MS)))
        .service(service.restart_with("leader").stop_timeout(MS * 20))
        .build()
        .unwrap();
    host.start().await.unwrap();
    until("the service runs again", || host.status().service("follower").unwrap().generation() == 2).await;
    until("it is ready", || host.status().service("follower").unwrap().is_ready()).await;
    // That no second call begins can only be observed by waiting.
    tokio::time::sleep(MS * 50).await;
    assert_eq!((calls.load(Ordering::Relaxed), gate.inside()), (1, 1));
    gate.open();
    until("more calls", || calls.load(Ordering::Relaxed) > 2).await;
    assert!(timeout(PATIENCE, host.shutdown()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn failures_and_panics_count_and_paused_time_waits_for_the_calls() {
    let service = periodic_blocking("fails", Every::fixed_rate(SECOND).max_runs(4), |cx| {
        // Paused time does not advance meanwhile.
        std::thread::sleep(MS * 5);
        match cx.number() {
            1 => Err("the first call fails".into()),
            2 => panic!("the second call panics"),
            _ => Ok(()),
        }
    });
    let host = threaded_host().supervision(Supervision::ServerRuntime).service(service).build().unwrap();
    let start = tokio::time::Instant::now();
    host.start().await.unwrap();
    until("the service completes", || host.status().service("fails").unwrap().is_ended()).await;
    assert_eq!(start.elapsed().as_secs(), 3);
    let status = host.status();
    let ticks = status.service("fails").unwrap().ticks().unwrap();
    assert_eq!((ticks.runs(), ticks.failures(), ticks.skipped()), (4, 2, 0));
    assert!(matches!(ticks.last_failure(), Some(ExitKind::Panicked(_))));
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[test]
fn blocking_calls_that_may_overlap_are_rejected() {
    let every = Every::fixed_rate(SECOND).overlap(Overlap::Allow);
    let error = ServiceHost::builder().service(periodic_blocking("overlaps", every, |_| Ok(()))).build().unwrap_err();
    assert!(matches!(error, BuildError::InvalidOption { option: "overlap", .. }), "{error:?}");
}
