//! [`Scope`], which records the guards that the code on this thread runs inside, and [`CallerScopes`], which carry the
//! record to another thread or task. The record distinguishes nested use of a guard from use in another branch of the
//! same task.
//!
//! A scope is entered for the duration of one poll of the guarded work. Code called in that poll is inside the guard.
//! Another branch of the same task is not inside the guard, because that branch is polled separately. A task id could
//! not distinguish the two.
//!
//! When work moves to another thread or task (a *hop*), the scopes of the code that creates the work are captured, and
//! entered after the hop. The scopes of the code that starts the work are added, since that code waits for it. A
//! captured scope is in effect only while its permit is held, which its [`Hold`] indicates, and while the caller may
//! wait for the work. Without a scope, a hop costs one check of a thread-local. With scopes, a hop allocates once, and
//! once more for each permit whose scope was not captured before.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

thread_local! {
    static INNERMOST: Cell<Innermost> = const { Cell::new(Innermost::Nothing) };
    /// The frames around the innermost frame, and the innermost frame itself if it is more than an id. Both are rare.
    static STACK: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// Identifies a semaphore while a permit of it is held, or a run of a flight: the address of the guard or of the
/// flight, and a number within it.
///
/// The address does not change in the meantime, as permits borrow the guard or share ownership of it.
pub(crate) type ScopeId = (usize, u64);

/// The number of a guard without keys, which its address alone identifies. No key and no run has this number.
pub(crate) const WHOLE_GUARD: u64 = u64::MAX;

/// Where the innermost frame is. Most code runs inside one guard at most, and does not need [`STACK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Innermost {
    Nothing,
    Scope(ScopeId),
    /// The innermost frame is the last one in [`STACK`].
    InStack,
}

#[derive(Debug)]
enum Frame {
    Scope(ScopeId),
    /// A scope that was captured during this poll or an earlier one.
    Captured(ScopeId, Arc<()>),
    /// The start of work that moved here from another thread or task, with the scopes of its caller. The frames below
    /// belong to other work.
    Hop(CallerScopes),
}

/// Owned by a permit, or by the work of a run, and indicates to captured scopes that their owner still exists. Captured
/// scopes are in effect only until this value is dropped.
#[derive(Debug, Default)]
pub(crate) struct Hold(Option<Arc<()>>);

impl Hold {
    /// Ends the hold: the scopes that were captured are no longer in effect.
    #[inline]
    pub(crate) fn end(&mut self) {
        if self.0.is_some() {
            self.0 = None;
        }
    }
}

/// Marks the current thread as inside a guard until dropped.
///
/// While a thread exits, the thread-local storage for outer scopes may already be destroyed. A nested scope then does
/// not remember its outer scope.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    hold: &'a mut Hold,
    is_nested: bool,
}

impl<'a> Scope<'a> {
    /// Enters the scope of a permit, or of a run, to which `hold` belongs.
    #[inline]
    pub(crate) fn enter(id: ScopeId, hold: &'a mut Hold) -> Self {
        if hold.0.is_some() {
            return Self::enter_captured(id, hold);
        }
        let is_nested = match INNERMOST.replace(Innermost::Scope(id)) {
            Innermost::Nothing => false,
            Innermost::Scope(around) => push(Frame::Scope(around)).is_ok(),
            Innermost::InStack => true,
        };
        Self { hold, is_nested }
    }

    #[cold]
    fn enter_captured(id: ScopeId, hold: &'a mut Hold) -> Self {
        let is_nested = store_innermost();
        match hold.0.take().map(|token| push(Frame::Captured(id, token))) {
            None | Some(Ok(())) => INNERMOST.set(Innermost::InStack),
            Some(Err(frame)) => {
                hold.0 = frame.into_token();
                INNERMOST.set(Innermost::Scope(id));
            }
        }
        Self { hold, is_nested }
    }

    /// Returns `true` if the current code runs inside the guard or the run that `id` identifies.
    pub(crate) fn is_inside(id: ScopeId) -> bool {
        let is_stacked =
            || STACK.try_with(|stack| stack.borrow().iter().any(|frame| frame.is_inside(id))).unwrap_or(false);
        match INNERMOST.get() {
            Innermost::Nothing => false,
            Innermost::Scope(innermost) => innermost == id || is_stacked(),
            Innermost::InStack => is_stacked(),
        }
    }

    /// Returns `true` if the current thread is inside any guard, or runs work that moved here from another thread or
    /// task.
    #[inline]
    pub(crate) fn is_any() -> bool {
        INNERMOST.get() != Innermost::Nothing
    }
}

impl Drop for Scope<'_> {
    #[inline]
    fn drop(&mut self) {
        // Scopes end in the reverse order of their start: each spans one poll on this thread's stack.
        if INNERMOST.get() == Innermost::InStack {
            // The permit may be released before the work is polled again, so the permit keeps the token.
            self.hold.0 = pop().and_then(Frame::into_token);
        }
        INNERMOST.set(if self.is_nested { restore_innermost() } else { Innermost::Nothing });
    }
}

/// The scopes of a caller that its work keeps on another thread or task. Clones share one state.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallerScopes(Option<Arc<Hop>>);

/// One hop. `outer` links to the hops before it.
#[derive(Debug)]
struct Hop {
    /// `false` once the caller no longer waits for the work.
    has_caller: AtomicBool,
    innermost: Option<CapturedScope>,
    /// The scopes around the innermost one, which are rare.
    more: Vec<CapturedScope>,
    outer: CallerScopes,
    /// The scopes in which the work was created, if it was started inside of others.
    created: CallerScopes,
}

#[derive(Debug)]
struct CapturedScope {
    id: ScopeId,
    hold: Weak<()>,
}

impl CallerScopes {
    /// Captures the scopes of the current work.
    #[inline]
    pub(crate) fn capture() -> Self {
        if Scope::is_any() { Self::capture_some() } else { Self::default() }
    }

    #[cold]
    fn capture_some() -> Self {
        if store_innermost() {
            INNERMOST.set(Innermost::InStack);
        }
        STACK.try_with(|stack| Self::capture_from(&mut stack.borrow_mut(), Self::default())).unwrap_or_default()
    }

    /// Adds the scopes of the current work, which starts the work that was created in these scopes, and waits for it.
    #[inline]
    pub(crate) fn and_current(self) -> Self {
        if Scope::is_any() { self.and_some() } else { self }
    }

    #[cold]
    fn and_some(self) -> Self {
        if store_innermost() {
            INNERMOST.set(Innermost::InStack);
        }
        let created = self.clone();
        let add = |stack: &RefCell<Vec<Frame>>| {
            let mut stack = stack.borrow_mut();
            // Most work starts where it was created, and needs no second record.
            if self.cover_all(&stack) { self } else { Self::capture_from(&mut stack, self) }
        };
        STACK.try_with(add).unwrap_or(created)
    }

    /// Returns scopes for one of several pieces of work that are started one after the other:
    /// [`release`](Self::release) of one does not affect the others.
    pub(crate) fn for_one_of_many(&self) -> Self {
        let hop = |_| Arc::new(Hop::new(None, Vec::new(), self.clone(), Self::default()));
        Self(self.0.as_ref().map(hop))
    }

    fn capture_from(stack: &mut [Frame], created: Self) -> Self {
        let (mut innermost, mut more, mut outer) = (None, Vec::new(), Self::default());
        for frame in stack.iter_mut().rev() {
            match frame.captured() {
                Some(scope) if innermost.is_none() => innermost = Some(scope),
                Some(scope) => more.push(scope),
                None => {
                    if let Frame::Hop(scopes) = frame
                        && scopes.are_in_effect()
                    {
                        outer = scopes.clone();
                    }
                    break;
                }
            }
        }
        let is_any = innermost.is_some() || outer.0.is_some() || created.0.is_some();
        Self(is_any.then(|| Arc::new(Hop::new(innermost, more, outer, created))))
    }

    /// Enters the scopes around work that moved here from another thread or task, until the returned value is dropped.
    #[inline]
    pub(crate) fn enter(&self) -> EnteredScopes {
        // Even without scopes of its own, the work must not inherit the scopes of the work that this thread already
        // runs.
        if self.0.is_some() || Scope::is_any() { self.enter_some() } else { EnteredScopes { is_nested: None } }
    }

    #[cold]
    fn enter_some(&self) -> EnteredScopes {
        let is_nested = store_innermost();
        match push(Frame::Hop(self.clone())) {
            Ok(()) => {
                INNERMOST.set(Innermost::InStack);
                EnteredScopes { is_nested: Some(is_nested) }
            }
            Err(_) => EnteredScopes { is_nested: None },
        }
    }

    /// Records that the caller no longer waits for the work. From then on, the work may wait for permits that its
    /// caller holds.
    pub(crate) fn release(&self) {
        if let Some(hop) = &self.0 {
            // The flag guards no other memory, so `Relaxed` suffices.
            hop.has_caller.store(false, Ordering::Relaxed);
        }
    }

    /// Returns `true` if these scopes contain all of the current work.
    fn cover_all(&self, stack: &[Frame]) -> bool {
        let boundary = stack.iter().rposition(|frame| matches!(frame, Frame::Hop(_))).unwrap_or(0);
        stack[boundary..].iter().all(|frame| self.cover(frame))
    }

    fn cover(&self, frame: &Frame) -> bool {
        let Some(hop) = &self.0 else { return false };
        match frame {
            Frame::Scope(_) => false,
            Frame::Captured(_, token) => {
                hop.innermost.iter().chain(&hop.more).any(|scope| ptr::eq(scope.hold.as_ptr(), Arc::as_ptr(token)))
            }
            Frame::Hop(Self(Some(scopes))) => hop.outer.0.as_ref().is_some_and(|outer| Arc::ptr_eq(outer, scopes)),
            Frame::Hop(Self(None)) => true,
        }
    }

    /// Returns the scopes that are in effect, for work in another process.
    pub(crate) fn in_effect(&self) -> Vec<ScopeId> {
        let found = RefCell::new(Vec::new());
        self.any(|id| {
            found.borrow_mut().push(id);
            false
        });
        found.into_inner()
    }

    /// Returns the scopes of a caller in another process. The scopes are in effect until the returned `Hold` is
    /// dropped.
    pub(crate) fn of(ids: Vec<ScopeId>) -> (Self, Hold) {
        let hold = Arc::default();
        let scopes = ids.into_iter().map(|id| CapturedScope { id, hold: Arc::downgrade(&hold) }).collect();
        (Self(Some(Arc::new(Hop::new(None, scopes, Self::default(), Self::default())))), Hold(Some(hold)))
    }

    /// Returns `true` if any of the scopes is still in effect.
    fn are_in_effect(&self) -> bool {
        self.any(|_| true)
    }

    fn any(&self, is_wanted: impl Fn(ScopeId) -> bool + Copy) -> bool {
        let mut next = &self.0;
        while let Some(hop) = next {
            if !hop.has_caller.load(Ordering::Relaxed) {
                return false;
            }
            let mut scopes = hop.innermost.iter().chain(&hop.more);
            let is_found = scopes.any(|scope| scope.hold.strong_count() > 0 && is_wanted(scope.id));
            if is_found || hop.created.any(is_wanted) {
                return true;
            }
            next = &hop.outer.0;
        }
        false
    }
}

impl Hop {
    fn new(
        innermost: Option<CapturedScope>,
        more: Vec<CapturedScope>,
        outer: CallerScopes,
        created: CallerScopes,
    ) -> Self {
        Self { has_caller: AtomicBool::new(true), innermost, more, outer, created }
    }
}

/// Ends the scopes of a caller when dropped.
#[derive(Debug)]
#[must_use = "the scopes end as soon as this is dropped"]
pub(crate) struct EnteredScopes {
    /// `None` if nothing was entered.
    is_nested: Option<bool>,
}

impl Drop for EnteredScopes {
    #[inline]
    fn drop(&mut self) {
        if let Some(is_nested) = self.is_nested {
            drop(pop());
            INNERMOST.set(if is_nested { restore_innermost() } else { Innermost::Nothing });
        }
    }
}

impl Frame {
    fn is_inside(&self, id: ScopeId) -> bool {
        match self {
            Self::Scope(scope) | Self::Captured(scope, _) => *scope == id,
            Self::Hop(scopes) => scopes.any(|scope| scope == id),
        }
    }

    /// Captures the scope. Returns `None` for a hop.
    fn captured(&mut self) -> Option<CapturedScope> {
        if let Self::Scope(id) = self {
            *self = Self::Captured(*id, Arc::default());
        }
        match self {
            Self::Captured(id, token) => Some(CapturedScope { id: *id, hold: Arc::downgrade(token) }),
            _ => None,
        }
    }

    fn into_token(self) -> Option<Arc<()>> {
        match self {
            Self::Captured(_, token) => Some(token),
            Self::Scope(_) | Self::Hop(_) => None,
        }
    }
}

#[cold]
fn push(frame: Frame) -> Result<(), Frame> {
    let mut frame = Some(frame);
    let _ = STACK.try_with(|stack| stack.borrow_mut().extend(frame.take()));
    frame.map_or(Ok(()), Err)
}

#[cold]
fn pop() -> Option<Frame> {
    STACK.try_with(|stack| stack.borrow_mut().pop()).ok().flatten()
}

/// Moves the innermost scope to the stack, unless the scope is already there. Returns `true` if the stack then has a
/// frame.
#[cold]
fn store_innermost() -> bool {
    match INNERMOST.get() {
        Innermost::Nothing => false,
        Innermost::Scope(id) => push(Frame::Scope(id)).is_ok(),
        Innermost::InStack => true,
    }
}

/// Returns the innermost frame after a frame inside it has ended.
#[cold]
fn restore_innermost() -> Innermost {
    let restore = |stack: &RefCell<Vec<Frame>>| {
        let mut stack = stack.borrow_mut();
        match stack.last() {
            None => Innermost::Nothing,
            Some(Frame::Scope(id)) => {
                let id = *id;
                stack.pop();
                Innermost::Scope(id)
            }
            Some(Frame::Captured(..) | Frame::Hop(_)) => Innermost::InStack,
        }
    };
    STACK.try_with(restore).unwrap_or(Innermost::Nothing)
}
