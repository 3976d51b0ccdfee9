//! What a host keeps of generations that are gone: nothing, after a hundred thousand panics.
//!
//! A binary of its own, because it counts every allocation and silences the panic hook.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]
#![allow(clippy::clone_on_ref_ptr, reason = "a test clones what it looks at")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onelane::background::{Backoff, HostPhase, Intensity, Service, ServiceHost, Supervision, blocking_fn, service_fn};
use tokio::time::{Instant, sleep};

use support::counting::live_bytes_of_all;

/// Lets one test run at a time, without the message of each panic.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    let alone = crate::alone();
    std::panic::set_hook(Box::new(|_| {}));
    alone
}

fn crash_loop(service: Service) -> Service {
    service.backoff(Backoff::none()).intensity(Intensity::unlimited())
}

/// Runs it until it has had so many generations. By how much memory grew from the `from`th to the `to`th.
fn growth(service: Service, supervision: Supervision, generations: &AtomicU64, from: u64, to: u64) -> isize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let host = ServiceHost::builder().supervision(supervision).without_signals().service(service).build().unwrap();
        host.start().await.unwrap();
        let start = Instant::now();
        let reach = async |many| {
            while generations.load(Ordering::Relaxed) < many {
                assert!(start.elapsed() < Duration::from_secs(300), "it hangs at {generations:?}");
                // Real time, which the panics of real threads take.
                sleep(Duration::from_millis(1)).await;
            }
        };
        reach(from).await;
        let before = live_bytes_of_all();
        reach(to).await;
        let grown = live_bytes_of_all() - before;
        assert_eq!(host.status().phase, HostPhase::Running);
        assert!(host.status().service("actor").unwrap().restarts >= to - 1);
        // Whether it stops while it runs, starts or stops is chance.
        host.shutdown().await.unwrap();
        grown
    })
}

#[test]
fn hundred_thousand_panics_are_survived_and_keep_nothing() {
    let _alone = alone();
    for supervision in [Supervision::ServerRuntime, Supervision::OwnThread] {
        let generations = Arc::new(AtomicU64::new(0));
        let count = generations.clone();
        let service = service_fn("actor", move |cx| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                cx.ready();
                cx.spawn(async {});
                tokio::task::yield_now().await;
                panic!("generation {}", cx.generation())
            }
        });
        let grown = growth(crash_loop(service).manual_ready(), supervision, &generations, 10_000, 110_000);
        // A batch of messages is under way now and then. A byte for each generation would be 100,000.
        assert!(grown.abs() < 64 << 10, "{supervision:?}: {grown} bytes");
    }
}

#[test]
fn thousand_threads_that_panic_keep_nothing() {
    let _alone = alone();
    let generations = Arc::new(AtomicU64::new(0));
    let count = generations.clone();
    let service = blocking_fn("actor", move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        panic!("a thread")
    });
    let grown = growth(crash_loop(service), Supervision::OwnThread, &generations, 200, 1_200);
    assert!(grown.abs() < 64 << 10, "{grown} bytes");
}

#[test]
fn children_that_end_keep_nothing_while_their_service_runs() {
    let _alone = alone();
    let children = Arc::new(AtomicU64::new(0));
    let count = children.clone();
    let service = service_fn("actor", move |cx| {
        let count = count.clone();
        async move {
            while !cx.is_stopping() {
                cx.spawn(async {}).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let grown = runtime.block_on(async {
        let host = ServiceHost::builder().without_signals().service(service).build().unwrap();
        host.start().await.unwrap();
        let start = Instant::now();
        let reach = async |many| {
            while children.load(Ordering::Relaxed) < many {
                assert!(start.elapsed() < Duration::from_secs(300), "it hangs at {children:?}");
                // Real time: the host has a thread of its own.
                sleep(Duration::from_millis(1)).await;
            }
        };
        reach(1_000).await;
        let before = live_bytes_of_all();
        reach(51_000).await;
        let grown = live_bytes_of_all() - before;
        host.shutdown().await.unwrap();
        grown
    });
    assert!(grown.abs() < 64 << 10, "{grown} bytes");
}
