//! Keys whose `Hash`, `Eq` or `Drop` panics or calls the flight.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{pending, ready};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use onelane::SingleFlight;
use tokio::sync::oneshot;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};

use support::leak;
use support::runtimes::current_thread;

use super::{Flight, assert_idle, on_demand, quiet_panic, settle};

thread_local! {
    static HASH_PANICS: Cell<bool> = const { Cell::new(false) };
    static EQ_PANICS: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug)]
struct Fragile(u32);

impl Hash for Fragile {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if HASH_PANICS.get() {
            quiet_panic("in hash");
        }
        // All hashes are equal, so that all keys share one table.
        0.hash(state);
    }
}

impl PartialEq for Fragile {
    fn eq(&self, other: &Self) -> bool {
        if EQ_PANICS.get() {
            quiet_panic("in eq");
        }
        self.0 == other.0
    }
}

impl Eq for Fragile {}

#[test]
fn key_that_panics_in_hash_or_eq_affects_only_its_own_caller() {
    let flight = leak(Flight::<Fragile>::new("fragile"));
    for panics in [&HASH_PANICS, &EQ_PANICS] {
        let (senders, works): (Vec<_>, Vec<_>) = (0..3).map(|_| on_demand()).unzip();
        let mut callers: Vec<_> = (0..3)
            .zip(works)
            .map(|(key, work)| {
                let mut caller = task::spawn(flight.run(Fragile(key), || work));
                assert_pending!(caller.poll());
                caller
            })
            .collect();
        panics.set(true);
        let before = flight.stats();
        let mut affected = task::spawn(flight.run(Fragile(1), pending));
        assert!(catch_unwind(AssertUnwindSafe(|| affected.poll())).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| flight.forget(&Fragile(1)))).is_err());
        assert_eq!(flight.stats(), before);
        // The other runs complete without hashing or comparing their keys.
        for (sender, caller) in senders.into_iter().zip(&mut callers) {
            sender.send(7).unwrap();
            assert_eq!(assert_ready_ok!(caller.poll()), 7);
        }
        panics.set(false);
        assert_idle(flight);
        // The affected caller can still be polled.
        assert_pending!(affected.poll());
        assert_eq!(flight.len(), 1);
        drop(affected);
        assert_idle(flight);
    }
}

type Chatty = SingleFlight<CallsBack, u64>;

static CHATTY: OnceLock<&'static Chatty> = OnceLock::new();
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// A key whose destructor calls the flight, which would deadlock under a lock of the flight.
#[derive(PartialEq, Eq)]
struct CallsBack {
    key: u32,
    calls: bool,
}

impl Hash for CallsBack {
    fn hash<H: Hasher>(&self, state: &mut H) {
        0.hash(state);
    }
}

impl Drop for CallsBack {
    fn drop(&mut self) {
        if self.calls {
            let flight = CHATTY.get().unwrap();
            flight.forget(&Self { key: u32::MAX, calls: false });
            let key = Self { key: self.key, calls: false };
            let mut call = task::spawn(flight.run(key, || ready(Ok(CALLS.fetch_add(1, Ordering::SeqCst) as u64))));
            // The key may belong to a run that is still in progress.
            let _may_wait = call.poll();
        }
    }
}

#[test]
fn destructor_of_a_key_may_call_the_flight() {
    let flight = *CHATTY.get_or_init(|| leak(Chatty::new("chatty")));
    let runtime = current_thread();
    for has_runtime in [false, true] {
        let _entered = has_runtime.then(|| runtime.enter());
        let key = |key| CallsBack { key, calls: true };
        let calls = CALLS.load(Ordering::SeqCst);
        // One run completes at once, one is shared and completes later, one is cancelled, and one is never polled.
        assert_eq!(assert_ready!(task::spawn(flight.run(key(0), || ready(Ok(7)))).poll()).unwrap(), 7);
        assert_eq!(CALLS.load(Ordering::SeqCst), calls + 1);
        let (sender, receiver) = oneshot::channel::<()>();
        let mut first = task::spawn(flight.run(key(0), || async move {
            receiver.await.unwrap();
            Ok(7)
        }));
        assert_pending!(first.poll());
        let mut second = task::spawn(flight.run(key(0), pending::<Result<u64, Infallible>>));
        assert_pending!(second.poll());
        sender.send(()).unwrap();
        if has_runtime {
            runtime.block_on(settle());
        }
        assert_eq!(assert_ready!(first.poll()).unwrap(), 7);
        assert_eq!(assert_ready!(second.poll()).unwrap(), 7);
        drop((first, second));
        assert_eq!(CALLS.load(Ordering::SeqCst), calls + 3);
        let mut cancelled = task::spawn(flight.run(key(0), pending::<Result<u64, Infallible>>));
        assert_pending!(cancelled.poll());
        drop(cancelled);
        drop(flight.run(key(0), pending::<Result<u64, Infallible>>));
        assert_eq!(CALLS.load(Ordering::SeqCst), calls + 5);
        assert_idle(flight);
    }
}

#[test]
fn keys_with_equal_hashes_are_distinguished() {
    let flight = leak(Flight::<Fragile>::new("crowded"));
    let (senders, works): (Vec<_>, Vec<_>) = (0..100).map(|_| on_demand()).unzip();
    let mut callers = Vec::new();
    for (key, work) in (0..100).zip(works) {
        let mut caller = task::spawn(flight.run(Fragile(key), || work));
        assert_pending!(caller.poll());
        callers.push(caller);
    }
    assert_eq!(flight.len(), 100);
    for (key, sender) in senders.into_iter().enumerate() {
        sender.send(key as u64).unwrap();
    }
    for key in (0..100).map(|i| i * 37 % 100) {
        assert_eq!(assert_ready_ok!(callers[key].poll()), key as u64);
    }
    assert_idle(flight);
}
