//! [`Scope`], which records the guards that the code on this thread runs inside of. It distinguishes nested use of a
//! guard from use in another branch of the same task.
//!
//! A scope is entered for the length of one poll of the guarded work. Code called in that poll is inside the guard.
//! Another branch of the same task is not, because it is polled separately. A task id could not distinguish the two.

use std::cell::{Cell, RefCell};

thread_local! {
    /// The innermost scope, if any.
    static INNERMOST: Cell<Option<ScopeId>> = const { Cell::new(None) };
    /// The scopes around the innermost one, which are rare.
    static OUTER: RefCell<Vec<ScopeId>> = const { RefCell::new(Vec::new()) };
}

/// Identifies a semaphore while a permit of it is held: the address of its guard, and its number within the guard.
///
/// The address does not change in the meantime, as permits borrow the guard or share ownership of it.
pub(crate) type ScopeId = (usize, u64);

/// Marks the current thread as inside a guard until dropped.
///
/// On a thread that is about to exit, the storage for outer scopes may be gone. Then entering a nested scope does not
/// remember the outer one.
#[derive(Debug)]
pub(crate) struct Scope {
    /// `true` if the surrounding scope was moved to the outer ones.
    is_nested: bool,
}

impl Scope {
    #[inline]
    pub(crate) fn enter(id: ScopeId) -> Self {
        let around = INNERMOST.replace(Some(id));
        Self { is_nested: around.is_some_and(Self::push) }
    }

    /// Returns the scope that was entered last.
    #[cfg(feature = "actix-web")]
    pub(crate) fn innermost() -> Option<ScopeId> {
        INNERMOST.get()
    }

    pub(crate) fn is_inside(id: ScopeId) -> bool {
        INNERMOST.get() == Some(id) || OUTER.try_with(|outer| outer.borrow().contains(&id)).unwrap_or(false)
    }

    /// Returns `true` if the current thread is inside any guard.
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
        // Scopes end in the reverse order of their start: each spans one poll on this thread's stack.
        INNERMOST.set(if self.is_nested { Self::pop() } else { None });
    }
}
