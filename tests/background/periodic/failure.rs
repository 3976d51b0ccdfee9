//! Tests of calls that fail: with an error, a panic or a timeout.

use std::fmt::Debug;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use onelane::background::{
    Backoff, Every, ExitKind, HostError, Intensity, Overlap, Restart, ServiceState, TickStatus, TimeLimit,
    TriggerError, periodic,
};
use tokio::time::sleep;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use crate::periodic::{CallLog, SECOND, Seconds, SecondsF64, rate, run_for, started, state, ticks};

#[tokio::test(start_paused = true)]
async fn error_panic_and_timeout_of_a_call_do_not_end_the_service() {
    let index = Arc::new(AtomicU64::new(0));
    let every = Every::secs(10).tick_timeout(3.seconds());
    let service = periodic("tick", every, move |_| {
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
    let exit = |status: &TickStatus| status.last_exit().unwrap().to_string();

    sleep(SECOND).await;
    let status = ticks(&handle);
    assert_eq!(exit(&status), "failed: no connection");
    assert_eq!((status.runs(), status.failures(), status.consecutive_failures()), (1, 1, 1));
    sleep(10.seconds()).await;
    let status = ticks(&handle);
    assert!(exit(&status).starts_with("panicked: before the first await, at "), "{}", exit(&status));
    assert_eq!((status.runs(), status.failures(), status.consecutive_failures()), (2, 2, 2));
    sleep(11.seconds()).await;
    assert!(exit(&ticks(&handle)).starts_with("panicked: after an await, at "));
    sleep(13.seconds()).await;
    let status = ticks(&handle);
    assert_eq!(exit(&status), "timed out: the call took longer than 3s");
    assert!(matches!(status.last_exit(), Some(ExitKind::TimedOut(TimeLimit::Tick(limit))) if *limit == 3.seconds()));
    assert_eq!((status.runs(), status.failures(), status.consecutive_failures()), (4, 4, 4));
    assert_eq!(status.last_duration().unwrap().as_secs(), 3);
    sleep(10.seconds()).await;
    let status = ticks(&handle);
    assert!(matches!(status.last_exit(), Some(ExitKind::Completed)));
    assert!(matches!(status.last_failure(), Some(ExitKind::TimedOut(_))));
    assert_eq!((status.runs(), status.failures(), status.consecutive_failures()), (5, 4, 0));

    assert!(matches!(state(&handle), ServiceState::Running { ready: true, .. }));
    assert_eq!(handle.status().service("tick").unwrap().generation(), 1);
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn failed_call_is_logged_with_its_service_and_reason() {
    struct RecordEvents(Arc<Mutex<Vec<String>>>);
    impl<S: tracing::Subscriber> Layer<S> for RecordEvents {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            let mut text = event.metadata().level().to_string();
            event.record(&mut |field: &tracing::field::Field, value: &dyn Debug| {
                text += &format!(" {field}={value:?}");
            });
            self.0.lock().unwrap().push(text);
        }
    }
    let events = Arc::new(Mutex::new(Vec::new()));
    let layer = RecordEvents(Arc::clone(&events));
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let index = AtomicU64::new(0);
    let host = started(periodic("tick", rate(10), move |_| {
        let fails = index.fetch_add(1, Ordering::Relaxed) == 1;
        async move { if fails { Err("no connection".into()) } else { Ok(()) } }
    }))
    .await;
    sleep(25.seconds()).await;
    let events: Vec<String> = events.lock().unwrap().iter().filter(|text| text.contains("call")).cloned().collect();
    let expected = "WARN message=call of periodic service failed service=\"tick\" exit=failed: no connection";
    assert_eq!(events, [expected]);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn call_that_times_out_is_dropped_before_the_next_one_begins() {
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let calls = CallLog::lasting(&[100]);
        let every = rate(10).tick_timeout(9.seconds()).overlap(overlap);
        let (times, status) = run_for(45, calls.service(every), &calls).await;
        assert_eq!(times, [0, 10, 20, 30, 40]);
        assert_eq!((calls.max_running(), status.failures()), (1, 4));
    }
}

#[tokio::test(start_paused = true)]
async fn panic_in_a_destructor_at_a_timeout_only_ends_its_call() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a destructor");
        }
    }
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let every = rate(10).tick_timeout(SECOND).overlap(overlap);
        let host = started(periodic("tick", every, |_| async {
            let _bomb = Bomb;
            pending().await
        }))
        .await;
        sleep(15.seconds()).await;
        let status = ticks(&host.handle());
        assert_eq!((status.runs(), status.failures(), status.running()), (2, 2, 0));
        assert!(host.shutdown().await.unwrap().is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_consecutive_failures_end_the_generation_and_the_next_counts_from_zero() {
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let every = rate(10).give_up_after(3).overlap(overlap);
        let service = periodic("tick", every, |_| async { Err("no connection".into()) });
        let backoff = Backoff::new(SECOND).jitter(0.0);
        let host = started(service.backoff(backoff)).await;
        let handle = host.handle();
        sleep(20.5_f64.secs()).await;
        let status = handle.status();
        let status = status.service("tick").unwrap();
        assert!(matches!(status.state(), ServiceState::BackingOff { failures: 1, .. }), "{}", status.state());
        let exit = status.last_exit().unwrap().kind().to_string();
        assert_eq!(exit, "failed: 3 calls in a row failed: no connection");
        assert_eq!(ticks(&handle).next_run(), None);
        // The next generation begins at 21 s, and its calls at 21, 31 and 41 s.
        sleep(11.seconds()).await;
        assert_eq!(ticks(&handle).runs(), 5);
        assert!(matches!(state(&handle), ServiceState::Running { .. }));
        sleep(10.seconds()).await;
        assert!(matches!(state(&handle), ServiceState::BackingOff { failures: 2, .. }));
        let status = ticks(&handle);
        assert_eq!((status.runs(), status.failures(), status.consecutive_failures()), (6, 6, 6));
        let _ = host.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn success_resets_the_count_of_consecutive_failures() {
    let index = AtomicU64::new(0);
    let service = periodic("tick", Every::secs(10).give_up_after(2), move |_| {
        let fails = index.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        async move { if fails { Err("every other time".into()) } else { Ok(()) } }
    });
    let host = started(service).await;
    sleep(1_000.seconds()).await;
    assert_eq!(host.status().service("tick").unwrap().generation(), 1);
    assert_eq!(ticks(&host.handle()).failures(), 50);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn too_many_panics_fail_a_service_that_is_never_restarted() {
    let service = periodic("tick", Every::secs(10).give_up_after(1), |_| async { panic!("broken") });
    let host = started(service.restart(Restart::Never)).await;
    sleep(SECOND).await;
    assert!(matches!(state(&host.handle()), ServiceState::Failed));
    assert_eq!(host.handle().trigger_now("tick"), Err(TriggerError::Ended));
    let error = host.shutdown().await.unwrap_err();
    assert!(matches!(error, HostError::GaveUp { .. }));
    let text = error.to_string();
    let expected = "the host gave up on the service \"tick\": failed: 1 call failed, the last: panicked: broken, at ";
    assert!(text.starts_with(expected), "{text}");
}

/// What `raise_exceptions` does in fastapi-utils: the calls end, the rest goes on.
#[tokio::test(start_paused = true)]
async fn degradable_service_that_is_never_restarted_ends_alone_after_a_failed_call() {
    let service = periodic("tick", Every::secs(10).give_up_after(1), |_| async { Err("no connection".into()) });
    let host = started(service.restart(Restart::Never).degradable()).await;
    let handle = host.handle();
    sleep(100.seconds()).await;
    assert_eq!(ticks(&handle).runs(), 1);
    assert!(matches!(state(&handle), ServiceState::Failed));
    assert!(!handle.status().phase().is_stopping());
    assert!(host.shutdown().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn host_gives_up_after_too_many_restarts() {
    let service = periodic("tick", Every::secs(1).give_up_after(1), |_| async { Err("always".into()) });
    let host = started(service.intensity(Intensity::new(2, 1_000.seconds())).degradable()).await;
    sleep(100.seconds()).await;
    assert_eq!(ticks(&host.handle()).runs(), 3);
    assert!(matches!(state(&host.handle()), ServiceState::Failed));
    let _ = host.shutdown().await.unwrap();
}
