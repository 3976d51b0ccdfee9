//! The `tracing` events of leases.

use super::error::BackendError;
use crate::trace::emit;

/// A lease was not renewed in time.
#[cold]
pub(super) fn lease_expired(guard: &str) {
    emit!(WARN, guard, "lease lost: it was not renewed in time");
}

/// The store reported that the lease is no longer held.
#[cold]
pub(super) fn lease_taken(guard: &str) {
    emit!(WARN, guard, "lease lost: the store does not hold it any more");
}

/// The store did not renew leases.
#[cold]
pub(super) fn renewal_failed(error: &BackendError, leases: usize) {
    emit!(WARN, error = %error, leases, "leases not renewed, which is repeated until they expire");
}

/// The store did not answer, and the caller runs without its lock.
#[cold]
pub(super) fn ran_locally(domain: &str, error: &BackendError) {
    emit!(WARN, domain, error = %error, "caller admitted in this process only: the store does not answer");
}
