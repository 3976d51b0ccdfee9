//! [`SignalStream`], the signals that ask a process to exit.

use std::future::pending;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{io, mem};

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::background::trace;
use crate::sync::lock;

/// The number of hosts in the process that listen for signals and will handle the next one.
static LISTENING: AtomicUsize = AtomicUsize::new(0);

/// Selects whether a host listens for signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signals {
    /// Listen for SIGTERM and SIGINT, or for Ctrl-C on systems without signals.
    Listen,
    Ignore,
}

/// Receives signals. Without a source it waits forever.
#[derive(Debug)]
pub(crate) struct SignalStream {
    source: Option<OsSignals>,
    is_counted: bool,
}

impl SignalStream {
    pub(crate) fn listen(signals: Signals) -> Self {
        let source = match signals {
            Signals::Listen => OsSignals::open().inspect_err(trace::signals_unavailable).ok(),
            Signals::Ignore => None,
        };
        if source.is_some() {
            LISTENING.fetch_add(1, Ordering::Relaxed);
        }
        Self { is_counted: source.is_some(), source }
    }

    /// Waits for the next signal and returns its number.
    pub(crate) async fn recv(&mut self) -> i32 {
        match &mut self.source {
            Some(source) => source.recv().await,
            None => pending().await,
        }
    }

    fn stop_listening(&mut self) {
        if mem::take(&mut self.is_counted) {
            // Pairs with the load in `exit_on_further_signal`.
            LISTENING.fetch_sub(1, Ordering::Release);
        }
    }
}

impl Drop for SignalStream {
    fn drop(&mut self) {
        self.stop_listening();
    }
}

#[cfg(unix)]
#[derive(Debug)]
struct OsSignals {
    terminate: Signal,
    interrupt: Signal,
}

#[cfg(unix)]
impl OsSignals {
    fn open() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn recv(&mut self) -> i32 {
        tokio::select! {
            Some(()) = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            Some(()) = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            else => pending().await,
        }
    }
}

#[cfg(not(unix))]
#[derive(Debug)]
struct OsSignals;

#[cfg(not(unix))]
impl OsSignals {
    fn open() -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits for Ctrl-C and returns the number of SIGINT.
    async fn recv(&mut self) -> i32 {
        if let Err(error) = tokio::signal::ctrl_c().await {
            trace::signals_unavailable(&error);
            return pending().await;
        }
        2
    }
}

/// Exits the process with `exit_code` after `limit`, if there is a limit.
#[allow(clippy::exit, reason = "`exit_within` requests it for a process that cannot end on its own")]
pub(crate) async fn exit_after(limit: Option<Duration>, exit_code: u8) {
    let Some(limit) = limit else { return };
    sleep(limit).await;
    trace::process_still_running(limit);
    std::process::exit(exit_code.into());
}

/// Cancelled when another host takes over in [`exit_on_further_signal`].
static WATCHER: Mutex<Option<CancellationToken>> = Mutex::new(None);

/// Waits for a signal after the host has ended, and then exits the process.
///
/// Once tokio has listened for a signal, the default action of that signal is never restored. Without this function,
/// only SIGKILL could end a process whose runtime waits for a stuck thread.
///
/// Of all hosts in the process that have ended, only the last one waits here. The others no longer need a thread.
#[allow(clippy::exit, reason = "a signal asks the process to exit, and no host is left that could do so in order")]
pub(crate) async fn exit_on_further_signal(mut signals: SignalStream) {
    if signals.source.is_none() {
        return;
    }
    let replaced = CancellationToken::new();
    // Replace the previous watcher before this host stops listening: a watcher that sees the lower count then also sees
    // that it was replaced. Otherwise the previous watcher might later receive a signal that this host has already
    // handled, and mistake it for a new one.
    if let Some(previous) = lock(&WATCHER).replace(replaced.clone()) {
        previous.cancel();
    }
    signals.stop_listening();
    loop {
        let signal = tokio::select! {
            biased;
            () = replaced.cancelled() => return,
            signal = signals.recv() => signal,
        };
        if LISTENING.load(Ordering::Acquire) == 0 && !replaced.is_cancelled() {
            trace::exiting_on_signal(signal);
            std::process::exit(128 + signal);
        }
    }
}
