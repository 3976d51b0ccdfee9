//! Which guards hold the code that runs right now on this thread: how nested use is told from joined use.
//!
//! A guard is entered for the length of one poll of the work that it guards. Code inside that poll is inside the
//! guard; another branch of the same task, polled beside it, is not. A task id could not tell the two apart.

use std::cell::RefCell;

use super::EndpointGuard;

thread_local! {
    static ENTERED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Marks this thread as inside a guard until dropped.
#[derive(Debug)]
pub(crate) struct Scope;

impl Scope {
    pub(crate) fn enter(guard: &EndpointGuard) -> Self {
        ENTERED.with_borrow_mut(|entered| entered.push(identity(guard)));
        Self
    }

    pub(crate) fn is_inside(guard: &EndpointGuard) -> bool {
        ENTERED.with_borrow(|entered| entered.contains(&identity(guard)))
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        ENTERED.with_borrow_mut(|entered| entered.pop());
    }
}

/// A guard does not move while someone is inside: its permit borrows it or owns a share of it.
fn identity(guard: &EndpointGuard) -> usize {
    std::ptr::from_ref(guard).addr()
}
