//! Which lanes hold the code that runs right now on this thread: how nested use is told from joined use.
//!
//! A lane is entered for the length of one poll of the work that it guards. Code inside that poll is inside the lane;
//! another branch of the same task, polled beside it, is not. A task id could not tell the two apart.

use std::cell::RefCell;

thread_local! {
    static ENTERED: RefCell<Vec<ScopeId>> = const { RefCell::new(Vec::new()) };
}

/// Names a lane for as long as someone is inside: the address of its guard, which does not move then, as permits borrow
/// it or own a share of it; and which of the guard's lanes it is.
pub(crate) type ScopeId = (usize, u64);

/// Marks this thread as inside a lane until dropped.
///
/// A thread that is about to end has no place for the mark: there it has no effect.
#[derive(Debug)]
pub(crate) struct Scope {
    entered: bool,
}

impl Scope {
    pub(crate) fn enter(id: ScopeId) -> Self {
        let entered = ENTERED.try_with(|entered| entered.borrow_mut().push(id));
        Self { entered: entered.is_ok() }
    }

    /// The lane that was entered last.
    #[cfg(feature = "actix-web")]
    pub(crate) fn innermost() -> Option<ScopeId> {
        ENTERED.try_with(|entered| entered.borrow().last().copied()).unwrap_or(None)
    }

    pub(crate) fn is_inside(id: ScopeId) -> bool {
        ENTERED.try_with(|entered| entered.borrow().contains(&id)).unwrap_or(false)
    }

    /// Whether this thread is inside any lane.
    pub(crate) fn is_any() -> bool {
        ENTERED.try_with(|entered| !entered.borrow().is_empty()).unwrap_or(false)
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
