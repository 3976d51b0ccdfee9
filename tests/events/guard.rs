//! Guards with keys, since their events have the most fields.

use std::future::pending;

use onelane::guard::{AcquireErrorKind, GuardStats};
use onelane::{EndpointGuard, KeyedGuard};
use support::leak;
use support::runtimes::current_thread;
use support::waiting::until;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::{SHORT, poll_and_drop, quiet_panic};

type Keyed = KeyedGuard<&'static str>;

pub(crate) async fn scenario() {
    let guard: &Keyed = leak(Keyed::new("plain"));
    refusals(guard).await;

    let permit = guard.try_acquire("left").unwrap();
    poll_and_drop(guard.acquire("left"));
    drop(permit);

    let hasty: &Keyed = leak(Keyed::builder("hasty").max_wait(SHORT).build());
    let permit = hasty.try_acquire("late").unwrap();
    let error = hasty.acquire("late").await.unwrap_err();
    assert_eq!(error.kind(), AcquireErrorKind::Timeout);
    drop(permit);

    let expiring: &Keyed = leak(Keyed::builder("expiring").grant_timeout(SHORT).build());
    let permit = expiring.try_acquire("granted").unwrap();
    let mut waiting = Box::pin(expiring.acquire("granted"));
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(permit);
    sleep(SHORT * 2).await;
    drop(expiring.acquire("granted").await.unwrap());

    poll_and_drop(guard.run_to_completion("panics", async {
        yield_now().await;
        quiet_panic();
    }));
    until("the run has panicked", || ended(guard) == 1).await;
}

/// Returns how many detached runs have ended.
fn ended(guard: &'static Keyed) -> u64 {
    let GuardStats { detached, panicked, .. } = guard.stats();
    if detached == 0 { panicked } else { 0 }
}

async fn refusals(guard: &'static Keyed) {
    let nested = guard.run("nested", async { guard.acquire("nested").await.map(drop) }).await.unwrap();
    assert_eq!(nested.unwrap_err().kind(), AcquireErrorKind::WouldDeadlock);
    assert_eq!(guard.acquire_blocking("async").unwrap_err().kind(), AcquireErrorKind::BlockingInAsync);

    let strict = EndpointGuard::builder("strict").queue(onelane::guard::Queue::Reject).build();
    let permit = strict.try_acquire().unwrap();
    assert_eq!(strict.acquire().await.unwrap_err().kind(), AcquireErrorKind::Busy);
    drop(permit);

    let closed = Keyed::new("closed");
    let permit = closed.try_acquire("held").unwrap();
    let mut waiting = Box::pin(closed.acquire("held"));
    assert!(futures::poll!(&mut waiting).is_pending());
    closed.close();
    assert_eq!(waiting.await.unwrap_err().kind(), AcquireErrorKind::Closed);
    drop(permit);
}

/// A runtime that ends while a run continues without its caller.
pub(crate) fn scenario_of_runtimes() {
    let guard: &Keyed = leak(Keyed::new("short-lived"));
    let runtime = current_thread();
    runtime.block_on(async { poll_and_drop(guard.run_to_completion("cut", pending::<()>())) });
    drop(runtime);
}
