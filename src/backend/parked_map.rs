//! [`ParkedMap`], which keeps what the last holders of locks leave for the next callers in this process.

use std::collections::HashMap;

use super::lock_backend::LockName;
use crate::sync::{Mutex, lock};

/// One value for each lock, until the domain is disconnected.
///
/// Callers drop the returned values outside the mutex, because dropping a turn releases its lock.
#[derive(Debug)]
pub(super) struct ParkedMap<T>(Mutex<Option<HashMap<LockName, T>>>);

impl<T> ParkedMap<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(HashMap::new())))
    }

    /// Parks a value. Returns the previous value, or the value itself if the domain is disconnected.
    pub(super) fn park(&self, name: LockName, value: T) -> Option<T> {
        // The previous value is outdated: only one caller of a process has the turn, and this caller parks the newest
        // value.
        match &mut *lock(&self.0) {
            Some(all) => all.insert(name, value),
            None => Some(value),
        }
    }

    /// Parks a value if none is parked. Returns `false` if a value is parked already, or if the domain is disconnected.
    pub(super) fn park_first(&self, name: LockName, value: T) -> bool {
        match &mut *lock(&self.0) {
            Some(all) if !all.contains_key(&name) => all.insert(name, value).is_none(),
            _ => false,
        }
    }

    /// Takes the parked value if `is_wanted` returns `true` for it.
    pub(super) fn unpark_if(&self, name: &LockName, is_wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut all = lock(&self.0);
        let all = all.as_mut()?;
        if all.get(name).is_some_and(is_wanted) { all.remove(name) } else { None }
    }

    /// Takes all values that are parked for callers of a guard.
    pub(super) fn unpark_all(&self, guard: &str) -> Vec<T> {
        let mut all = lock(&self.0);
        all.iter_mut().flat_map(|all| all.extract_if(|name, _| name.guard() == guard)).map(|(_, left)| left).collect()
    }

    /// Takes all values. No value can be parked afterwards.
    pub(super) fn close(&self) -> Option<HashMap<LockName, T>> {
        lock(&self.0).take()
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.0).is_none()
    }

    /// Returns the number of parked values.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).as_ref().map_or(0, HashMap::len)
    }
}
