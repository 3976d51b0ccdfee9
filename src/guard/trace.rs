//! The `tracing` events of guards, one function each. None of them is on the uncontended path.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Level;
use tracing::field::{debug, display};

use super::core::GuardCore;
use super::error::AcquireError;
use super::error_kind::AcquireErrorKind;
use super::key_map::Hash64;
use super::source::PermitSource;
use crate::error_chain::ErrorChain;
use crate::rounded::rounded;
use crate::trace::{emit, is_enabled};

/// The start of a wait and the hash of its key, for the event at the end of the wait.
#[derive(Debug)]
pub(super) struct WaitRecord {
    since: Instant,
    key_hash: Option<Hash64>,
}

/// Records the start of a wait, if its events are enabled.
#[inline]
pub(super) fn record_wait(source: &impl PermitSource, since: Option<Instant>) -> Option<Box<WaitRecord>> {
    is_enabled(Level::DEBUG)
        .then(|| Box::new(WaitRecord { since: since.unwrap_or_else(Instant::now), key_hash: source.key_hash() }))
}

#[cold]
pub(super) fn refused(source: &impl PermitSource, wait: Option<&WaitRecord>, error: &AcquireError) {
    let guard = source.core().name;
    let key_hash = || wait.and_then(|wait| wait.key_hash).or_else(|| source.key_hash()).map(display);
    match error.kind() {
        AcquireErrorKind::WouldDeadlock | AcquireErrorKind::BlockingInAsync => {
            emit!(ERROR, guard, key_hash = key_hash(), %error, "caller refused: a bug in the service");
        }
        AcquireErrorKind::NotConnected | AcquireErrorKind::Unavailable => {
            let error = ErrorChain(error);
            emit!(WARN, guard, key_hash = key_hash(), %error, "caller refused: the guard has no store at the moment");
        }
        _ => {
            let waited = || wait.map(|wait| debug(rounded(wait.since.elapsed())));
            emit!(DEBUG, guard, key_hash = key_hash(), waited = waited(), %error, "caller refused");
        }
    }
}

#[cold]
pub(super) fn timed_out(guard: &GuardCore, wait: Option<&WaitRecord>, waited: Duration) {
    let (guard, key_hash) = (guard.name, wait.and_then(|wait| wait.key_hash).map(display));
    emit!(DEBUG, guard, key_hash, waited = ?rounded(waited), "caller timed out");
}

#[cold]
pub(super) fn left(guard: &GuardCore, wait: Option<&WaitRecord>) {
    let (guard, key_hash) = (guard.name, wait.and_then(|wait| wait.key_hash).map(display));
    let waited = || wait.map(|wait| debug(rounded(wait.since.elapsed())));
    emit!(DEBUG, guard, key_hash, waited = waited(), "caller left the queue");
}

#[cold]
pub(super) fn expired(guard: &GuardCore, key_hash: Option<Hash64>, grants: usize) {
    let (guard, key_hash) = (guard.name, key_hash.map(display));
    emit!(WARN, guard, key_hash, grants, "grants expired: their callers did not take them in time");
}

/// Returns the hash of the key for the later events of the run.
#[cold]
pub(super) fn detached(source: &impl PermitSource) -> Option<Hash64> {
    // The later events have the level `WARN`, so the hash is needed only if that level is enabled.
    let key_hash = if is_enabled(Level::WARN) { source.key_hash() } else { None };
    let guard = source.core().name;
    emit!(DEBUG, guard, key_hash = key_hash.map(display), "run detached: it continues without its caller");
    key_hash
}

#[cold]
pub(super) fn cut_off(guard: &GuardCore, key_hash: Option<Hash64>, reason: &str) {
    let (guard, key_hash) = (guard.name, key_hash.map(display));
    emit!(WARN, guard, key_hash, reason, "run dropped before it completed");
}

#[cold]
pub(super) fn panicked(guard: &GuardCore, key_hash: Option<Hash64>) {
    let (guard, key_hash) = (guard.name, key_hash.map(display));
    emit!(WARN, guard, key_hash, "run panicked without its caller");
}

#[cfg(any(feature = "tower", feature = "actix-web"))]
#[cold]
pub(super) fn overrun(source: &impl PermitSource) {
    let (guard, key_hash) = (source.core().name, || source.key_hash().map(display));
    emit!(
        WARN,
        guard,
        key_hash = key_hash(),
        "response body took longer than body_hold_max: the next request runs while it is sent"
    );
}
