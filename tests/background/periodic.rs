//! The rules of [`periodic`], one by one.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::fmt::Debug;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use onelane::background::{
    Backoff, BuildError, Every, ExitKind, First, HostError, HostHandle, Intensity, Overlap, Placement, Restart,
    Service, ServiceHost, ServiceResult, ServiceState, Supervision, TickStatus, TimeLimit, TriggerError, periodic,
    service_fn,
};
use tokio::sync::Notify;
use tokio::time::{Instant, advance, sleep, timeout};
use tracing_subscriber::layer::{Layer, SubscriberExt};

const SECOND: Duration = Duration::from_secs(1);

/// What the calls of a service do, one after the other, and when they did it.
#[derive(Clone)]
struct Calls {
    start: Instant,
    /// How many seconds each takes. The last one stands for all that follow.
    take: Arc<[u64]>,
    begun: Arc<Mutex<Vec<Instant>>>,
    running: Arc<AtomicU64>,
    most_at_once: Arc<AtomicU64>,
    finished: Arc<AtomicU64>,
}

impl Calls {
    fn that_take(seconds: &[u64]) -> Self {
        Self {
            start: Instant::now(),
            take: seconds.into(),
            begun: Arc::default(),
            running: Arc::default(),
            most_at_once: Arc::default(),
            finished: Arc::default(),
        }
    }

    async fn call(self) -> ServiceResult {
        struct Leave(Arc<AtomicU64>);
        impl Drop for Leave {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let index = {
            let mut begun = self.begun.lock().unwrap();
            begun.push(Instant::now());
            begun.len() - 1
        };
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        let _leave = Leave(Arc::clone(&self.running));
        self.most_at_once.fetch_max(running, Ordering::Relaxed);
        let seconds = self.take.get(index).or(self.take.last()).copied().unwrap_or(0);
        if seconds > 0 {
            sleep(seconds.seconds()).await;
        }
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn service(&self, every: Every) -> Service {
        let calls = self.clone();
        periodic("tick", every, move || calls.clone().call())
    }

    /// When they began.
    fn times(&self) -> Vec<Duration> {
        self.begun.lock().unwrap().iter().map(|begun| *begun - self.start).collect()
    }

    /// In whole seconds, on which they have to be.
    fn seconds(&self) -> Vec<u64> {
        let whole = |time: &Duration| {
            // Timers are exact to a millisecond.
            let rest = time.subsec_millis();
            assert!(rest < 10, "{time:?}");
            time.as_secs()
        };
        self.times().iter().map(whole).collect()
    }

    fn finished(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    fn most_at_once(&self) -> u64 {
        self.most_at_once.load(Ordering::Relaxed)
    }
}

trait Seconds {
    fn seconds(self) -> Duration;
}

impl Seconds for u64 {
    fn seconds(self) -> Duration {
        Duration::from_secs(self)
    }
}

fn rate(seconds: u64) -> Every {
    Every::fixed_rate(seconds.seconds())
}

fn host(service: Service) -> ServiceHost {
    ServiceHost::builder().supervision(Supervision::ServerRuntime).service(service).build().unwrap()
}

async fn started(service: Service) -> ServiceHost {
    let host = host(service);
    host.start().await.unwrap();
    host
}

fn ticks(host: &HostHandle) -> Arc<TickStatus> {
    host.status().service("tick").unwrap().ticks().unwrap()
}

fn state(host: &HostHandle) -> ServiceState {
    host.status().service("tick").unwrap().state.clone()
}

/// Runs a service for so many virtual seconds and half of one, and says when its calls began.
async fn run_for(seconds: u64, service: Service, calls: &Calls) -> (Vec<u64>, Arc<TickStatus>) {
    let host = started(service).await;
    sleep(seconds.seconds() + SECOND / 2).await;
    let status = ticks(&host.handle());
    let times = calls.seconds();
    let _ = host.shutdown().await;
    (times, status)
}

/// Waits in real time for what other threads are about to do.
async fn eventually(mut is_true: impl FnMut() -> bool) {
    let late = std::time::Instant::now() + 10 * SECOND;
    while !is_true() {
        assert!(std::time::Instant::now() < late, "it does not come to that");
        sleep(Duration::from_millis(5)).await;
    }
}

// When.

#[tokio::test(start_paused = true)]
async fn fixed_delay_counts_from_the_end_of_a_call() {
    let calls = Calls::that_take(&[3, 20, 0]);
    let (times, status) = run_for(60, calls.service(Every::fixed_delay(10.seconds())), &calls).await;
    assert_eq!(times, [0, 13, 43, 53]);
    assert_eq!((status.runs, status.failures, status.skipped), (4, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn secs_is_a_fixed_delay() {
    let calls = Calls::that_take(&[3]);
    assert_eq!(run_for(40, calls.service(Every::secs(10)), &calls).await.0, [0, 13, 26, 39]);
}

#[tokio::test(start_paused = true)]
async fn fixed_rate_keeps_its_beat_however_long_calls_take() {
    let calls = Calls::that_take(&[3, 9, 0, 1]);
    assert_eq!(run_for(50, calls.service(rate(10)), &calls).await.0, [0, 10, 20, 30, 40, 50]);
}

#[tokio::test(start_paused = true)]
async fn fixed_rate_does_not_drift() {
    let calls = Calls::that_take(&[0]);
    let host = started(calls.service(Every::fixed_rate(Duration::from_micros(1_234_567)))).await;
    sleep(Duration::from_micros(1_234_567) * 10_000 + Duration::from_millis(100)).await;
    let times = calls.times();
    assert_eq!(times.len(), 10_001);
    let late = times[10_000] - Duration::from_micros(1_234_567) * 10_000;
    assert!(late < Duration::from_millis(10), "{late:?}");
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn first_call_comes_after_an_interval_where_that_is_said() {
    for every in [rate(10), Every::secs(10)] {
        let calls = Calls::that_take(&[0]);
        let service = calls.service(every.first(First::AfterInterval));
        assert_eq!(run_for(30, service, &calls).await.0, [10, 20, 30]);
    }
}

#[tokio::test(start_paused = true)]
async fn runtime_that_gave_no_turn_is_made_up_for_by_one_call() {
    let calls = Calls::that_take(&[0]);
    let host = started(calls.service(rate(10))).await;
    sleep(SECOND).await;
    // As if something had blocked the runtime: the clock goes on, and nobody has a turn.
    advance(96.seconds()).await;
    sleep(4.seconds()).await;
    assert_eq!(calls.times().len(), 3, "{:?}", calls.times());
    assert_eq!(calls.times()[2].as_secs(), 100);
    assert_eq!(ticks(&host.handle()).skipped, 8);
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn jitter_of_a_fixed_delay_lengthens_each_pause_within_its_range() {
    let calls = Calls::that_take(&[0]);
    let host = started(calls.service(Every::secs(10).jitter(5.seconds()))).await;
    sleep(2_000.seconds()).await;
    let times = calls.times();
    assert_eq!(times[0].as_secs(), 0);
    let pauses: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    assert!(pauses.iter().all(|pause| (10.0..15.01).contains(pause)), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause < 11.5) && pauses.iter().any(|pause| *pause > 13.5), "{pauses:?}");
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn jitter_of_a_fixed_rate_does_not_add_up() {
    let calls = Calls::that_take(&[0]);
    let host = started(calls.service(rate(10).jitter(9.seconds()))).await;
    sleep(2_009.5_f64.secs()).await;
    let times = calls.times();
    assert_eq!(times.len(), 201);
    for (index, time) in times.iter().enumerate().skip(1) {
        let late = time.as_secs_f64() - 10.0 * index as f64;
        assert!((0.0..9.01).contains(&late), "call {index} is {late} s late");
    }
    assert_eq!(ticks(&host.handle()).skipped, 0);
    host.shutdown().await.unwrap();
}

trait SecondsF64 {
    fn secs(self) -> Duration;
}

impl SecondsF64 for f64 {
    fn secs(self) -> Duration {
        Duration::from_secs_f64(self)
    }
}

#[tokio::test(start_paused = true)]
async fn interval_beyond_the_end_of_time_waits_for_a_trigger() {
    for every in [Every::fixed_delay(Duration::MAX), Every::fixed_rate(Duration::MAX)] {
        let calls = Calls::that_take(&[0]);
        let host = started(calls.service(every)).await;
        sleep(1_000_000.seconds()).await;
        assert_eq!(calls.seconds(), [0]);
        assert_eq!(ticks(&host.handle()).next_run, None);
        host.handle().trigger_now("tick").unwrap();
        sleep(SECOND).await;
        assert_eq!(calls.finished(), 2);
        assert!(host.shutdown().await.unwrap().is_clean());
    }
}

// Overlap.

#[tokio::test(start_paused = true)]
async fn skip_leaves_out_what_is_due_while_a_call_runs() {
    let calls = Calls::that_take(&[25]);
    let (times, status) = run_for(65, calls.service(rate(10)), &calls).await;
    assert_eq!(times, [0, 30, 60]);
    assert_eq!((status.skipped, status.runs, status.running), (4, 3, 1));
    assert_eq!(calls.most_at_once(), 1);
}

#[tokio::test(start_paused = true)]
async fn queue_begins_one_that_was_due_as_soon_as_the_call_has_ended() {
    let calls = Calls::that_take(&[25, 1]);
    let (times, status) = run_for(45, calls.service(rate(10).overlap(Overlap::Queue)), &calls).await;
    assert_eq!(times, [0, 25, 30, 40]);
    assert_eq!(status.skipped, 1);
    assert_eq!(calls.most_at_once(), 1);
}

#[tokio::test(start_paused = true)]
async fn allow_begins_each_beside_the_others() {
    let calls = Calls::that_take(&[25]);
    let (times, status) = run_for(35, calls.service(rate(10).overlap(Overlap::Allow)), &calls).await;
    assert_eq!(times, [0, 10, 20, 30]);
    assert_eq!((status.skipped, status.runs, status.running), (0, 4, 2));
    assert_eq!(calls.most_at_once(), 3);
}

// Failure.

#[tokio::test(start_paused = true)]
async fn error_panic_and_timeout_of_a_call_do_not_end_the_service() {
    let index = Arc::new(AtomicU64::new(0));
    let every = Every::secs(10).tick_timeout(3.seconds());
    let service = periodic("tick", every, move || {
        let index = index.fetch_add(1, Ordering::Relaxed);
        assert!(index != 1, "before the first await");
        async move {
            match index {
                0 => Err("no connection".into()),
                2 => {
                    sleep(SECOND).await;
                    panic!("after an await")
                }
                3 => pending().await,
                _ => Ok(()),
            }
        }
    });
    let host = started(service).await;
    let handle = host.handle();
    let exit = |status: &TickStatus| status.last_exit.as_ref().unwrap().to_string();

    sleep(SECOND).await;
    let status = ticks(&handle);
    assert_eq!(exit(&status), "failed: no connection");
    assert_eq!((status.runs, status.failures, status.consecutive_failures), (1, 1, 1));
    sleep(10.seconds()).await;
    let status = ticks(&handle);
    assert!(exit(&status).starts_with("panicked: before the first await, at "), "{}", exit(&status));
    assert_eq!((status.runs, status.failures, status.consecutive_failures), (2, 2, 2));
    sleep(11.seconds()).await;
    assert!(exit(&ticks(&handle)).starts_with("panicked: after an await, at "));
    sleep(13.seconds()).await;
    let status = ticks(&handle);
    assert_eq!(exit(&status), "timed out: the call took longer than 3s");
    assert!(matches!(status.last_exit, Some(ExitKind::TimedOut(TimeLimit::Tick(limit))) if limit == 3.seconds()));
    assert_eq!((status.runs, status.failures, status.consecutive_failures), (4, 4, 4));
    assert_eq!(status.last_duration.unwrap().as_secs(), 3);
    sleep(10.seconds()).await;
    let status = ticks(&handle);
    assert!(matches!(status.last_exit, Some(ExitKind::Completed)));
    assert!(matches!(status.last_failure, Some(ExitKind::TimedOut(_))));
    assert_eq!((status.runs, status.failures, status.consecutive_failures), (5, 4, 0));

    assert!(matches!(state(&handle), ServiceState::Running { ready: true, .. }));
    assert_eq!(handle.status().service("tick").unwrap().generation, 1);
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn failed_call_is_logged_with_its_service_and_what_went_wrong() {
    struct Heard(Arc<Mutex<Vec<String>>>);
    impl<S: tracing::Subscriber> Layer<S> for Heard {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            let mut text = event.metadata().level().to_string();
            event.record(&mut |field: &tracing::field::Field, value: &dyn Debug| {
                text += &format!(" {field}={value:?}");
            });
            self.0.lock().unwrap().push(text);
        }
    }
    let heard = Arc::new(Mutex::new(Vec::new()));
    let layer = Heard(Arc::clone(&heard));
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let index = AtomicU64::new(0);
    let host = started(periodic("tick", rate(10), move || {
        let fails = index.fetch_add(1, Ordering::Relaxed) == 1;
        async move { if fails { Err("no connection".into()) } else { Ok(()) } }
    }))
    .await;
    sleep(25.seconds()).await;
    let heard: Vec<String> = heard.lock().unwrap().iter().filter(|text| text.contains("call")).cloned().collect();
    let expected = "WARN message=a call of the periodic service has failed service=\"tick\" exit=failed: no connection";
    assert_eq!(heard, [expected]);
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn call_that_times_out_is_dropped_before_the_next_begins() {
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let calls = Calls::that_take(&[100]);
        let every = rate(10).tick_timeout(9.seconds()).overlap(overlap);
        let (times, status) = run_for(45, calls.service(every), &calls).await;
        assert_eq!(times, [0, 10, 20, 30, 40]);
        assert_eq!((calls.most_at_once(), status.failures), (1, 4));
    }
}

#[tokio::test(start_paused = true)]
async fn destructor_that_panics_at_a_timeout_ends_in_its_call() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let every = rate(10).tick_timeout(SECOND).overlap(overlap);
        let host = started(periodic("tick", every, || async {
            let _bomb = Bomb;
            pending().await
        }))
        .await;
        sleep(15.seconds()).await;
        let status = ticks(&host.handle());
        assert_eq!((status.runs, status.failures, status.running), (2, 2, 0));
        assert!(host.shutdown().await.unwrap().is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_failures_in_a_row_end_the_generation_and_the_next_one_counts_anew() {
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let every = rate(10).give_up_after(3).overlap(overlap);
        let service = periodic("tick", every, || async { Err("no connection".into()) });
        let backoff = Backoff::new(SECOND).jitter(0.0);
        let host = started(service.backoff(backoff)).await;
        let handle = host.handle();
        sleep(20.5_f64.secs()).await;
        let status = handle.status();
        let status = status.service("tick").unwrap();
        assert!(matches!(status.state, ServiceState::BackingOff { failures: 1, .. }), "{}", status.state);
        let exit = status.last_exit.as_ref().unwrap().kind.to_string();
        assert_eq!(exit, "failed: 3 calls in a row failed: no connection");
        assert_eq!(ticks(&handle).next_run, None);
        // The next generation begins at 21 s, and calls at 21, 31 and 41.
        sleep(11.seconds()).await;
        assert_eq!(ticks(&handle).runs, 5);
        assert!(matches!(state(&handle), ServiceState::Running { .. }));
        sleep(10.seconds()).await;
        assert!(matches!(state(&handle), ServiceState::BackingOff { failures: 2, .. }));
        let status = ticks(&handle);
        assert_eq!((status.runs, status.failures, status.consecutive_failures), (6, 6, 6));
        host.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn success_ends_a_row_of_failures() {
    let index = AtomicU64::new(0);
    let service = periodic("tick", Every::secs(10).give_up_after(2), move || {
        let fails = index.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        async move { if fails { Err("every other time".into()) } else { Ok(()) } }
    });
    let host = started(service).await;
    sleep(1_000.seconds()).await;
    assert_eq!(host.status().service("tick").unwrap().generation, 1);
    assert_eq!(ticks(&host.handle()).failures, 50);
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn panics_that_are_too_many_give_up_a_service_that_is_never_restarted() {
    let service = periodic("tick", Every::secs(10).give_up_after(1), || async { panic!("broken") });
    let host = started(service.restart(Restart::Never)).await;
    sleep(SECOND).await;
    assert!(matches!(state(&host.handle()), ServiceState::Failed));
    assert_eq!(host.handle().trigger_now("tick"), Err(TriggerError::Ended));
    let error = host.shutdown().await.unwrap_err();
    assert!(matches!(error, HostError::GaveUp { .. }));
    let text = error.to_string();
    let expected = "the service \"tick\" was given up: failed: 1 call failed, the last: panicked: broken, at ";
    assert!(text.starts_with(expected), "{text}");
}

#[tokio::test(start_paused = true)]
async fn restarts_that_are_too_many_give_up_the_service() {
    let service = periodic("tick", Every::secs(1).give_up_after(1), || async { Err("always".into()) });
    let host = started(service.intensity(Intensity::new(2, 1_000.seconds())).degradable()).await;
    sleep(100.seconds()).await;
    assert_eq!(ticks(&host.handle()).runs, 3);
    assert!(matches!(state(&host.handle()), ServiceState::Failed));
    host.shutdown().await.unwrap();
}

// Triggers.

#[tokio::test(start_paused = true)]
async fn trigger_calls_at_once_and_leaves_the_schedule_as_it_is() {
    for every in [rate(10), Every::secs(10)] {
        let calls = Calls::that_take(&[0]);
        let host = started(calls.service(every)).await;
        sleep(4.seconds()).await;
        host.handle().trigger_now("tick").unwrap();
        sleep(17.seconds()).await;
        assert_eq!(calls.seconds(), [0, 4, 10, 20]);
        host.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn triggers_while_a_call_runs_are_one_call_after_it() {
    for every in [rate(100), rate(100).overlap(Overlap::Queue), Every::secs(100)] {
        let calls = Calls::that_take(&[10, 0]);
        let host = started(calls.service(every)).await;
        for second in 1..=3 {
            sleep(second.seconds()).await;
            host.handle().trigger_now("tick").unwrap();
        }
        sleep(50.seconds()).await;
        assert_eq!(calls.seconds(), [0, 10]);
        assert_eq!(calls.most_at_once(), 1);
        host.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn trigger_and_queue_share_one_call() {
    let calls = Calls::that_take(&[15, 0]);
    let host = started(calls.service(rate(10).overlap(Overlap::Queue))).await;
    sleep(12.seconds()).await;
    host.handle().trigger_now("tick").unwrap();
    sleep(10.seconds()).await;
    assert_eq!(calls.seconds(), [0, 15, 20]);
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn trigger_where_calls_may_overlap_calls_beside_the_running_one() {
    let calls = Calls::that_take(&[10]);
    let host = started(calls.service(rate(100).overlap(Overlap::Allow))).await;
    sleep(3.seconds()).await;
    host.handle().trigger_now("tick").unwrap();
    sleep(3.seconds()).await;
    assert_eq!(calls.seconds(), [0, 3]);
    assert_eq!(calls.most_at_once(), 2);
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_due_while_a_triggered_call_runs_is_left_out() {
    let calls = Calls::that_take(&[0, 10, 0]);
    let host = started(calls.service(Every::secs(10))).await;
    sleep(5.seconds()).await;
    host.handle().trigger_now("tick").unwrap();
    sleep(25.seconds()).await;
    // Triggered at 5 it ran to 15, and a fixed delay is measured from there.
    assert_eq!(calls.seconds(), [0, 5, 25]);
    assert_eq!(ticks(&host.handle()).skipped, 1);
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn trigger_before_the_start_is_served_by_the_first_call() {
    for (first, expected) in [(First::Now, [0, 10]), (First::AfterInterval, [0, 10])] {
        let calls = Calls::that_take(&[0]);
        let host = host(calls.service(rate(10).first(first)));
        host.handle().trigger_now("tick").unwrap();
        host.handle().trigger_now("tick").unwrap();
        host.start().await.unwrap();
        sleep(15.seconds()).await;
        assert_eq!(calls.seconds(), expected);
        host.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn trigger_while_the_service_backs_off_is_served_when_it_runs_again() {
    let index = AtomicU64::new(0);
    let every = Every::secs(100).first(First::AfterInterval).give_up_after(1);
    let service = periodic("tick", every, move || {
        let fails = index.fetch_add(1, Ordering::Relaxed) == 0;
        async move { if fails { Err("once".into()) } else { Ok(()) } }
    });
    let host = started(service.backoff(Backoff::new(10.seconds()).jitter(0.0))).await;
    sleep(101.seconds()).await;
    assert!(matches!(state(&host.handle()), ServiceState::BackingOff { .. }));
    host.handle().trigger_now("tick").unwrap();
    sleep(8.seconds()).await;
    assert_eq!(ticks(&host.handle()).runs, 1);
    sleep(2.seconds()).await;
    assert_eq!(ticks(&host.handle()).runs, 2);
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn trigger_of_what_is_not_periodic_or_not_there_is_refused() {
    let other = service_fn("other", |cx| async move {
        cx.stopping().await;
        Ok(())
    });
    let host = started(other).await;
    assert_eq!(host.handle().trigger_now("other"), Err(TriggerError::NotPeriodic));
    assert_eq!(host.handle().trigger_now("nobody"), Err(TriggerError::Unknown));
    assert!(host.status().service("other").unwrap().ticks().is_none());
    host.shutdown().await.unwrap();
}

// Stop.

#[tokio::test(start_paused = true)]
async fn stop_ends_the_wait_for_the_next_call_at_once() {
    for every in [rate(3_600), Every::secs(3_600), rate(3_600).overlap(Overlap::Allow)] {
        let calls = Calls::that_take(&[0]);
        let host = started(calls.service(every)).await;
        sleep(SECOND).await;
        let start = Instant::now();
        let report = host.shutdown().await.unwrap();
        assert!(start.elapsed() < SECOND / 10);
        assert!(report.is_clean());
        assert!(matches!(report.service("tick").unwrap().exit.as_ref().unwrap().kind, ExitKind::Stopped));
        assert_eq!(ticks(&host.handle()).next_run, None);
    }
}

#[tokio::test(start_paused = true)]
async fn stop_lets_a_running_call_end_and_begins_no_other() {
    for overlap in [Overlap::Skip, Overlap::Queue] {
        let calls = Calls::that_take(&[24]);
        let host = started(calls.service(rate(20).overlap(overlap)).stop_timeout(10.seconds())).await;
        sleep(21.seconds()).await;
        host.handle().trigger_now("tick").unwrap();
        let start = Instant::now();
        host.handle().request_shutdown();
        sleep(SECOND).await;
        let stopping = ticks(&host.handle());
        assert_eq!((stopping.running, stopping.next_run), (1, None));
        let report = host.shutdown().await.unwrap();
        assert!(report.is_clean(), "{overlap:?}: {report:?}");
        assert_eq!((start.elapsed().as_secs(), calls.finished()), (3, 1));
        assert_eq!(calls.seconds(), [0]);
        let status = ticks(&host.handle());
        assert_eq!((status.running, status.next_run), (0, None));
    }
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_calls_beside_the_service() {
    let calls = Calls::that_take(&[12]);
    let host = started(calls.service(rate(10).overlap(Overlap::Allow)).stop_timeout(15.seconds())).await;
    sleep(11.seconds()).await;
    let start = Instant::now();
    let report = timeout(100.seconds(), host.shutdown()).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((start.elapsed().as_secs(), calls.finished()), (11, 2));
    let status = ticks(&host.handle());
    assert_eq!((status.running, status.failures), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn call_that_outlasts_the_stop_timeout_is_dropped_and_counts_as_failed() {
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let calls = Calls::that_take(&[100]);
        let host = started(calls.service(rate(1_000).overlap(overlap)).stop_timeout(5.seconds())).await;
        sleep(SECOND).await;
        let start = Instant::now();
        let report = host.shutdown().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 5);
        assert!(!report.is_clean());
        assert!(matches!(report.service("tick").unwrap().exit.as_ref().unwrap().kind, ExitKind::Aborted));
        let status = ticks(&host.handle());
        assert!(matches!(status.last_exit, Some(ExitKind::Aborted)));
        assert_eq!((status.running, status.failures, calls.running.load(Ordering::Relaxed)), (0, 1, 0));
        assert_eq!(status.last_duration.unwrap().as_secs(), 6);
        assert_eq!((calls.finished(), status.next_run), (0, None));
    }
}

#[tokio::test(start_paused = true)]
async fn call_that_fails_during_the_stop_does_not_spoil_it() {
    let service = periodic("tick", Every::secs(100).give_up_after(1), || async {
        sleep(3 * SECOND).await;
        Err("too late".into())
    });
    let host = started(service).await;
    sleep(SECOND).await;
    let report = host.shutdown().await.unwrap();
    assert!(report.is_clean());
    assert_eq!(ticks(&host.handle()).failures, 1);
}

#[tokio::test(start_paused = true)]
async fn call_that_waits_for_the_end_of_its_own_host_is_told_so_and_the_host_stops() {
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let handle: Arc<OnceLock<HostHandle>> = Arc::default();
        let own = Arc::clone(&handle);
        let refused = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&refused);
        let service = periodic("tick", rate(10).first(First::AfterInterval).overlap(overlap), move || {
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
async fn host_that_is_dropped_stops_the_calls() {
    let calls = Calls::that_take(&[0]);
    let host = started(calls.service(Every::secs(10))).await;
    let handle = host.handle();
    sleep(25.seconds()).await;
    drop(host);
    sleep(100.seconds()).await;
    assert_eq!(calls.seconds(), [0, 10, 20]);
    assert!(handle.status().service("tick").unwrap().is_ended());
}

// The end by itself.

#[tokio::test(start_paused = true)]
async fn max_runs_completes_the_service_once_the_last_call_has_ended() {
    for (overlap, times, end) in [(Overlap::Skip, [0, 20, 40], 55), (Overlap::Allow, [0, 10, 20], 35)] {
        let calls = Calls::that_take(&[15]);
        let host = started(calls.service(rate(10).overlap(overlap).max_runs(3))).await;
        sleep(end.seconds() - SECOND).await;
        assert!(matches!(state(&host.handle()), ServiceState::Running { .. }));
        assert_eq!(ticks(&host.handle()).next_run, None);
        // It asks for one more, which does not come.
        host.handle().trigger_now("tick").unwrap();
        sleep(2.seconds()).await;
        assert!(matches!(state(&host.handle()), ServiceState::Completed));
        assert_eq!(calls.seconds(), times);
        assert_eq!(host.handle().trigger_now("tick"), Err(TriggerError::Ended));
        let report = host.shutdown().await.unwrap();
        assert!(matches!(report.service("tick").unwrap().exit.as_ref().unwrap().kind, ExitKind::Completed));
    }
}

#[tokio::test(start_paused = true)]
async fn max_runs_counts_failed_and_triggered_calls_and_those_before_a_restart() {
    let begun = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&begun);
    let every = Every::secs(10).max_runs(5).give_up_after(2);
    let service = periodic("tick", every, move || {
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
    assert!(matches!(status.state, ServiceState::Completed), "{}", status.state);
    assert_eq!(status.generation, 3);
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn max_runs_counts_anew_where_a_completed_service_is_restarted() {
    let calls = Calls::that_take(&[0]);
    let service = calls.service(Every::secs(10).max_runs(2)).restart(Restart::Always);
    let backoff = Backoff::new(100.seconds()).limit(100.seconds()).jitter(0.0);
    let (times, status) = run_for(215, service.backoff(backoff).intensity(Intensity::unlimited()), &calls).await;
    assert_eq!(times, [0, 10, 110, 120]);
    assert_eq!(status.runs, 4);
}

// What it tells.

#[tokio::test(start_paused = true)]
async fn status_follows_the_calls() {
    let calls = Calls::that_take(&[3]);
    let host = host(calls.service(Every::secs(10)));
    let handle = host.handle();
    let before = ticks(&handle);
    assert_eq!((before.runs, before.running, before.last_started, before.next_run), (0, 0, None, None));
    assert!(before.last_exit.is_none() && before.last_duration.is_none());

    let snapshot = host.status();
    host.start().await.unwrap();
    sleep(SECOND).await;
    // It is live: also through a snapshot of before.
    let running = snapshot.service("tick").unwrap().ticks().unwrap();
    assert_eq!((running.runs, running.running, running.next_run), (1, 1, None));
    let age = SystemTime::now().duration_since(running.last_started.unwrap()).unwrap();
    assert!(age < SECOND, "it is on the wall clock, which is not paused: {age:?}");

    sleep(4.seconds()).await;
    let resting = ticks(&handle);
    assert_eq!((resting.runs, resting.running), (1, 0));
    assert!(matches!(resting.last_exit, Some(ExitKind::Completed)) && resting.last_failure.is_none());
    assert_eq!(resting.last_duration.unwrap().as_secs(), 3);
    let left = resting.next_run.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!((7.9..8.01).contains(&left.as_secs_f64()), "{left:?}");
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn status_is_in_the_json_of_the_host() {
    let host = started(periodic("tick", rate(10), || async { Err("no connection".into()) })).await;
    sleep(SECOND).await;
    let status = serde_json::to_value(&*host.status()).unwrap();
    let ticks = &status["services"][0]["ticks"];
    assert_eq!((&ticks["runs"], &ticks["running"], &ticks["skipped"]), (&1.into(), &0.into(), &0.into()));
    assert_eq!(ticks["last_exit"], serde_json::json!({"kind": "failed", "message": "failed: no connection"}));
    assert_eq!(ticks["last_duration_seconds"].as_f64(), Some(0.0));
    let times = ["last_started", "next_run"].map(|field| ticks[field].as_f64().unwrap());
    assert!(times[0] > 1.7e9 && times[1] - times[0] > 5.0, "{ticks}");
    host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn service_that_says_itself_when_it_is_ready_is_so_after_the_first_success() {
    let index = AtomicU64::new(0);
    let refresh = periodic("tick", Every::secs(10), move || {
        let fails = index.fetch_add(1, Ordering::Relaxed) < 2;
        async move { if fails { Err("not yet".into()) } else { Ok(()) } }
    });
    let user = service_fn("user", |cx| async move {
        cx.stopping().await;
        Ok(())
    });
    let builder = ServiceHost::builder().supervision(Supervision::ServerRuntime);
    let host = builder.service(refresh.manual_ready()).service(user.after("tick")).build().unwrap();
    let start = Instant::now();
    host.start().await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 20);
    assert!(host.status().is_ready());
    host.shutdown().await.unwrap();
}

#[test]
fn nonsense_is_refused_with_what_to_do() {
    let refused = |change: fn(Service) -> Service, every: Every| {
        let service = change(periodic("tick", every, || async { Ok(()) }));
        match ServiceHost::builder().service(service).build() {
            Err(error @ BuildError::InvalidOption { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let as_it_is = |every: Every| refused(|service| service, every);
    for every in [Every::secs(0), rate(0), Every::fixed_delay(Duration::ZERO)] {
        assert!(as_it_is(every).starts_with("the service \"tick\" has interval of zero, "));
    }
    for overlap in [Overlap::Queue, Overlap::Allow] {
        let text = as_it_is(Every::secs(1).overlap(overlap));
        assert!(text.contains("has overlap set for a fixed delay") && text.contains("fixed_rate"), "{text}");
    }
    for jitter in [10.seconds(), 11.seconds()] {
        assert!(as_it_is(rate(10).jitter(jitter)).contains("has jitter as long as the interval"));
    }
    assert!(as_it_is(rate(10).tick_timeout(Duration::ZERO)).contains("has tick_timeout of zero"));
    assert!(as_it_is(rate(10).max_runs(0)).contains("has max_runs of zero"));
    assert!(as_it_is(rate(10).give_up_after(0)).contains("has give_up_after of zero"));
    let text = refused(|service| service.heartbeat(SECOND), rate(10));
    assert!(text.contains("has heartbeat of a periodic service") && text.contains("tick_timeout"), "{text}");
    let text = refused(|service| service.placement(Placement::Blocking), rate(10));
    assert!(text.contains("has placement Blocking"), "{text}");
}

#[test]
fn what_makes_sense_is_taken() {
    for every in [
        Every::fixed_delay(Duration::from_nanos(1)),
        Every::secs(u64::MAX).jitter(Duration::MAX),
        rate(10).jitter(Duration::from_millis(9_999)).overlap(Overlap::Allow),
        Every::secs(10).overlap(Overlap::Skip).max_runs(u64::MAX).give_up_after(u64::MAX).tick_timeout(Duration::MAX),
    ] {
        let service = periodic("tick", every, || async { Ok(()) });
        assert!(ServiceHost::builder().service(service).build().is_ok());
    }
}

// In real time, for threads and the wall clock have no other.

#[tokio::test]
async fn calls_of_a_thread_run_on_it_and_end_with_it() {
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let threads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&threads);
        let service = periodic("tick", Every::fixed_rate(Duration::from_millis(20)).overlap(overlap), move || {
            let seen = Arc::clone(&seen);
            async move {
                let name = std::thread::current().name().map(str::to_owned);
                seen.lock().unwrap().push(name);
                // The runtime of a service's own thread has real time only.
                sleep(Duration::from_millis(5)).await;
                Ok(())
            }
        });
        let host = ServiceHost::builder().service(service.placement(Placement::Thread)).build().unwrap();
        host.start().await.unwrap();
        let handle = host.handle();
        eventually(|| ticks(&handle).runs >= 3).await;
        let start = std::time::Instant::now();
        assert!(host.shutdown().await.unwrap().is_clean());
        assert!(start.elapsed() < SECOND);
        assert_eq!(ticks(&handle).running, 0);
        let runs = ticks(&handle).runs;
        assert!(threads.lock().unwrap().iter().all(|name| name.as_deref() == Some("tick")));
        // Three intervals of a thread that should be gone.
        sleep(Duration::from_millis(60)).await;
        assert_eq!(ticks(&handle).runs, runs);
    }
}

#[tokio::test]
async fn call_that_blocks_its_thread_delays_only_itself() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(AtomicU64::new(0)));
    let (tell, wait) = (Arc::clone(&begun), Arc::clone(&go_on));
    let every = Every::fixed_rate(Duration::from_millis(10)).max_runs(2);
    let service = periodic("tick", every, move || {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            tell.notify_one();
            let start = std::time::Instant::now();
            while wait.load(Ordering::Relaxed) == 0 {
                assert!(start.elapsed() < 10 * SECOND, "nobody lets it go");
                // It has to block its thread.
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        }
    });
    let host = ServiceHost::builder().service(service.placement(Placement::Thread)).build().unwrap();
    host.start().await.unwrap();
    begun.notified().await;
    // Ten intervals, of a thread with real time.
    sleep(Duration::from_millis(100)).await;
    let handle = host.handle();
    assert_eq!((ticks(&handle).runs, ticks(&handle).running), (1, 1));
    go_on.store(1, Ordering::Relaxed);
    eventually(|| matches!(state(&handle), ServiceState::Completed)).await;
    // One call for all that were missed in these 100 ms.
    let status = ticks(&handle);
    assert!(status.runs == 2 && status.skipped >= 5, "{status:?}");
    host.shutdown().await.unwrap();
}

#[tokio::test]
async fn cron_calls_each_second_on_the_second() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let every = Every::cron("* * * * * *").unwrap().time_zone("Europe/Berlin").unwrap().max_runs(2);
    let service = periodic("tick", every, move || {
        note.lock().unwrap().push(SystemTime::now());
        async { Ok(()) }
    });
    let host = started(service).await;
    let handle = host.handle();
    let next = ticks(&handle).next_run;
    if let Some(next) = next {
        assert_eq!(next.duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos(), 0);
    }
    eventually(|| matches!(state(&handle), ServiceState::Completed)).await;
    let seen = seen
        .lock()
        .unwrap()
        .iter()
        .map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap())
        .collect::<Vec<_>>();
    assert!(seen.iter().all(|time| time.subsec_millis() < 500), "{seen:?}");
    assert_eq!(seen[1].as_secs() - seen[0].as_secs(), 1);
    host.shutdown().await.unwrap();
}

#[tokio::test]
async fn calls_that_block_for_longer_than_their_interval_leave_turns_to_others() {
    // In real time, because a call that blocks takes none of the other. After some calls it awaits, so that a test that
    // fails ends.
    let calls = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&calls);
    let service = periodic("blocks", Every::fixed_rate(Duration::from_millis(2)), move || {
        let count = counter.fetch_add(1, Ordering::Relaxed);
        async move {
            if count >= 200 {
                pending::<()>().await;
            }
            std::thread::sleep(Duration::from_millis(3));
            Ok(())
        }
    });
    let host = ServiceHost::builder().without_signals().service(service).build().unwrap();
    host.start().await.unwrap();
    for _ in 0..3 {
        // A turn of the runtime's timers, which the calls share with it.
        sleep(Duration::from_millis(1)).await;
    }
    assert!(calls.load(Ordering::Relaxed) < 100, "{calls:?} calls before others had their turn");
    host.shutdown().await.unwrap();
}

#[tokio::test]
async fn interval_below_a_millisecond_comes_as_often_as_that_beside_others() {
    for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Allow] {
        let (calls, start) = (Arc::new(AtomicU64::new(0)), std::time::Instant::now());
        let counter = Arc::clone(&calls);
        let service = periodic("fast", Every::fixed_rate(Duration::from_nanos(1)).overlap(overlap), move || {
            let count = counter.fetch_add(1, Ordering::Relaxed);
            async move {
                if count >= 100_000 {
                    pending::<()>().await;
                }
                Ok(())
            }
        });
        let host = ServiceHost::builder().without_signals().service(service).build().unwrap();
        host.start().await.unwrap();
        // The host has a thread of its own, and the calls are counted against the clock of the machine.
        sleep(Duration::from_millis(20)).await;
        let (calls, passed) = (calls.load(Ordering::Relaxed), start.elapsed().as_millis());
        assert!(calls > 0 && u128::from(calls) <= passed + 1, "{calls} calls in {passed} ms with {overlap:?}");
        host.shutdown().await.unwrap();
    }
}
