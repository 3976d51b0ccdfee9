//! Which lanes hold the code that runs right now on this thread: how nested use is told from joined use.
//!
//! A lane is entered for the length of one poll of the work that it guards. Code inside that poll is inside the lane;
//! another branch of the same task, polled beside it, is not. A task id could not tell the two apart.

use std::cell::{Cell, RefCell};

thread_local! {
    /// The innermost. Nobody is where nothing is.
    static INNERMOST: Cell<Option<ScopeId>> = const { Cell::new(None) };
    /// Those around it, which are rare.
    static OUTER: RefCell<Vec<ScopeId>> = const { RefCell::new(Vec::new()) };
}

/// Names a lane for as long as someone is inside: the address of its guard, which does not move then, as permits borrow
/// it or own a share of it; and which of the guard's lanes it is.
pub(crate) type ScopeId = (usize, u64);

/// Marks this thread as inside a lane until dropped.
///
/// A thread that is about to end has no place for what is around the innermost: there that has no effect.
#[derive(Debug)]
pub(crate) struct Scope {
    /// Whether the one around it went to the outer ones.
    is_nested: bool,
}

impl Scope {
    #[inline]
    pub(crate) fn enter(id: ScopeId) -> Self {
        let around = INNERMOST.replace(Some(id));
        Self { is_nested: around.is_some_and(Self::push) }
    }

    /// The lane that was entered last.
    #[cfg(feature = "actix-web")]
    pub(crate) fn innermost() -> Option<ScopeId> {
        INNERMOST.get()
    }

    pub(crate) fn is_inside(id: ScopeId) -> bool {
        INNERMOST.get() == Some(id) || OUTER.try_with(|outer| outer.borrow().contains(&id)).unwrap_or(false)
    }

    /// Whether this thread is inside any lane.
    #[inline]
    pub(crate) fn is_any() -> bool {
        INNERMOST.get().is_some()
    }

    #[cold]
    fn push(id: ScopeId) -> bool {
        OUTER.try_with(|outer| outer.borrow_mut().push(id)).is_ok()
    }

    #[cold]
    fn pop() -> Option<ScopeId> {
        OUTER.try_with(|outer| outer.borrow_mut().pop()).ok().flatten()
    }
}

impl Drop for Scope {
    #[inline]
    fn drop(&mut self) {
        // Scopes end in the reverse order in which they began: each spans one poll on this thread's stack.
        INNERMOST.set(if self.is_nested { Self::pop() } else { None });
    }
}
