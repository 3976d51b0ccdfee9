//! The builders of pools: which settings they accept, and how they report the others.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use onelane::offload::{BlockingPoolBuilder, CpuPoolBuilder};
use onelane::{BlockingPool, CapacityLimiter, CpuPool};

use support::waiting::{PATIENCE, until};

/// Returns the message of the panic.
fn panic_of<T>(build: impl FnOnce() -> T) -> String {
    let payload = catch_unwind(AssertUnwindSafe(build)).map(drop).unwrap_err();
    payload.downcast_ref::<String>().unwrap().clone()
}

#[test]
fn blocking_builder_names_the_setting_that_it_does_not_accept() {
    type Set = fn(BlockingPoolBuilder) -> BlockingPoolBuilder;
    let limiter = || Arc::new(CapacityLimiter::new(1));
    assert_eq!(BlockingPool::builder("ok").limiter(limiter()).try_build().unwrap().name(), "ok");
    let cases: [(Set, &str, &str); 4] = [
        (|builder| builder.max_running(0), "max_running", "max_running(0) runs no task"),
        (|builder| builder.max_running(CapacityLimiter::MAX_TOTAL + 1), "max_running", "at most 2,147,483,647"),
        (
            |builder| builder.max_running(1).limiter(Arc::new(CapacityLimiter::new(1))),
            "max_running",
            "contradicts limiter()",
        ),
        (|builder| builder.max_wait(Duration::ZERO), "max_wait", "use max_queued(0)"),
    ];
    for (set, setting, advice) in cases {
        let builder = set(BlockingPool::builder("reports"));
        let error = builder.clone().try_build().unwrap_err();
        assert_eq!((error.name(), error.setting()), ("reports", setting));
        let text = error.to_string();
        assert!(text.starts_with("pool `reports`: ") && text.contains(advice), "{text}");
        assert_eq!(panic_of(|| builder.build()), text);
    }
}

#[test]
fn cpu_builder_names_the_setting_that_it_does_not_accept() {
    type Set = fn(CpuPoolBuilder) -> CpuPoolBuilder;
    let cases: [(Set, &str, &str); 4] = [
        (|builder| builder.threads(0), "threads", "threads(0) runs no task"),
        (|builder| builder.threads(usize::MAX), "threads", "must be at most 2,147,483,647"),
        (|builder| builder.threads(1).limiter(CpuPool::global().limiter().clone()), "threads", "contradicts limiter()"),
        (|builder| builder.max_wait(Duration::ZERO), "max_wait", "use max_queued(0)"),
    ];
    for (set, setting, advice) in cases {
        let builder = set(CpuPool::builder("images"));
        let error = builder.clone().try_build().unwrap_err();
        assert_eq!((error.name(), error.setting()), ("images", setting));
        assert!(error.source().is_none(), "the text already contains the setting");
        let text = error.to_string();
        assert!(text.starts_with("pool `images`: ") && text.contains(advice), "{text}");
        assert_eq!(panic_of(|| builder.build()), text);
    }
}

#[tokio::test]
async fn settings_that_were_not_set_are_no_limits() {
    let pool = BlockingPool::builder("defaults").try_build().unwrap();
    assert_eq!(pool.stats().max_running, 40);
    let pool = BlockingPool::builder("limits").max_running(1).max_queued(0).max_wait(PATIENCE).build();
    assert_eq!(pool.run(|| 7).await, Ok(7));
    assert_eq!(BlockingPool::builder("most").max_running(CapacityLimiter::MAX_TOTAL).build().stats().running, 0);
}

#[tokio::test]
async fn name_may_come_from_a_configuration() {
    let name = |n: u32| format!("tenant-{n}");
    let (blocking, cpu) = (BlockingPool::new(name(1)), CpuPool::builder(name(2)).threads(1).build());
    assert_eq!((blocking.name(), cpu.name()), ("tenant-1", "tenant-2"));
    assert_eq!((&*blocking.stats().name, &*cpu.stats().name), ("tenant-1", "tenant-2"));
    let thread = cpu.run(|| std::thread::current().name().map(str::to_owned)).await.unwrap();
    assert_eq!(thread.as_deref(), Some("tenant-2-0"));
    let error = BlockingPool::builder(name(3)).max_running(0).try_build().unwrap_err();
    assert_eq!(error.name(), "tenant-3");
}

#[tokio::test]
async fn pools_report_that_they_are_closed() {
    let (blocking, cpu) = (BlockingPool::new("blocking"), CpuPool::builder("cpu").threads(1).build());
    assert!(!blocking.is_closed() && !cpu.is_closed());
    blocking.close();
    cpu.close();
    assert!(blocking.is_closed() && cpu.clone().is_closed());
    blocking.drained().await.unwrap();
    cpu.drained().await.unwrap();
    until("nothing is running", || blocking.stats().running + cpu.stats().running == 0).await;
}
