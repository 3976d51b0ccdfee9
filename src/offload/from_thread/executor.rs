//! [`ThreadExecutor`], which polls futures on a thread that may block.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread, ThreadId};

/// Polls futures on the thread that created the executor, and parks the thread while the futures wait.
///
/// The executor does not use `Handle::block_on`, since tokio treats a thread inside `Handle::block_on` as one that runs
/// async tasks. A nested task of the same pool could block there only inside `block_in_place`, and where tokio refuses
/// that, only on a thread of its own. With this executor, the nested task runs on this thread as any other task does.
#[derive(Debug)]
pub(crate) struct ThreadExecutor {
    thread_waker: Arc<ExecutorWaker>,
    waker: Waker,
}

/// Wakes the thread. The flag records the wake-up, since other code on this thread may park in the meantime and consume
/// the `unpark`.
#[derive(Debug)]
struct ExecutorWaker {
    thread: Thread,
    is_woken: AtomicBool,
}

impl ThreadExecutor {
    /// Creates an executor for the current thread.
    pub(crate) fn current() -> Self {
        let thread_waker = Arc::new(ExecutorWaker { thread: thread::current(), is_woken: AtomicBool::new(false) });
        Self { waker: Waker::from(Arc::clone(&thread_waker)), thread_waker }
    }

    pub(crate) fn thread_id(&self) -> ThreadId {
        self.thread_waker.thread.id()
    }

    /// Polls a future once.
    pub(crate) fn poll<F: Future>(&self, future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&self.waker))
    }

    /// Parks the thread until the future that was polled is woken.
    pub(crate) fn park(&self) {
        // Acquire pairs with the Release in `wake_by_ref`: the next poll sees what was done before the wake.
        while !self.thread_waker.is_woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }

    /// Polls a future until it completes.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = self.poll(future.as_mut()) {
                return output;
            }
            self.park();
        }
    }
}

impl Wake for ExecutorWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
