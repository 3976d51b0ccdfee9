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
///
/// A thread that is about to end has no place for the mark: there it has no effect.
#[derive(Debug)]
pub(crate) struct Scope {
    entered: bool,
}

impl Scope {
    pub(crate) fn enter(guard: &EndpointGuard) -> Self {
        let entered = ENTERED.try_with(|entered| entered.borrow_mut().push(identity(guard)));
        Self { entered: entered.is_ok() }
    }

    pub(crate) fn is_inside(guard: &EndpointGuard) -> bool {
        ENTERED.try_with(|entered| entered.borrow().contains(&identity(guard))).unwrap_or(false)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if self.entered {
            // Scopes end in the reverse order in which they began: each spans one poll on this thread's stack.
            let _ = ENTERED.try_with(|entered| entered.borrow_mut().pop());
        }
    }
}

/// A guard does not move while someone is inside: its permit borrows it or owns a share of it.
fn identity(guard: &EndpointGuard) -> usize {
    std::ptr::from_ref(guard).addr()
}
