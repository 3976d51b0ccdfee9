//! [`StopSignal`], which tells a generation to stop: its tasks, its thread, and who holds its token.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::sync::lock;

/// A signal that is given once.
///
/// It does what a [`CancellationToken`] does, and makes one only for who asks for it: most services don't, and a token is an
/// allocation and a tree of others.
#[derive(Debug, Default)]
pub(super) struct StopSignal {
    /// Written under the lock, and read without.
    is_given: AtomicBool,
    /// How many threads are parked: a condition variable calls the kernel, also for nobody.
    parked: Mutex<u32>,
    threads: Condvar,
    tasks: Notify,
    /// Made under the lock, so that it is either there when the signal is given, or made by one who sees that it was.
    token: OnceLock<CancellationToken>,
}

impl StopSignal {
    /// Gives it to threads, to tokens, and to who looks from now on. Tasks that wait are to be [woken](Self::wake_tasks).
    pub(super) fn give(&self) {
        let is_awaited = {
            let parked = lock(&self.parked);
            self.is_given.store(true, Ordering::Release);
            *parked > 0
        };
        if is_awaited {
            self.threads.notify_all();
        }
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }

    pub(super) fn wake_tasks(&self) {
        self.tasks.notify_waiters();
    }

    pub(super) fn is_given(&self) -> bool {
        self.is_given.load(Ordering::Acquire)
    }

    /// Waits until it is given.
    pub(super) async fn given(&self) {
        // Before the look: who is notified from here on wakes it.
        let notified = self.tasks.notified();
        if !self.is_given() {
            notified.await;
        }
    }

    /// Parks the thread until it is given, for `limit` at most. Whether it is.
    pub(super) fn park(&self, limit: Duration) -> bool {
        // The clock of the thread: tokio's may stand still in tests.
        let start = Instant::now();
        let mut parked = lock(&self.parked);
        *parked += 1;
        while !self.is_given() {
            let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else { break };
            parked = self.threads.wait_timeout(parked, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *parked -= 1;
        self.is_given()
    }

    /// A token that is cancelled when it is given.
    pub(super) fn token(&self) -> &CancellationToken {
        let (token, is_given) = {
            let _parked = lock(&self.parked);
            (self.token.get_or_init(CancellationToken::new), self.is_given())
        };
        if is_given {
            token.cancel();
        }
        token
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn given_it_wakes_who_waits_and_lets_who_comes_pass() {
        let signal = StopSignal::default();
        let mut waits = task::spawn(signal.given());
        assert_pending!(waits.poll());
        assert!(!signal.is_given() && !signal.park(Duration::ZERO));
        signal.give();
        signal.wake_tasks();
        assert!(waits.is_woken());
        assert_ready!(waits.poll());
        assert_ready!(task::spawn(signal.given()).poll());
        assert!(signal.is_given() && signal.park(Duration::MAX));
    }

    #[test]
    fn given_between_its_beginning_and_its_first_poll_it_is_not_missed() {
        let signal = StopSignal::default();
        let mut waits = task::spawn(signal.given());
        signal.give();
        signal.wake_tasks();
        assert_ready!(waits.poll());
    }

    #[test]
    fn tokens_are_cancelled_whether_they_were_made_before_or_after() {
        let (before, after) = (StopSignal::default(), StopSignal::default());
        let token = before.token().clone();
        assert!(!token.is_cancelled());
        before.give();
        after.give();
        assert!(token.is_cancelled() && before.token().is_cancelled() && after.token().is_cancelled());
    }

    #[test]
    fn token_that_is_made_as_it_is_given_is_cancelled() {
        for _ in 0..1_000 {
            let signal = Arc::new(StopSignal::default());
            let gives = thread::spawn({
                let signal = Arc::clone(&signal);
                move || signal.give()
            });
            let token = signal.token().clone();
            gives.join().unwrap_or_else(|_| panic!("it does not panic"));
            assert!(token.is_cancelled());
        }
    }

    #[test]
    fn thread_that_is_parked_goes_on_when_it_is_given() {
        let signal = Arc::new(StopSignal::default());
        let parked = thread::spawn({
            let signal = Arc::clone(&signal);
            move || signal.park(Duration::from_secs(60))
        });
        signal.give();
        assert_eq!(parked.join().ok(), Some(true));
    }
}
