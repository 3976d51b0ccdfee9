//! The stacks of the threads that run only one service.

use std::hint::black_box;
use std::time::Duration;

use onelane::background::{
    BlockingContext, BlockingService, Every, Placement, Service, ServiceHost, ServiceResult, StopContext, blocking_fn,
    periodic_blocking, service_fn,
};
use onelane::run_blocking;
use tokio::time::timeout;

use crate::host::actor::{Log, SECOND, threaded_host};
use support::waiting::{Gate, MS, PATIENCE, Wait, until};

const STACK: usize = 64 << 20;

/// Takes at least 512 bytes of stack for each of `n`.
#[inline(never)]
fn recurse(n: u64) -> u64 {
    let frame = black_box([n; 64]);
    if n == 0 { 0 } else { recurse(n - 1) + frame[63] % 2 }
}

/// Needs more stack than a thread has by default. A thread without it would abort the process.
fn needs_a_large_stack(log: &Log) {
    log.record(recurse(20_000).to_string());
}

async fn start(service: Service) -> ServiceHost {
    let host = threaded_host().service(service.stack_size(STACK)).build().unwrap();
    timeout(PATIENCE, host.start()).await.unwrap().unwrap();
    host
}

async fn stop_after(log: &Log, host: ServiceHost) {
    until("the large stack was used", || log.count("10000") > 0).await;
    assert!(timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap().is_clean());
}

#[tokio::test]
async fn blocking_service_has_the_stack_of_its_options() {
    let log = Log::default();
    let used = log.clone();
    let service = blocking_fn("blocking", move |cx| {
        needs_a_large_stack(&used);
        while !cx.wait_stopping(SECOND) {}
        Ok(())
    });
    stop_after(&log, start(service).await).await;
}

#[tokio::test]
async fn service_on_a_thread_has_the_stack_of_its_options() {
    let log = Log::default();
    let used = log.clone();
    let service = service_fn("thread", move |cx| {
        let used = used.clone();
        async move {
            needs_a_large_stack(&used);
            cx.stopping().await;
            Ok(())
        }
    });
    stop_after(&log, start(service.placement(Placement::Thread)).await).await;
}

#[tokio::test]
async fn blocking_tasks_of_a_service_on_a_thread_have_the_stack_of_its_options() {
    let log = Log::default();
    let used = log.clone();
    let service = service_fn("tasks", move |cx| {
        let used = used.clone();
        async move {
            run_blocking(move || needs_a_large_stack(&used)).await?;
            cx.stopping().await;
            Ok(())
        }
    });
    stop_after(&log, start(service.placement(Placement::Thread)).await).await;
}

#[tokio::test]
async fn blocking_calls_of_a_periodic_service_on_a_thread_have_the_stack_of_its_options() {
    let log = Log::default();
    let used = log.clone();
    let service = periodic_blocking("calls", Every::secs(3600), move |_| {
        needs_a_large_stack(&used);
        Ok(())
    });
    stop_after(&log, start(service.placement(Placement::Thread)).await).await;
}

/// Blocks in its `run`, so that `stop` is called on another thread.
struct Blocked(Log, Wait);

impl BlockingService for Blocked {
    fn name(&self) -> &str {
        "blocked"
    }

    fn run(&self, _: BlockingContext) -> ServiceResult {
        self.1.block();
        Ok(())
    }

    fn stop(&self, _: &StopContext) -> ServiceResult {
        needs_a_large_stack(&self.0);
        Ok(())
    }
}

#[tokio::test]
async fn stop_on_another_thread_has_the_stack_of_the_service() {
    let (log, gate) = (Log::default(), Gate::default());
    let service = Service::blocking(Blocked(log.clone(), gate.wait())).stop_timeout(MS * 20);
    let host = start(service.cleanup_timeout(Duration::from_secs(10))).await;
    until("the service blocks", || gate.inside() == 1).await;
    let report = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
    assert_eq!((log.count("10000"), report.service("blocked").unwrap().clean_up().to_string()), (1, "done".to_owned()));
    gate.open();
}
