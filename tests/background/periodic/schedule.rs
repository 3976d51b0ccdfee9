//! Tests of when calls begin: delay, rate, jitter and overlap.

use std::time::Duration;

use onelane::background::{Every, FirstCall, Overlap};
use tokio::time::{advance, sleep};

use crate::periodic::{CallLog, SECOND, Seconds, SecondsF64, rate, run_for, started, ticks};

#[tokio::test(start_paused = true)]
async fn fixed_delay_counts_from_the_end_of_a_call() {
    let calls = CallLog::lasting(&[3, 20, 0]);
    let (times, status) = run_for(60, calls.service(Every::fixed_delay(10.seconds())), &calls).await;
    assert_eq!(times, [0, 13, 43, 53]);
    assert_eq!((status.runs(), status.failures(), status.skipped()), (4, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn secs_is_a_fixed_delay() {
    let calls = CallLog::lasting(&[3]);
    assert_eq!(run_for(40, calls.service(Every::secs(10)), &calls).await.0, [0, 13, 26, 39]);
}

#[tokio::test(start_paused = true)]
async fn fixed_rate_keeps_its_schedule_however_long_calls_take() {
    let calls = CallLog::lasting(&[3, 9, 0, 1]);
    assert_eq!(run_for(50, calls.service(rate(10)), &calls).await.0, [0, 10, 20, 30, 40, 50]);
}

#[tokio::test(start_paused = true)]
async fn fixed_rate_does_not_drift() {
    let calls = CallLog::lasting(&[0]);
    let host = started(calls.service(Every::fixed_rate(Duration::from_micros(1_234_567)))).await;
    sleep(Duration::from_micros(1_234_567) * 10_000 + Duration::from_millis(100)).await;
    let times = calls.times();
    assert_eq!(times.len(), 10_001);
    let late = times[10_000] - Duration::from_micros(1_234_567) * 10_000;
    assert!(late < Duration::from_millis(10), "{late:?}");
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn first_call_can_be_delayed_by_an_interval() {
    for every in [rate(10), Every::secs(10)] {
        let calls = CallLog::lasting(&[0]);
        let service = calls.service(every.first_call(FirstCall::AfterInterval));
        assert_eq!(run_for(30, service, &calls).await.0, [10, 20, 30]);
    }
}

#[tokio::test(start_paused = true)]
async fn one_call_makes_up_for_all_calls_missed_by_a_blocked_runtime() {
    let calls = CallLog::lasting(&[0]);
    let host = started(calls.service(rate(10))).await;
    sleep(SECOND).await;
    // Simulates a blocked runtime: the clock advances while no task is polled.
    advance(96.seconds()).await;
    sleep(4.seconds()).await;
    assert_eq!(calls.times().len(), 3, "{:?}", calls.times());
    assert_eq!(calls.times()[2].as_secs(), 100);
    assert_eq!(ticks(&host.handle()).skipped(), 8);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn jitter_of_a_fixed_delay_lengthens_each_pause_within_its_range() {
    let calls = CallLog::lasting(&[0]);
    let host = started(calls.service(Every::secs(10).jitter(5.seconds()))).await;
    sleep(2_000.seconds()).await;
    let times = calls.times();
    assert_eq!(times[0].as_secs(), 0);
    let pauses: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    assert!(pauses.iter().all(|pause| (10.0..15.01).contains(pause)), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause < 11.5) && pauses.iter().any(|pause| *pause > 13.5), "{pauses:?}");
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn jitter_of_a_fixed_rate_does_not_accumulate() {
    let calls = CallLog::lasting(&[0]);
    let host = started(calls.service(rate(10).jitter(9.seconds()))).await;
    sleep(2_009.5_f64.secs()).await;
    let times = calls.times();
    assert_eq!(times.len(), 201);
    for (index, time) in times.iter().enumerate().skip(1) {
        let late = time.as_secs_f64() - 10.0 * index as f64;
        assert!((0.0..9.01).contains(&late), "call {index} is {late} s late");
    }
    assert_eq!(ticks(&host.handle()).skipped(), 0);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn interval_beyond_the_clock_waits_for_a_trigger() {
    for every in [Every::fixed_delay(Duration::MAX), Every::fixed_rate(Duration::MAX)] {
        let calls = CallLog::lasting(&[0]);
        let host = started(calls.service(every)).await;
        sleep(1_000_000.seconds()).await;
        assert_eq!(calls.seconds(), [0]);
        assert_eq!(ticks(&host.handle()).next_run(), None);
        host.handle().trigger_now("tick").unwrap();
        sleep(SECOND).await;
        assert_eq!(calls.finished(), 2);
        assert!(host.shutdown().await.unwrap().is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn skip_omits_calls_that_are_due_while_another_runs() {
    let calls = CallLog::lasting(&[25]);
    let (times, status) = run_for(65, calls.service(rate(10)), &calls).await;
    assert_eq!(times, [0, 30, 60]);
    assert_eq!((status.skipped(), status.runs(), status.running()), (4, 3, 1));
    assert_eq!(calls.max_running(), 1);
}

#[tokio::test(start_paused = true)]
async fn queue_begins_one_due_call_as_soon_as_the_running_one_ends() {
    let calls = CallLog::lasting(&[25, 1]);
    let (times, status) = run_for(45, calls.service(rate(10).overlap(Overlap::Queue)), &calls).await;
    assert_eq!(times, [0, 25, 30, 40]);
    assert_eq!(status.skipped(), 1);
    assert_eq!(calls.max_running(), 1);
}

#[tokio::test(start_paused = true)]
async fn allow_runs_calls_concurrently() {
    let calls = CallLog::lasting(&[25]);
    let (times, status) = run_for(35, calls.service(rate(10).overlap(Overlap::Allow)), &calls).await;
    assert_eq!(times, [0, 10, 20, 30]);
    assert_eq!((status.skipped(), status.runs(), status.running()), (0, 4, 2));
    assert_eq!(calls.max_running(), 3);
}
