//! [`StopSignal`], which asks a generation to stop: its tasks, its threads, and the holders of its token.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::panic::catch;
use crate::wake::Contained;

/// A signal that is given once.
///
/// A task or thread that sees the signal also finds the token cancelled, and a token that the host cancelled comes with
/// the signal: [`give`](Self::give) sets the flag, cancels the token, and only then wakes the waiters.
#[derive(Debug, Default)]
pub(super) struct StopSignal {
    is_given: AtomicBool,
    /// The token for user code. It is no child of another token, so user code that cancels it stops nothing else.
    token: CancellationToken,
    waiters: Notify,
}

impl StopSignal {
    pub(super) fn give(&self) {
        self.is_given.store(true, Ordering::Release);
        self.cancel_token();
        self.waiters.notify_waiters();
    }

    pub(super) fn is_given(&self) -> bool {
        self.is_given.load(Ordering::Acquire)
    }

    /// Waits until the signal is given.
    pub(super) async fn given(&self) {
        // Registered before the flag is read: `notify_waiters` reaches every future that exists when it is called.
        let notified = pin!(self.waiters.notified());
        if !self.is_given() {
            Contained(notified).await;
        }
    }

    /// Parks the thread until the signal is given, for at most `limit`. Returns `true` if the signal was given.
    pub(super) fn park(&self, limit: Duration) -> bool {
        // The wait uses std's clock, since tokio's clock may be paused in tests.
        let start = Instant::now();
        let waker = Waker::from(Arc::new(StopWaker(thread::current())));
        let mut given = pin!(self.given());
        loop {
            if given.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return true;
            }
            let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else { return false };
            thread::park_timeout(left);
        }
    }

    /// Returns the token that is cancelled when the signal is given.
    pub(super) fn token(&self) -> &CancellationToken {
        if self.is_given() {
            // `give` may not have come so far yet.
            self.cancel_token();
        }
        &self.token
    }

    fn cancel_token(&self) {
        let _ = catch(|| self.token.cancel());
    }
}

/// Unparks a thread.
struct StopWaker(Thread);

impl Wake for StopWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn given_signal_wakes_its_waiters_and_holds_up_no_later_one() {
        let signal = StopSignal::default();
        let mut waiter = task::spawn(signal.given());
        assert_pending!(waiter.poll());
        assert!(!signal.is_given() && !signal.park(Duration::ZERO));
        signal.give();
        assert!(waiter.is_woken());
        assert_ready!(waiter.poll());
        assert_ready!(task::spawn(signal.given()).poll());
        assert!(signal.is_given() && signal.park(Duration::MAX));
    }

    #[test]
    fn signal_given_before_the_first_poll_of_a_waiter_is_not_missed() {
        let signal = StopSignal::default();
        let mut waiter = task::spawn(signal.given());
        signal.give();
        assert_ready!(waiter.poll());
    }

    #[test]
    fn tokens_taken_before_and_after_the_signal_are_cancelled() {
        let (before, after) = (StopSignal::default(), StopSignal::default());
        let token = before.token().clone();
        assert!(!token.is_cancelled());
        before.give();
        after.give();
        assert!(token.is_cancelled() && before.token().is_cancelled() && after.token().is_cancelled());
    }

    #[test]
    fn token_taken_while_the_signal_is_given_is_cancelled() {
        for _ in 0..1_000 {
            let signal = Arc::new(StopSignal::default());
            let giver = thread::spawn({
                let signal = Arc::clone(&signal);
                move || signal.give()
            });
            let token = signal.token().clone();
            giver.join().unwrap_or_else(|_| panic!("giving the signal does not panic"));
            assert!(token.is_cancelled());
        }
    }

    #[test]
    fn waiter_that_is_woken_finds_every_clone_of_the_token_cancelled() {
        for _ in 0..200 {
            let signal = Arc::new(StopSignal::default());
            let token = signal.token().clone();
            let giver = thread::spawn({
                let signal = Arc::clone(&signal);
                move || signal.give()
            });
            assert!(signal.park(Duration::from_secs(60)));
            assert!(signal.token().is_cancelled());
            giver.join().unwrap_or_else(|_| panic!("giving the signal does not panic"));
            assert!(token.is_cancelled());
        }
    }

    /// The waker of a waiter runs on the thread that gives the signal, in the middle of it.
    #[test]
    fn waker_of_a_waiter_finds_the_token_cancelled() {
        struct Look(CancellationToken, AtomicBool);
        impl Wake for Look {
            fn wake(self: Arc<Self>) {
                self.1.store(self.0.is_cancelled(), Ordering::Relaxed);
            }
        }
        let signal = StopSignal::default();
        let look = Arc::new(Look(signal.token().clone(), AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&look));
        let mut given = pin!(signal.given());
        assert!(given.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        signal.give();
        assert!(look.1.load(Ordering::Relaxed), "the waiter was woken before the token was cancelled");
    }

    #[test]
    fn parked_thread_continues_when_the_signal_is_given() {
        let signal = Arc::new(StopSignal::default());
        let parked = thread::spawn({
            let signal = Arc::clone(&signal);
            move || signal.park(Duration::from_secs(60))
        });
        signal.give();
        assert_eq!(parked.join().ok(), Some(true));
    }
}
