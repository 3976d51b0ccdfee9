//! Tests in real time, which threads and the wall clock need.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use onelane::background::{Every, Overlap, Placement, ServiceHost, ServiceState, periodic};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::periodic::{SECOND, eventually, started, state, ticks};

#[tokio::test]
async fn calls_of_a_service_on_its_own_thread_run_there_and_end_with_it() {
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let threads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&threads);
        let service = periodic("tick", Every::fixed_rate(Duration::from_millis(20)).overlap(overlap), move |_| {
            let seen = Arc::clone(&seen);
            async move {
                let name = std::thread::current().name().map(str::to_owned);
                seen.lock().unwrap().push(name);
                // The runtime of a service's own thread cannot be paused.
                sleep(Duration::from_millis(5)).await;
                Ok(())
            }
        });
        let host = ServiceHost::builder().service(service.placement(Placement::Thread)).build().unwrap();
        host.start().await.unwrap();
        let handle = host.handle();
        eventually(|| ticks(&handle).runs() >= 3).await;
        let start = std::time::Instant::now();
        assert!(host.shutdown().await.unwrap().is_clean());
        assert!(start.elapsed() < SECOND);
        assert_eq!(ticks(&handle).running(), 0);
        let runs = ticks(&handle).runs();
        assert!(threads.lock().unwrap().iter().all(|name| name.as_deref() == Some("tick")));
        // Three intervals, in which an ended thread makes no call.
        sleep(Duration::from_millis(60)).await;
        assert_eq!(ticks(&handle).runs(), runs);
    }
}

#[tokio::test]
async fn call_that_blocks_its_thread_delays_only_itself() {
    let (begun, may_end) = (Arc::new(Notify::new()), Arc::new(AtomicU64::new(0)));
    let (signal, end) = (Arc::clone(&begun), Arc::clone(&may_end));
    let every = Every::fixed_rate(Duration::from_millis(10)).max_runs(2);
    let service = periodic("tick", every, move |_| {
        let (signal, end) = (Arc::clone(&signal), Arc::clone(&end));
        async move {
            signal.notify_one();
            let start = std::time::Instant::now();
            while end.load(Ordering::Relaxed) == 0 {
                assert!(start.elapsed() < 10 * SECOND, "the call is never allowed to end");
                // The call has to block its thread.
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        }
    });
    let host = ServiceHost::builder().service(service.placement(Placement::Thread)).build().unwrap();
    host.start().await.unwrap();
    begun.notified().await;
    // Ten intervals, in real time.
    sleep(Duration::from_millis(100)).await;
    let handle = host.handle();
    assert_eq!((ticks(&handle).runs(), ticks(&handle).running()), (1, 1));
    may_end.store(1, Ordering::Relaxed);
    eventually(|| matches!(state(&handle), ServiceState::Completed)).await;
    // One call makes up for all that were missed in these 100 ms.
    let status = ticks(&handle);
    assert!(status.runs() == 2 && status.skipped() >= 5, "{status:?}");
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test]
async fn cron_schedule_calls_on_each_second() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let every = Every::cron("* * * * * *").unwrap().time_zone("Europe/Berlin").unwrap().max_runs(2);
    let service = periodic("tick", every, move |_| {
        record.lock().unwrap().push(SystemTime::now());
        async { Ok(()) }
    });
    let host = started(service).await;
    let handle = host.handle();
    let next = ticks(&handle).next_run();
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
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test]
async fn calls_that_block_longer_than_their_interval_let_other_tasks_run() {
    // Real time, because blocking does not advance paused time. After 200 calls the closure awaits, so that a failing
    // test ends.
    let calls = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&calls);
    let service = periodic("blocks", Every::fixed_rate(Duration::from_millis(2)), move |_| {
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
        // Needs the timers of the runtime on which the calls block.
        sleep(Duration::from_millis(1)).await;
    }
    assert!(calls.load(Ordering::Relaxed) < 100, "{calls:?} calls before another task was polled");
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test]
async fn interval_below_a_millisecond_behaves_like_one_millisecond() {
    for overlap in [Overlap::Skip, Overlap::Queue, Overlap::Allow] {
        let (calls, start) = (Arc::new(AtomicU64::new(0)), std::time::Instant::now());
        let counter = Arc::clone(&calls);
        let service = periodic("fast", Every::fixed_rate(Duration::from_nanos(1)).overlap(overlap), move |_| {
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
        // The host has its own thread, so the calls are compared with real time.
        sleep(Duration::from_millis(20)).await;
        let (calls, passed) = (calls.load(Ordering::Relaxed), start.elapsed().as_millis());
        assert!(calls > 0 && u128::from(calls) <= passed + 1, "{calls} calls in {passed} ms with {overlap:?}");
        let _ = host.shutdown().await.unwrap();
    }
}
