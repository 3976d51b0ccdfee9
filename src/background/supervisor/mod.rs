//! [`Supervisor`], what a host decides: which service starts, is restarted, given up, stopped and cut off, and when.
//!
//! It is pure. News and the time go in, [`Action`]s come out; [`supervise`] is the shell that waits and acts.
//!
//! ```text
//!            ╭───────────────── its delay is over ─────────────────╮
//!            ▼                                                     │
//! Waiting ▶ Starting ─ ok ─▶ Running ─ ends ─▶ CleaningUp ─ done ─▶ BackingOff | Held | Ended
//!            │                 │                  │    ▲
//!            ╰──── told ─┬─────╯                  │    ╰─── the thread is stuck, stop runs elsewhere
//!                        ▼                        ▼         │
//!                     Stopping ─ late ─▶ CutOff ──┼─ late ──╯
//!                                                 ╰─ late ─▶ CleanUpCutOff
//! ```
//!
//! # Invariants
//!
//! 1. A service starts when all that it depends on were ready once, and is told to stop when all that depend on it have
//!    ended: by then none of them can need it. (When time is short, or the stop is forced, all are told at once.)
//! 2. Each generation comes to [`Supervisor::over`] exactly once. News of another one are ignored.
//! 3. Whatever waits has a timer: start, stop, cut-off, clean-up, backoff, the host's start, its drain, its deadline. What is
//!    held waits for a service, which has one.
//! 4. After the deadline of a stop nothing is waited for.
//! 5. Errors are the services'. What may drop the last of one is [discarded](crate::panic::discard), and what is told of one
//!    is told within a [`catch`](crate::panic::catch), so that a panic in one of them is not the supervisor's.

mod core;
mod errands;
mod gather;
mod lag;
mod news;
mod over;
#[cfg(test)]
mod property_tests;
mod stopping;
mod supervise;
mod timers;
mod unit;

pub(crate) use core::{Limits, Supervisor};
pub(crate) use supervise::{Shell, supervise};
pub(crate) use unit::{Edges, Unit};
