//! Tests of what a periodic service reports, and of its options.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use onelane::background::{
    BuildError, Every, ExitKind, Overlap, Placement, Service, ServiceHost, Supervision, periodic, service_fn,
};
use tokio::time::{Instant, sleep};

use crate::periodic::{CallLog, SECOND, Seconds, host, rate, started, ticks};

#[tokio::test(start_paused = true)]
async fn status_follows_the_calls() {
    let calls = CallLog::lasting(&[3]);
    let host = host(calls.service(Every::secs(10)));
    let handle = host.handle();
    let before = ticks(&handle);
    assert_eq!((before.runs(), before.running(), before.last_started(), before.next_run()), (0, 0, None, None));
    assert!(before.last_exit().is_none() && before.last_duration().is_none());

    let snapshot = host.status();
    host.start().await.unwrap();
    sleep(SECOND).await;
    // The value is current, even through an older snapshot.
    let running = snapshot.service("tick").unwrap().ticks().unwrap();
    assert_eq!((running.runs(), running.running(), running.next_run()), (1, 1, None));
    let age = SystemTime::now().duration_since(running.last_started().unwrap()).unwrap();
    assert!(age < SECOND, "the wall clock is not paused: {age:?}");

    sleep(4.seconds()).await;
    let idle = ticks(&handle);
    assert_eq!((idle.runs(), idle.running()), (1, 0));
    assert!(matches!(idle.last_exit(), Some(ExitKind::Completed)) && idle.last_failure().is_none());
    assert_eq!(idle.last_duration().unwrap().as_secs(), 3);
    let left = idle.next_run().unwrap().duration_since(SystemTime::now()).unwrap();
    assert!((7.9..8.01).contains(&left.as_secs_f64()), "{left:?}");
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn status_is_part_of_the_json_of_the_host() {
    let host = started(periodic("tick", rate(10), |_| async { Err("no connection".into()) })).await;
    sleep(SECOND).await;
    let status = serde_json::to_value(&*host.status()).unwrap();
    let ticks = &status["services"][0]["ticks"];
    assert_eq!((&ticks["runs"], &ticks["running"], &ticks["skipped"]), (&1.into(), &0.into(), &0.into()));
    assert_eq!(ticks["last_exit"], serde_json::json!({"kind": "failed", "message": "failed: no connection"}));
    assert_eq!(ticks["last_duration_seconds"].as_f64(), Some(0.0));
    let times = ["last_started", "next_run"].map(|field| ticks[field].as_f64().unwrap());
    assert!(times[0] > 1.7e9 && times[1] - times[0] > 5.0, "{ticks}");
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn manual_ready_service_is_ready_after_its_first_successful_call() {
    let index = AtomicU64::new(0);
    let refresh = periodic("tick", Every::secs(10), move |_| {
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
    let _ = host.shutdown().await.unwrap();
}

#[test]
fn invalid_options_are_rejected_with_a_remedy() {
    let error_of = |change: fn(Service) -> Service, every: Every| {
        let service = change(periodic("tick", every, |_| async { Ok(()) }));
        match ServiceHost::builder().service(service).build() {
            Err(error @ BuildError::InvalidOption { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let error = |every: Every| error_of(|service| service, every);
    for every in [Every::secs(0), rate(0), Every::fixed_delay(Duration::ZERO)] {
        assert!(error(every).starts_with("invalid interval for the service \"tick\": zero "));
    }
    for overlap in [Overlap::Queue, Overlap::Allow] {
        let text = error(Every::secs(1).overlap(overlap));
        assert!(
            text.starts_with("invalid overlap ") && text.contains("fixed delay") && text.contains("fixed_rate"),
            "{text}"
        );
    }
    for jitter in [10.seconds(), 11.seconds()] {
        assert!(
            error(rate(10).jitter(jitter))
                .starts_with("invalid jitter for the service \"tick\": it must be shorter than the interval")
        );
    }
    assert!(
        error(rate(10).tick_timeout(Duration::ZERO))
            .starts_with("invalid tick_timeout for the service \"tick\": no call ends in zero time")
    );
    assert!(error(rate(10).max_runs(0)).starts_with("invalid max_runs for the service \"tick\": with zero runs "));
    assert!(error(rate(10).give_up_after(0)).starts_with("invalid give_up_after for the service \"tick\": use 1 "));
    let text = error_of(|service| service.heartbeat(SECOND), rate(10));
    assert!(
        text.starts_with("invalid heartbeat ") && text.contains("a periodic service") && text.contains("tick_timeout"),
        "{text}"
    );
    let text = error_of(|service| service.placement(Placement::Blocking), rate(10));
    assert!(text.starts_with("invalid placement for the service \"tick\": Blocking "), "{text}");
}

#[test]
fn valid_options_are_accepted() {
    for every in [
        Every::fixed_delay(Duration::from_nanos(1)),
        Every::secs(u64::MAX).jitter(Duration::MAX),
        rate(10).jitter(Duration::from_millis(9_999)).overlap(Overlap::Allow),
        Every::secs(10).overlap(Overlap::Skip).max_runs(u64::MAX).give_up_after(u64::MAX).tick_timeout(Duration::MAX),
    ] {
        let service = periodic("tick", every, |_| async { Ok(()) });
        assert!(ServiceHost::builder().service(service).build().is_ok());
    }
}
