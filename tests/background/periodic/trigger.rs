//! Tests of calls outside the schedule.

use std::sync::atomic::{AtomicU64, Ordering};

use onelane::background::{Backoff, Every, FirstCall, Overlap, ServiceState, TriggerError, periodic, service_fn};
use tokio::time::sleep;

use crate::periodic::{CallLog, Seconds, host, rate, started, state, ticks};

#[tokio::test(start_paused = true)]
async fn trigger_calls_at_once_and_keeps_the_schedule() {
    for every in [rate(10), Every::secs(10)] {
        let calls = CallLog::lasting(&[0]);
        let host = started(calls.service(every)).await;
        sleep(4.seconds()).await;
        host.handle().trigger_now("tick").unwrap();
        sleep(17.seconds()).await;
        assert_eq!(calls.seconds(), [0, 4, 10, 20]);
        let _ = host.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn triggers_while_a_call_runs_share_one_call_after_it() {
    for every in [rate(100), rate(100).overlap(Overlap::Queue), Every::secs(100)] {
        let calls = CallLog::lasting(&[10, 0]);
        let host = started(calls.service(every)).await;
        for second in 1..=3 {
            sleep(second.seconds()).await;
            host.handle().trigger_now("tick").unwrap();
        }
        sleep(50.seconds()).await;
        assert_eq!(calls.seconds(), [0, 10]);
        assert_eq!(calls.max_running(), 1);
        let _ = host.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn trigger_and_queued_call_share_one_call() {
    let calls = CallLog::lasting(&[15, 0]);
    let host = started(calls.service(rate(10).overlap(Overlap::Queue))).await;
    sleep(12.seconds()).await;
    host.handle().trigger_now("tick").unwrap();
    sleep(10.seconds()).await;
    assert_eq!(calls.seconds(), [0, 15, 20]);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn trigger_with_overlap_allowed_calls_concurrently() {
    let calls = CallLog::lasting(&[10]);
    let host = started(calls.service(rate(100).overlap(Overlap::Allow))).await;
    sleep(3.seconds()).await;
    host.handle().trigger_now("tick").unwrap();
    sleep(3.seconds()).await;
    assert_eq!(calls.seconds(), [0, 3]);
    assert_eq!(calls.max_running(), 2);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn call_due_while_a_triggered_call_runs_is_skipped() {
    let calls = CallLog::lasting(&[0, 10, 0]);
    let host = started(calls.service(Every::secs(10))).await;
    sleep(5.seconds()).await;
    host.handle().trigger_now("tick").unwrap();
    sleep(25.seconds()).await;
    // The triggered call ran from 5 s to 15 s, and the fixed delay counts from its end.
    assert_eq!(calls.seconds(), [0, 5, 25]);
    assert_eq!(ticks(&host.handle()).skipped(), 1);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn trigger_before_the_start_is_served_by_the_first_call() {
    for (first_call, expected) in [(FirstCall::Now, [0, 10]), (FirstCall::AfterInterval, [0, 10])] {
        let calls = CallLog::lasting(&[0]);
        let host = host(calls.service(rate(10).first_call(first_call)));
        host.handle().trigger_now("tick").unwrap();
        host.handle().trigger_now("tick").unwrap();
        host.start().await.unwrap();
        sleep(15.seconds()).await;
        assert_eq!(calls.seconds(), expected);
        let _ = host.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn trigger_during_a_backoff_is_served_when_the_service_runs_again() {
    let index = AtomicU64::new(0);
    let every = Every::secs(100).first_call(FirstCall::AfterInterval).give_up_after(1);
    let service = periodic("tick", every, move |_| {
        let fails = index.fetch_add(1, Ordering::Relaxed) == 0;
        async move { if fails { Err("once".into()) } else { Ok(()) } }
    });
    let host = started(service.backoff(Backoff::new(10.seconds()).jitter(0.0))).await;
    sleep(101.seconds()).await;
    assert!(matches!(state(&host.handle()), ServiceState::BackingOff { .. }));
    host.handle().trigger_now("tick").unwrap();
    sleep(8.seconds()).await;
    assert_eq!(ticks(&host.handle()).runs(), 1);
    sleep(2.seconds()).await;
    assert_eq!(ticks(&host.handle()).runs(), 2);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn trigger_of_a_missing_or_non_periodic_service_fails() {
    let other = service_fn("other", |cx| async move {
        cx.stopping().await;
        Ok(())
    });
    let host = started(other).await;
    assert_eq!(host.handle().trigger_now("other"), Err(TriggerError::NotPeriodic));
    assert_eq!(host.handle().trigger_now("unknown"), Err(TriggerError::Unknown));
    assert!(host.status().service("other").unwrap().ticks().is_none());
    let _ = host.shutdown().await.unwrap();
}
