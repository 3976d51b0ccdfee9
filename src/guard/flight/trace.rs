//! The `tracing` events of single flights, with one function for each event. A run that succeeds calls none of these
//! functions.

use std::hash::Hash;
use std::time::Duration;

use tracing::{Level, field};

use super::error::FlightErrorKind;
use super::flight_map::FlightMap;
use super::run_error::RunError;
use crate::guard::key_map::{EntryId, Hash64};
use crate::panic::Panic;
use crate::rounded::rounded;
use crate::trace::{emit, is_enabled};

#[cold]
pub(super) fn refused<E>(flight: &str, key_hash: Option<Hash64>, error: &RunError<E>) {
    let key_hash = key_hash.map(field::display);
    let error = match error {
        RunError::WouldDeadlock => {
            let error = FlightErrorKind::WouldDeadlock;
            return emit!(ERROR, flight, key_hash, %error, "caller refused: a bug in the service");
        }
        RunError::Closed => FlightErrorKind::Closed,
        _ => FlightErrorKind::TooManyWaiters,
    };
    emit!(DEBUG, flight, key_hash, %error, "caller refused");
}

#[cold]
pub(super) fn timed_out(flight: &str, key_hash: Option<Hash64>, waited: Duration) {
    emit!(DEBUG, flight, key_hash = key_hash.map(field::display), waited = ?rounded(waited), "caller timed out");
}

#[cold]
pub(super) fn cancelled(flight: &str, key_hash: Hash64) {
    emit!(DEBUG, flight, %key_hash, "run cancelled: every caller has left");
}

/// Reports a run that is about to be completed.
#[cold]
pub(super) fn panicked<K, T, E>(map: &FlightMap<K, T, E>, entry: EntryId, panic: &Panic)
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    if is_enabled(Level::WARN) {
        let (flight, key_hash) = (map.name, map.shard(entry).key_hash(entry.index()));
        emit!(WARN, flight, %key_hash, %panic, "run panicked");
    }
}

/// Reports a run whose work is about to be dropped.
#[cold]
pub(super) fn cut_off<K, T, E>(map: &FlightMap<K, T, E>, entry: EntryId)
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    if is_enabled(Level::WARN) {
        let (flight, key_hash) = (map.name, map.shard(entry).key_hash(entry.index()));
        let reason = "its runtime ended: close the flight and wait for drained() first";
        emit!(WARN, flight, %key_hash, reason, "run dropped before it completed");
    }
}
