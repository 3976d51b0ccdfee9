//! Tests of how a periodic service ends: when it is asked to stop, and on its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use onelane::background::{
    Backoff, Every, ExitKind, FirstCall, HostError, HostHandle, Intensity, Overlap, Restart, ServiceState,
    TriggerError, periodic,
};
use tokio::time::{Instant, sleep, timeout};

use crate::periodic::{CallLog, SECOND, Seconds, rate, run_for, started, state, ticks};

#[tokio::test(start_paused = true)]
async fn stop_ends_the_wait_for_the_next_call_at_once() {
    for every in [rate(3_600), Every::secs(3_600), rate(3_600).overlap(Overlap::Allow)] {
        let calls = CallLog::lasting(&[0]);
        let host = started(calls.service(every)).await;
        sleep(SECOND).await;
        let start = Instant::now();
        let report = host.shutdown().await.unwrap();
        assert!(start.elapsed() < SECOND / 10);
        assert!(report.is_clean());
        assert!(matches!(report.service("tick").unwrap().exit().unwrap().kind(), ExitKind::Stopped));
        assert_eq!(ticks(&host.handle()).next_run(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn stop_lets_a_running_call_end_and_begins_no_more() {
    for overlap in [Overlap::Skip, Overlap::Queue] {
        let calls = CallLog::lasting(&[24]);
        let host = started(calls.service(rate(20).overlap(overlap)).stop_timeout(10.seconds())).await;
        sleep(21.seconds()).await;
        host.handle().trigger_now("tick").unwrap();
        let start = Instant::now();
        host.handle().request_shutdown();
        sleep(SECOND).await;
        let stopping = ticks(&host.handle());
        assert_eq!((stopping.running(), stopping.next_run()), (1, None));
        let report = host.shutdown().await.unwrap();
        assert!(report.is_clean(), "{overlap:?}: {report:?}");
        assert_eq!((start.elapsed().as_secs(), calls.finished()), (3, 1));
        assert_eq!(calls.seconds(), [0]);
        let status = ticks(&host.handle());
        assert_eq!((status.running(), status.next_run()), (0, None));
    }
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_concurrent_calls() {
    let calls = CallLog::lasting(&[12]);
    let host = started(calls.service(rate(10).overlap(Overlap::Allow)).stop_timeout(15.seconds())).await;
    sleep(11.seconds()).await;
    let start = Instant::now();
    let report = timeout(100.seconds(), host.shutdown()).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((start.elapsed().as_secs(), calls.finished()), (11, 2));
    let status = ticks(&host.handle());
    assert_eq!((status.running(), status.failures()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn call_that_exceeds_the_stop_timeout_is_dropped_and_counts_as_failed() {
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let calls = CallLog::lasting(&[100]);
        let host = started(calls.service(rate(1_000).overlap(overlap)).stop_timeout(5.seconds())).await;
        sleep(SECOND).await;
        let start = Instant::now();
        let report = host.shutdown().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 5);
        assert!(!report.is_clean());
        assert!(matches!(report.service("tick").unwrap().exit().unwrap().kind(), ExitKind::Aborted));
        let status = ticks(&host.handle());
        assert!(matches!(status.last_exit(), Some(ExitKind::Aborted)));
        assert_eq!((status.running(), status.failures(), calls.running.load(Ordering::Relaxed)), (0, 1, 0));
        assert_eq!(status.last_duration().unwrap().as_secs(), 6);
        assert_eq!((calls.finished(), status.next_run()), (0, None));
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_fails_during_the_stop_leaves_the_shutdown_clean() {
    let service = periodic("tick", Every::secs(100).give_up_after(1), |_| async {
        sleep(3 * SECOND).await;
        Err("too late".into())
    });
    let host = started(service).await;
    sleep(SECOND).await;
    let report = host.shutdown().await.unwrap();
    assert!(report.is_clean());
    assert_eq!(ticks(&host.handle()).failures(), 1);
}

#[tokio::test(start_paused = true)]
async fn call_that_waits_for_the_end_of_its_own_host_fails_and_the_host_stops() {
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let handle: Arc<OnceLock<HostHandle>> = Arc::default();
        let own = Arc::clone(&handle);
        let refused = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&refused);
        let service = periodic("tick", rate(10).first_call(FirstCall::AfterInterval).overlap(overlap), move |_| {
            let (own, count) = (Arc::clone(&own), Arc::clone(&count));
            async move {
                let end = own.get().unwrap().shutdown().await;
                count.fetch_add(u64::from(matches!(end, Err(HostError::WouldDeadlock))), Ordering::Relaxed);
                Ok(())
            }
        });
        let host = started(service).await;
        let _ = handle.set(host.handle());
        sleep(11.seconds()).await;
        assert_eq!(refused.load(Ordering::Relaxed), 1, "{overlap:?}");
        assert!(host.shutdown().await.unwrap().is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_host_stops_the_calls() {
    let calls = CallLog::lasting(&[0]);
    let host = started(calls.service(Every::secs(10))).await;
    let handle = host.handle();
    sleep(25.seconds()).await;
    drop(host);
    sleep(100.seconds()).await;
    assert_eq!(calls.seconds(), [0, 10, 20]);
    assert!(handle.status().service("tick").unwrap().is_ended());
}

#[tokio::test(start_paused = true)]
async fn max_runs_completes_the_service_once_the_last_call_has_ended() {
    for (overlap, times, end) in [(Overlap::Skip, [0, 20, 40], 55), (Overlap::Allow, [0, 10, 20], 35)] {
        let calls = CallLog::lasting(&[15]);
        let host = started(calls.service(rate(10).overlap(overlap).max_runs(3))).await;
        sleep(end.seconds() - SECOND).await;
        assert!(matches!(state(&host.handle()), ServiceState::Running { .. }));
        assert_eq!(ticks(&host.handle()).next_run(), None);
        // This trigger causes no further call.
        host.handle().trigger_now("tick").unwrap();
        sleep(2.seconds()).await;
        assert!(matches!(state(&host.handle()), ServiceState::Completed));
        assert_eq!(calls.seconds(), times);
        assert_eq!(host.handle().trigger_now("tick"), Err(TriggerError::Ended));
        let report = host.shutdown().await.unwrap();
        assert!(matches!(report.service("tick").unwrap().exit().unwrap().kind(), ExitKind::Completed));
    }
}

#[tokio::test(start_paused = true)]
async fn max_runs_counts_failed_and_triggered_calls_across_restarts() {
    let begun = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&begun);
    let every = Every::secs(10).max_runs(5).give_up_after(2);
    let service = periodic("tick", every, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Err("always".into()) }
    });
    let host = started(service).await;
    sleep(SECOND).await;
    host.handle().trigger_now("tick").unwrap();
    sleep(1_000.seconds()).await;
    assert_eq!(begun.load(Ordering::Relaxed), 5);
    let status = host.status();
    let status = status.service("tick").unwrap();
    assert!(matches!(status.state(), ServiceState::Completed), "{}", status.state());
    assert_eq!(status.generation(), 3);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn max_runs_counts_from_zero_after_a_completed_service_is_restarted() {
    let calls = CallLog::lasting(&[0]);
    let service = calls.service(Every::secs(10).max_runs(2)).restart(Restart::Always);
    let backoff = Backoff::new(100.seconds()).limit(100.seconds()).jitter(0.0);
    let (times, status) = run_for(215, service.backoff(backoff).intensity(Intensity::unlimited()), &calls).await;
    assert_eq!(times, [0, 10, 110, 120]);
    assert_eq!(status.runs(), 4);
}
