//! A host keeps no memory of generations that are gone, not even after a hundred thousand panics.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]
#![allow(clippy::clone_on_ref_ptr, reason = "clones in tests are short")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use onelane::background::{Backoff, HostPhase, Intensity, Service, ServiceHost, Supervision, blocking_fn, service_fn};
use tokio::time::{Instant, sleep};

use support::counting::live_bytes_of_all;
use support::runtimes::current_thread;

/// Lets one test run at a time, and silences the panic hook.
fn alone_and_quiet() -> std::sync::MutexGuard<'static, ()> {
    let alone = crate::alone();
    std::panic::set_hook(Box::new(|_| {}));
    alone
}

fn crash_loop(service: Service) -> Service {
    service.backoff(Backoff::none()).intensity(Intensity::unlimited())
}

/// Runs a service until generation `to`. Returns the growth of memory, in bytes, between generations `from` and `to`.
fn growth(service: Service, supervision: Supervision, generations: &AtomicU64, from: u64, to: u64) -> isize {
    let runtime = current_thread();
    runtime.block_on(async {
        let host = ServiceHost::builder().supervision(supervision).without_signals().service(service).build().unwrap();
        host.start().await.unwrap();
        let start = Instant::now();
        let reach = async |many| {
            while generations.load(Ordering::Relaxed) < many {
                assert!(start.elapsed() < Duration::from_secs(300), "the service hangs at generation {generations:?}");
                // Real time, because real threads panic.
                sleep(Duration::from_millis(1)).await;
            }
        };
        reach(from).await;
        let before = live_bytes_of_all();
        reach(to).await;
        let grown = live_bytes_of_all() - before;
        assert_eq!(host.status().phase(), HostPhase::Running);
        assert!(host.status().service("actor").unwrap().restarts() >= to - 1);
        // The shutdown finds the service in any state: starting, running or stopping.
        let _ = host.shutdown().await.unwrap();
        grown
    })
}

#[test]
fn hundred_thousand_panicking_generations_leave_no_memory() {
    let _alone = alone_and_quiet();
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
        // Allows for a batch of events in flight. A leak of one byte per generation would be 100,000 bytes.
        assert!(grown.abs() < 64 << 10, "{supervision:?}: {grown} bytes");
    }
}

#[test]
fn thousand_panicking_threads_leave_no_memory() {
    let _alone = alone_and_quiet();
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
fn finished_child_tasks_leave_no_memory_while_their_service_runs() {
    let _alone = alone_and_quiet();
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
    let runtime = current_thread();
    let grown = runtime.block_on(async {
        let host = ServiceHost::builder().without_signals().service(service).build().unwrap();
        host.start().await.unwrap();
        let start = Instant::now();
        let reach = async |many| {
            while children.load(Ordering::Relaxed) < many {
                assert!(start.elapsed() < Duration::from_secs(300), "the service hangs at child {children:?}");
                // Real time, because the host has its own thread.
                sleep(Duration::from_millis(1)).await;
            }
        };
        reach(1_000).await;
        let before = live_bytes_of_all();
        reach(51_000).await;
        let grown = live_bytes_of_all() - before;
        let _ = host.shutdown().await.unwrap();
        grown
    });
    assert!(grown.abs() < 64 << 10, "{grown} bytes");
}
