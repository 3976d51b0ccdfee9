//! [`ParkedMap`], what the last holders of locks have left for the next callers in this process.

use std::collections::HashMap;

use super::lock_backend::LockName;
use crate::sync::{Mutex, lock};

/// One value for each lock, until the domain is disconnected.
///
/// Values are dropped by the caller, without the mutex: dropping a turn releases its lock.
#[derive(Debug)]
pub(super) struct ParkedMap<T>(Mutex<Option<HashMap<LockName, T>>>);

impl<T> ParkedMap<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(HashMap::new())))
    }

    /// Leaves a value. Returns what was left before, or the value itself if the domain is disconnected.
    pub(super) fn park(&self, name: LockName, value: T) -> Option<T> {
        // What was there is outdated: one caller of a process has the turn, and leaves the last word.
        match &mut *lock(&self.0) {
            Some(all) => all.insert(name, value),
            None => Some(value),
        }
    }

    /// Leaves a value if there is none. Returns `false` if there is one, or if the domain is disconnected.
    pub(super) fn park_first(&self, name: LockName, value: T) -> bool {
        match &mut *lock(&self.0) {
            Some(all) if !all.contains_key(&name) => all.insert(name, value).is_none(),
            _ => false,
        }
    }

    /// Takes what was left if `is_wanted` returns `true`.
    pub(super) fn unpark_if(&self, name: &LockName, is_wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut all = lock(&self.0);
        let all = all.as_mut()?;
        if all.get(name).is_some_and(is_wanted) { all.remove(name) } else { None }
    }

    /// Takes everything that was left for callers of a guard.
    pub(super) fn unpark_all(&self, guard: &str) -> Vec<T> {
        let mut all = lock(&self.0);
        all.iter_mut().flat_map(|all| all.extract_if(|name, _| name.guard() == guard)).map(|(_, left)| left).collect()
    }

    /// Takes everything that was left. Nothing more can be left afterwards.
    pub(super) fn close(&self) -> Option<HashMap<LockName, T>> {
        lock(&self.0).take()
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.0).is_none()
    }

    /// Returns how many values were left.
    pub(super) fn len(&self) -> usize {
        lock(&self.0).as_ref().map_or(0, HashMap::len)
    }
}
