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
    if IS_PREPARED.swap(true, Ordering::Relaxed) {
        return;
    }
    if env::var_os(VARIABLE).is_some_and(|value| value == VARIABLE_VALUE) && stdin_is_channel() {
        if system::threads().is_ok_and(|threads| threads != 1) {
            let _ = writeln!(io::stderr(), "call worker_guard() first in main, before anything starts a thread");
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
