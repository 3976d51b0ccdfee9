//! [`Supervisor`], which decides when each service is started, restarted, stopped, aborted or given up.
//!
//! The supervisor is pure: events and the time go in, [`Decisions`](decisions::Decisions) come out. [`SupervisorTask`]
//! is the shell around it, which waits for messages and executes the decisions.
//!
//! | event | decided in |
//! |---|---|
//! | a command of the host or its handle | `commands` |
//! | an event of a generation | `generation_events` |
//! | a timer | `timeouts` |
//! | the end of a generation | `restarts` |
//! | the stop of the host | `shutdown` |
//!
//! The states of a service:
//!
//! ```text
//!            ╭──────────────── its backoff is over ─────────────────╮
//!            ▼                                                      │
//! Waiting ▶ Starting ─ Ok ─▶ Running ─ ends ─▶ CleaningUp ─ done ─▶ BackingOff | Held | Ended
//!            │                 │                  │    ▲
//!            ╰── stop requested┬╯                 │    ╰─── its thread is stuck, `stop` runs on another one
//!                              ▼                  ▼         │
//!                        Stopping ─ late ─▶ Aborting ─ late ╯
//!                                                 ╰─ late ─▶ AbortingCleanUp
//! ```
//!
//! A service with a guard is `StandingBy` before each `Starting`, until its guard admits it.
//!
//! # Invariants
//!
//! 1. A service starts once all services that it depends on have been ready, and is asked to stop once all of its
//!    dependents have ended, so that none of them can need it. In the last part of a stop, and if the stop is forced,
//!    all services are asked at the same time.
//! 2. Each generation reaches [`Supervisor::on_generation_ended`] exactly once. Events of other generations are
//!    ignored.
//! 3. Whatever waits has a timer: start, stop, abort, clean-up, backoff, and the host's start, drain, destructors and
//!    deadline. A held service waits for another service, which has a timer, and a service that stands by waits for its
//!    guard.
//! 4. No phase of a stop takes the time of a later one: each ends when its share in the `stop_schedule` is over.
//! 5. While the services stop, each is dropped once it and all of its dependents have ended. The host ends when all
//!    services have been dropped, except those that still occupy a thread.
//! 6. After the deadline of a stop, the host waits for nothing.
//! 7. Errors belong to the services. Code that may drop the last reference to one [discards](crate::panic::discard) it,
//!    and code that shows one runs inside [`catch`](crate::panic::catch), so that a panic in it does not end the
//!    supervisor.

mod commands;
mod decisions;
mod event_loop;
mod executor;
mod generation_events;
mod guard_tasks;
#[cfg(all(test, feature = "guard"))]
mod property_tests;
mod releaser;
mod restarts;
mod service_slot;
mod shutdown;
mod state;
mod stop_schedule;
mod timeouts;
mod timer_queue;
mod work_drain;

pub(crate) use event_loop::{StartRequest, SupervisorTask};
pub(crate) use service_slot::{Dependencies, ServiceSlot};
pub(crate) use state::{HostTimeouts, Supervisor};
pub(crate) use work_drain::WorkDrain;
