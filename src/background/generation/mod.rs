//! One start-run-stop of a service, on the side of the service.
//!
//! ```text
//!   supervisor ── begin ──▶ task or thread:  start ──▶ run ──▶ its children ──▶ stop
//!       ▲  │                                   │        │                        │
//!       │  ╰── Line: told to stop, cut off ───▶│◀───────┴────────────────────────╯
//!       ╰───── News: started, ended, cleaned up, changed, lost
//! ```
//!
//! # Invariants
//!
//! 1. `stop` is called once for each `start` that returned `Ok`: by the generation itself, or, if it is stuck in `run`, by a
//!    thread of its own. Whoever wins [`Line::claim_clean_up`] calls it.
//! 2. A generation that goes away tells so: [`News::Lost`] is sent where the last word was not said, as when its runtime
//!    drops it.
//! 3. There is at most one [`News::Changed`] under way for a generation, so a service that changes its mind all the time
//!    does not fill the queue.

mod blocking_run;
mod children;
mod cut;
mod inside;
mod line;
mod run;
mod stop_signal;

pub(crate) use blocking_run::Blocking;
pub(crate) use inside::is_inside;
pub(crate) use line::{Condition, Ended, Line, News, Phase};
pub(crate) use run::Async;

use std::sync::Arc;

use super::placement::Placement;
use super::status::ExitKind;

/// What a supervisor can do with a service, whatever its type.
pub(crate) trait Runs: Send + Sync {
    /// Whether it needs a thread.
    fn is_blocking(&self) -> bool;

    /// Begins a generation. News of it come through the line.
    fn begin(self: Arc<Self>, placement: Placement, line: Arc<Line>);

    /// Calls `stop` on a thread of its own, unless the generation has come to it by itself.
    fn clean_up_elsewhere(self: Arc<Self>, line: Arc<Line>, exit: ExitKind);
}
