//! Copies of the value.

use std::convert::Infallible;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use onelane::SingleFlight;
use tokio::sync::oneshot;
use tokio_test::{assert_pending, assert_ready, task};

use support::leak;

use super::{assert_idle, quiet_panic};

/// A value that counts its clones. The clone with the number `panics_at` panics.
#[derive(Debug)]
struct Costly {
    clones: Arc<AtomicUsize>,
    panics_at: usize,
}

impl Clone for Costly {
    fn clone(&self) -> Self {
        if self.clones.fetch_add(1, Ordering::SeqCst) + 1 == self.panics_at {
            quiet_panic("in clone");
        }
        Self { clones: Arc::clone(&self.clones), panics_at: self.panics_at }
    }
}

fn costly(callers: usize, panics_at: usize) -> (Arc<AtomicUsize>, Vec<bool>) {
    let flight = leak(SingleFlight::<u32, Costly>::new("costly"));
    let clones = Arc::new(AtomicUsize::new(0));
    let (finish, receiver) = oneshot::channel::<()>();
    let made = Arc::clone(&clones);
    let mut first = task::spawn(flight.run(0, move || async move {
        receiver.await.unwrap();
        Ok(Costly { clones: made, panics_at })
    }));
    assert_pending!(first.poll());
    let mut others: Vec<_> = (1..callers)
        .map(|_| {
            let mut other = task::spawn(flight.run(0, pending::<Result<Costly, Infallible>>));
            assert_pending!(other.poll());
            other
        })
        .collect();
    finish.send(()).unwrap();
    let mut has_value = vec![catch_unwind(AssertUnwindSafe(|| assert_ready!(first.poll()).is_ok())).unwrap_or(false)];
    for other in &mut others {
        assert!(other.is_woken());
        let polled = catch_unwind(AssertUnwindSafe(|| assert_ready!(other.poll()).is_ok()));
        has_value.push(polled.unwrap_or(false));
    }
    drop((first, others));
    assert_idle(flight);
    assert_eq!((flight.stats().panicked, flight.stats().cancelled), (0, 0));
    (clones, has_value)
}

#[test]
fn value_is_cloned_for_every_caller_but_the_last() {
    for callers in [1, 2, 10] {
        let (clones, has_value) = costly(callers, usize::MAX);
        assert_eq!(clones.load(Ordering::SeqCst), callers - 1);
        assert_eq!(has_value, vec![true; callers]);
    }
}

#[test]
fn panicking_clone_affects_only_its_own_caller() {
    for panics_at in 1..=3 {
        let (_, mut has_value) = costly(5, panics_at);
        assert!(!has_value.remove(panics_at - 1));
        assert_eq!(has_value, [true; 4]);
    }
}
