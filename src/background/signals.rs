//! [`SignalStream`], the signals that ask a process to end.

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

/// The hosts of the process that listen, and will do something about a signal.
static LISTENING: AtomicUsize = AtomicUsize::new(0);

/// Whether a host listens to signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signals {
    /// SIGTERM and SIGINT, or Ctrl-C where there are no signals.
    Listen,
    Ignore,
}

/// The signals as they come. Without any, it waits for ever.
#[derive(Debug)]
pub(crate) struct SignalStream {
    source: Option<Source>,
    is_counted: bool,
}

impl SignalStream {
    pub(crate) fn listen(signals: Signals) -> Self {
        let source = match signals {
            Signals::Listen => Source::open().inspect_err(trace::no_signals).ok(),
            Signals::Ignore => None,
        };
        if source.is_some() {
            LISTENING.fetch_add(1, Ordering::Relaxed);
        }
        Self { is_counted: source.is_some(), source }
    }

    /// The number of the next one.
    pub(crate) async fn recv(&mut self) -> i32 {
        match &mut self.source {
            Some(source) => source.recv().await,
            None => pending().await,
        }
    }

    fn stop_listening(&mut self) {
        if mem::take(&mut self.is_counted) {
            // The other side is the load in `exit_on_another`.
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
struct Source {
    terminate: Signal,
    interrupt: Signal,
}

#[cfg(unix)]
impl Source {
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
struct Source;

#[cfg(not(unix))]
impl Source {
    fn open() -> io::Result<Self> {
        Ok(Self)
    }

    /// Ctrl-C, with the number of SIGINT.
    async fn recv(&mut self) -> i32 {
        if let Err(error) = tokio::signal::ctrl_c().await {
            trace::no_signals(&error);
            return pending().await;
        }
        2
    }
}

/// Ends the process after `limit`, if there is one, with this exit code.
#[allow(clippy::exit, reason = "it is what the service has asked for, where the process can't end by itself")]
pub(crate) async fn exit_after(limit: Option<Duration>, exit_code: u8) {
    let Some(limit) = limit else { return };
    sleep(limit).await;
    trace::process_is_stuck(limit);
    std::process::exit(exit_code.into());
}

/// Tells the one who waits in [`exit_on_another`] that another host has come to it.
static WATCHER: Mutex<Option<CancellationToken>> = Mutex::new(None);

/// Once tokio has listened to a signal, its default action never comes back. So a signal after the host has ended ends the
/// process here, where otherwise a runtime that waits for a stuck thread could be stopped by SIGKILL alone.
///
/// Of all hosts of the process that have ended, the last one waits, and the others need no thread any more.
#[allow(clippy::exit, reason = "a signal asks the process to end, and nothing is left that it could end with")]
pub(crate) async fn exit_on_another(mut signals: SignalStream) {
    if signals.source.is_none() {
        return;
    }
    let replaced = CancellationToken::new();
    // Before it stops to listen: whoever sees that it does not listen any more sees that it was replaced, too. Otherwise it
    // might take a signal that this host has obeyed, and that it is late to hear of, for another one.
    if let Some(before) = lock(&WATCHER).replace(replaced.clone()) {
        before.cancel();
    }
    signals.stop_listening();
    loop {
        let signal = tokio::select! {
            biased;
            () = replaced.cancelled() => return,
            signal = signals.recv() => signal,
        };
        if LISTENING.load(Ordering::Acquire) == 0 && !replaced.is_cancelled() {
            trace::exits_at_once(signal);
            std::process::exit(128 + signal);
        }
    }
}
