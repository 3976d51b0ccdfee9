//! [`Capture`], which captures the stack of another thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::signal::{self, EXCHANGE, Handler};
use super::{symbols, unwinder};
use crate::watch::error::WatchError;
use crate::watch::slot::ThreadName;
use crate::watch::stack::frames::Stack;

/// How long a thread may take to record its stack. The handler takes less than a millisecond. A thread that blocks the
/// signal, or that waits for a disk, does not run the handler at all.
const PATIENCE: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_micros(50);

/// Held by the watch that captures a stack, so that one watch captures at a time.
static TURN: Mutex<()> = Mutex::new(());
/// `true` once the handler has been installed. If another library installs a handler later, that handler must call the
/// previous one, so the handler is never installed a second time.
static IS_INSTALLED: Mutex<bool> = Mutex::new(false);
/// `true` once the debug information of the program has been read.
static HAS_SYMBOLS: AtomicBool = AtomicBool::new(false);

/// Captures the stacks of other threads. The value shows that the handler is installed.
#[derive(Debug)]
pub(in crate::watch) struct Capture(());

impl Capture {
    /// Installs the handler, unless an earlier call has installed it.
    pub(in crate::watch) fn install() -> Result<Self, WatchError> {
        let mut is_installed = IS_INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_installed {
            if !unwinder::is_async_signal_safe() {
                return Err(WatchError::StacksUnavailable(
                    "they need glibc 2.35 or newer, linked dynamically, with the libgcc of GCC 12 or newer: update the \
                     system, or leave capture_stacks() out",
                ));
            }
            if signal::handler() == Handler::Other || !signal::install() {
                return Err(WatchError::StacksUnavailable(
                    "the program has another handler for SIGURG: build the watch before that handler is installed, or \
                     leave capture_stacks() out",
                ));
            }
            *is_installed = true;
            read_symbols();
        }
        Ok(Self(()))
    }

    /// Captures the stack of a thread of this process. Returns `None` if the thread has ended, does not respond, is
    /// inside libgcc, or is in `block_in_place`. Also returns `None` until the debug information of the program has
    /// been read.
    pub(in crate::watch) fn stack_of(&self, thread: &ThreadName) -> Option<Stack> {
        let addresses = HAS_SYMBOLS.load(Ordering::Relaxed).then(|| self.addresses_of(thread.tid))??;
        symbols::stack(&addresses)
    }

    /// Returns the addresses of the frames, from the innermost one outwards.
    #[allow(clippy::unused_self, reason = "the value shows that the handler is installed")]
    pub(super) fn addresses_of(&self, tid: libc::pid_t) -> Option<Vec<usize>> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + PATIENCE;
        let pause = || {
            thread::sleep(PAUSE);
            Instant::now() < deadline
        };
        while !EXCHANGE.request(tid) {
            if !pause() {
                return None;
            }
        }
        let mut is_running = signal::send(tid);
        while is_running {
            is_running = pause();
            if let Some(addresses) = EXCHANGE.take(tid) {
                return Some(addresses).filter(|addresses| !addresses.is_empty());
            }
        }
        EXCHANGE.withdraw(tid);
        None
    }
}

/// Reads the debug information of the program on a separate thread, because this can take half a second in a debug
/// build. Until then, reports have no stack, but they are not late.
fn read_symbols() {
    let read = || {
        // The frames of this thread are in the program, the standard library and the C library, as those of a report.
        let frames = backtrace::Backtrace::new_unresolved();
        let addresses: Vec<usize> = frames.frames().iter().map(|frame| frame.ip() as usize).collect();
        drop(symbols::stack(&addresses));
        HAS_SYMBOLS.store(true, Ordering::Relaxed);
    };
    let thread = thread::Builder::new().name("onelane-watch".to_owned()).spawn(read);
    // Without the thread, the first report reads the debug information, and is late.
    HAS_SYMBOLS.fetch_or(thread.is_err(), Ordering::Relaxed);
}
