//! The `tracing` events of pools and portals, with one function for each event. A task that succeeds calls none of
//! these functions.

use std::io;
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::debug;

use super::error::{OffloadError, OffloadErrorKind};
use super::job::TaskOptions;
use crate::panic::Panic;
use crate::rounded::rounded;
use crate::trace::emit;

#[cold]
pub(super) fn refused(pool: &str, options: &TaskOptions, error: &OffloadError) {
    let label = options.label.as_deref();
    if error.kind() == OffloadErrorKind::NoRuntime {
        emit!(ERROR, pool, label, %error, "task refused: a bug in the service");
    } else {
        emit!(DEBUG, pool, label, %error, "task refused");
    }
}

#[cold]
pub(super) fn thread_missing(pool: &str, error: &io::Error) {
    emit!(WARN, pool, %error, "starting a thread failed");
}

#[cold]
pub(super) fn timed_out(pool: &str, label: Option<&str>, waited: Option<Duration>) {
    emit!(DEBUG, pool, label, waited = waited.map(rounded).map(debug), "task timed out before it started");
}

#[cold]
pub(super) fn overran(pool: &str, label: Option<&str>, waited: Duration) {
    emit!(DEBUG, pool, label, waited = ?rounded(waited), "task timed out: it continues without its caller");
}

#[cold]
pub(super) fn left(pool: &str, options: &TaskOptions) {
    emit!(
        DEBUG,
        pool,
        label = options.label.as_deref(),
        waited = waited(options),
        "queued task cancelled: its caller has left"
    );
}

#[cold]
pub(super) fn abandoned(pool: &str, options: &TaskOptions) {
    let label = options.label.as_deref();
    emit!(DEBUG, pool, label, waited = waited(options), "task abandoned: it continues without its caller");
}

#[cold]
pub(super) fn panicked(pool: &str, label: Option<&str>, panic: &Panic) {
    emit!(WARN, pool, label, %panic, "task panicked");
}

#[cold]
pub(super) fn portal_task_panicked(panic: &Panic) {
    emit!(WARN, %panic, "portal task panicked");
}

/// Returns the time since the task was submitted, if it is known.
fn waited(options: &TaskOptions) -> Option<tracing::field::DebugValue<Duration>> {
    options.submitted_at.map(|submitted_at| debug(rounded(Instant::now().saturating_duration_since(submitted_at))))
}
