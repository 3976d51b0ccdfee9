//! [`WakerSlot`], which stores the waker of one waiter.

use std::mem;
use std::task::Waker;

/// A waiter's waker, kept in data that the caller protects with a mutex.
///
/// A waker is user code: cloning, dropping or waking it may panic, block, or call back into this crate. None of that
/// may happen while the mutex is held, so a slot only compares and moves wakers. It is plain data and locks nothing.
///
/// # Registering a waker
///
/// A future registers its waker in this loop before it returns `Poll::Pending`:
///
/// ```text
/// // Declared before the guard, so that a replaced waker is dropped after the mutex is unlocked.
/// let mut spare = None;
/// loop {
///     let mut state = lock(&self.state);
///     if let Some(value) = state.value.take() {
///         return Poll::Ready(value);
///     }
///     if state.waker.register(cx.waker(), &mut spare) {
///         return Poll::Pending;
///     }
///     drop(state);
///     spare = Some(cx.waker().clone());
/// }
/// ```
///
/// The state is checked again after the waker was cloned, because it may have changed while the mutex was unlocked. A
/// task that is polled again with the same waker takes the mutex once and clones nothing.
///
/// # Waking
///
/// The side that changes the state takes the waker under the same lock, and wakes it after the mutex is unlocked:
///
/// ```text
/// let mut state = lock(&self.state);
/// state.value = Some(value);
/// let waker = state.waker.take();
/// drop(state);
/// if let Some(waker) = waker {
///     waker.wake();
/// }
/// ```
#[derive(Debug, Default)]
pub(crate) struct WakerSlot(Option<Waker>);

impl WakerSlot {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Makes sure that the slot's waker wakes the task of `waker`. Returns `false` if the caller must retry with a
    /// clone of `waker` in `spare`.
    ///
    /// A clone that is stored is taken out of `spare`, and the waker that it replaces is left there. So `spare` must
    /// outlive the lock.
    #[must_use = "without a registered waker the task is never woken"]
    #[inline]
    pub(crate) fn register(&mut self, waker: &Waker, spare: &mut Option<Waker>) -> bool {
        if self.0.as_ref().is_some_and(|registered| registered.will_wake(waker)) {
            return true;
        }
        let has_clone = spare.is_some();
        if has_clone {
            mem::swap(&mut self.0, spare);
        }
        has_clone
    }

    /// Stores `waker` and returns the one that it replaces, which must be dropped after the mutex is unlocked.
    #[must_use = "the old waker must be dropped after the mutex is unlocked"]
    #[inline]
    pub(crate) fn replace(&mut self, waker: Waker) -> Option<Waker> {
        self.0.replace(waker)
    }

    /// Empties the slot. The waker must be woken or dropped after the mutex is unlocked.
    #[must_use = "the waker must be woken or dropped after the mutex is unlocked"]
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Waker> {
        self.0.take()
    }
}

impl From<Waker> for WakerSlot {
    fn from(waker: Waker) -> Self {
        Self(Some(waker))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake};

    use super::*;
    use crate::sync::{Mutex, lock};

    #[derive(Default)]
    struct Flag(Mutex<(bool, WakerSlot)>);

    impl Flag {
        fn poll(&self, cx: &Context<'_>) -> Poll<()> {
            let mut spare = None;
            loop {
                let mut state = lock(&self.0);
                if state.0 {
                    return Poll::Ready(());
                }
                if state.1.register(cx.waker(), &mut spare) {
                    return Poll::Pending;
                }
                drop(state);
                spare = Some(cx.waker().clone());
            }
        }

        fn set(&self) {
            let mut state = lock(&self.0);
            state.0 = true;
            let waker = state.1.take();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// A waker that fails the test if it is woken or dropped while the flag's mutex is held.
    struct LockProbe {
        flag: Arc<Flag>,
        wakes: AtomicUsize,
    }

    impl LockProbe {
        fn new(flag: &Arc<Flag>) -> Arc<Self> {
            Arc::new(Self { flag: Arc::clone(flag), wakes: AtomicUsize::new(0) })
        }

        fn assert_unlocked(&self) {
            assert!(self.flag.0.try_lock().is_ok(), "a waker is used while the mutex is held");
        }
    }

    impl Wake for LockProbe {
        fn wake(self: Arc<Self>) {
            self.assert_unlocked();
            self.wakes.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Drop for LockProbe {
        fn drop(&mut self) {
            self.assert_unlocked();
        }
    }

    #[test]
    fn latest_waker_is_woken_once() {
        let flag = Arc::new(Flag::default());
        let (first, second) = (LockProbe::new(&flag), LockProbe::new(&flag));
        for probe in [&first, &second, &second] {
            assert!(flag.poll(&Context::from_waker(&Waker::from(Arc::clone(probe)))).is_pending());
        }
        flag.set();
        flag.set();
        assert_eq!((first.wakes.load(Ordering::Relaxed), second.wakes.load(Ordering::Relaxed)), (0, 1));
        assert!(flag.poll(&Context::from_waker(Waker::noop())).is_ready());
    }

    #[test]
    fn replaced_waker_is_dropped_after_the_mutex_is_unlocked() {
        let flag = Arc::new(Flag::default());
        for _ in 0..3 {
            // The slot holds the last reference to the probe, which is dropped when the next one replaces it.
            assert!(flag.poll(&Context::from_waker(&Waker::from(LockProbe::new(&flag)))).is_pending());
        }
        flag.set();
        assert_eq!(Arc::strong_count(&flag), 1);
    }

    #[test]
    fn clone_is_requested_only_if_the_waker_changes() {
        let flag = Arc::new(Flag::default());
        let (first, second) = (Waker::from(LockProbe::new(&flag)), Waker::from(LockProbe::new(&flag)));
        let mut slot = WakerSlot::new();
        let mut spare = None;
        assert!(!slot.register(&first, &mut spare), "there is no clone to store");
        spare = Some(first.clone());
        assert!(slot.register(&first, &mut spare) && spare.is_none(), "the clone is stored");
        assert!(slot.register(&first, &mut spare), "the same waker needs no clone");
        assert!(!slot.register(&second, &mut spare), "another waker needs a clone");
    }

    #[test]
    fn replaced_waker_is_returned() {
        let flag = Arc::new(Flag::default());
        let (first, second) = (Waker::from(LockProbe::new(&flag)), Waker::from(LockProbe::new(&flag)));
        let mut slot = WakerSlot::from(first.clone());
        let mut spare = Some(second.clone());
        assert!(slot.register(&second, &mut spare));
        assert!(spare.is_some_and(|stale| stale.will_wake(&first)));
        assert!(slot.replace(first.clone()).is_some_and(|stale| stale.will_wake(&second)));
        assert!(slot.take().is_some_and(|waker| waker.will_wake(&first)));
        assert!(slot.take().is_none());
    }
}
