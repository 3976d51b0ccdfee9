//! The capture of stacks on Linux with glibc: a signal makes the thread record its own stack.
//!
//! ```text
//! watch                                       blocked thread
//! capture ── exchange: a request ── tgkill ──▶ signal: the handler
//!                                                 │ unwinds
//! symbols ◀─────────── exchange: addresses ───────┘
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `capture` | [`Capture`], which requests a stack and waits for it |
//! | `exchange` | the memory that both sides share |
//! | `signal` | the handler, and the system calls (`unsafe`) |
//! | `unwinder` | the checks that unwinding in a handler is safe (`unsafe`) |
//! | `symbols` | the names of the functions at the addresses |

mod capture;
#[cfg(test)]
mod capture_tests;
mod exchange;
mod signal;
mod symbols;
mod unwinder;

pub(in crate::watch) use self::capture::Capture;
