//! Emits the `tracing` events of the crate. Each folder defines its events in a `trace.rs` of its own, and the page
//! `docs/events.md` lists all of them.

use tracing::Level;
use tracing::level_filters::LevelFilter;

use crate::panic::{catch_unrecorded, discard};

/// The target of every event.
pub(crate) const TARGET: &str = "onelane";

/// Emits an event: `emit!(DEBUG, guard, %error, "caller refused")`. Costs one load from memory if events of that level
/// are disabled.
macro_rules! emit {
    ($level:ident, $($event:tt)+) => {
        $crate::trace::emit_at(tracing::Level::$level, || {
            tracing::event!(target: $crate::trace::TARGET, tracing::Level::$level, $($event)+);
        })
    };
}

pub(crate) use emit;

/// Returns `true` if a subscriber may have enabled events of this level.
#[inline]
pub(crate) fn is_enabled(level: Level) -> bool {
    level <= LevelFilter::current()
}

#[inline]
pub(crate) fn emit_at(level: Level, event: impl FnOnce()) {
    if is_enabled(level) {
        emit_caught(event);
    }
}

/// Emits an event and catches a panic: subscribers are user code, and so is the `Display` of a field. The panic hook
/// has already reported the panic.
///
/// The location of a panic that is unwinding through the caller is kept.
#[cold]
fn emit_caught(event: impl FnOnce()) {
    if let Err(payload) = catch_unrecorded(event) {
        discard(payload);
    }
}
