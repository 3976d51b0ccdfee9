//! Futures polled by hand.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

/// Polls a future once and returns its output.
///
/// # Panics
///
/// If the future is not ready.
#[track_caller]
pub fn poll_once<F: Future>(future: F) -> F::Output {
    match poll(pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the future is ready at its first poll"),
    }
}

/// Polls a future with a waker that does nothing.
pub fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls a future and returns its panic, if any. The future is kept, as by a `catch_unwind` around it.
///
/// # Errors
///
/// The payload of the panic.
pub fn poll_caught<F: Future + ?Sized>(future: Pin<&mut F>) -> thread::Result<Poll<F::Output>> {
    catch_unwind(AssertUnwindSafe(|| poll(future)))
}

/// Panics when it is woken. No message is printed.
#[derive(Debug)]
pub struct PanickingWaker;

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        resume_unwind(Box::new("woken"));
    }
}
