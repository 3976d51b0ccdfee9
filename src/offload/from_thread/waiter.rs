//! [`Waiter`], which polls futures on a thread that may block.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread, ThreadId};

use tokio::task::coop::unconstrained;

/// Polls futures on this thread, and parks it while they wait.
///
/// It is not `Handle::block_on`, which panics where one is inside another on the same thread. That is so where a task waits
/// for async code that has another task run, on the spot, because both are of one pool.
#[derive(Debug)]
pub(crate) struct Waiter {
    bell: Arc<Bell>,
    waker: Waker,
}

/// Rung when a future is to be polled again. That somebody else on this thread has parked meanwhile, and has taken its
/// `unpark` for his own, changes nothing: it has rung.
#[derive(Debug)]
struct Bell {
    thread: Thread,
    has_rung: AtomicBool,
}

impl Waiter {
    pub(crate) fn here() -> Self {
        let bell = Arc::new(Bell { thread: thread::current(), has_rung: AtomicBool::new(false) });
        Self { waker: Waker::from(Arc::clone(&bell)), bell }
    }

    /// Whose it is.
    pub(crate) fn thread(&self) -> ThreadId {
        self.bell.thread.id()
    }

    /// Polls once.
    ///
    /// A budget is not for a thread that has nothing else to do: if it were used up by a future around this one, this one
    /// would never be ready.
    pub(crate) fn poll<F: Future>(&self, future: Pin<&mut F>) -> Poll<F::Output> {
        pin!(unconstrained(future)).poll(&mut Context::from_waker(&self.waker))
    }

    /// Waits until what was polled is to be polled again.
    pub(crate) fn park(&self) {
        // Acquire: with the Release in `ring`, what was done before the wake is seen by the next poll.
        while !self.bell.has_rung.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }

    /// Polls until it is ready.
    pub(crate) fn wait<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = self.poll(future.as_mut()) {
                return output;
            }
            self.park();
        }
    }
}

impl Bell {
    fn ring(&self) {
        self.has_rung.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
