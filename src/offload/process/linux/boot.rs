//! [`worker_guard`], which turns the program into a zygote, before `main` begins or where `main` calls it.

#![allow(unsafe_code, reason = "the constructor is placed in a section of the executable file")]

use std::env;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FileType;
use rustix::net::SocketType;

use super::{system, zygote};

/// The environment variable that marks a zygote. The zygote removes it as soon as it starts.
pub(super) const VARIABLE: &str = "ONELANE_ZYGOTE";
/// The value of the variable. Two versions of this crate in one program don't understand each other's messages.
pub(super) const VARIABLE_VALUE: &str = env!("CARGO_PKG_VERSION");

/// `true` once this process has looked for the variable, so that a zygote of this program would never run `main`.
static IS_PREPARED: AtomicBool = AtomicBool::new(false);

/// What to do if a zygote of this program would not run as a zygote.
pub(super) const ADVICE: &str = "call onelane::offload::process::worker_guard() first in main, before a runtime or a \
                                 thread is started (so not in an async main), or enable the feature \
                                 `process-constructor`";

/// The loader calls the functions of this section before `main`.
#[cfg(feature = "process-constructor")]
#[used]
// SAFETY: The section holds functions of this type. This function needs nothing that other constructors prepare: it
// reads the environment, which the C library has set up.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn construct() {
        worker_guard();
    }
    construct
};

/// See [`worker_guard`](crate::offload::process::worker_guard).
pub(crate) fn worker_guard() {
    if is_prepared() {
        return;
    }
    // With several threads, `main` has begun long ago, and a zygote of this program would fail in the same way.
    let is_early = system::threads().is_ok_and(|threads| threads == 1);
    IS_PREPARED.store(is_early, Ordering::Relaxed);
    if env::var_os(VARIABLE).is_some_and(|value| value == VARIABLE_VALUE) && stdin_is_channel() {
        if !is_early {
            let _ = writeln!(io::stderr(), "worker_guard() was called after a thread was started: {ADVICE}");
            system::exit_now(1);
        }
        // SAFETY: `main` has not begun, or calls this function first, so no other thread reads the environment.
        unsafe { system::remove_variable(VARIABLE) };
        // SAFETY: `main` has not begun, or has done nothing yet. No worker needs files that other constructors have
        // opened.
        if let Err(error) = unsafe { system::close_from(3) } {
            let _ = writeln!(io::stderr(), "closing the files of the server failed: {error}");
            system::exit_now(1);
        }
        zygote::main();
    }
}

/// Returns `true` if a zygote of this program would run as a zygote, and not as another server.
pub(super) fn is_prepared() -> bool {
    #[cfg(feature = "process-constructor")]
    std::hint::black_box(&CONSTRUCTOR);
    IS_PREPARED.load(Ordering::Relaxed)
}

/// Returns `true` if the standard input is the socket of a zygote. The variable alone may have been set by hand.
fn stdin_is_channel() -> bool {
    let stdin = rustix::stdio::stdin();
    let is_socket = rustix::fs::fstat(stdin).is_ok_and(|status| FileType::from_raw_mode(status.st_mode).is_socket());
    is_socket && rustix::net::sockopt::socket_type(stdin) == Ok(SocketType::SEQPACKET)
}
