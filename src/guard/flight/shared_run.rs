//! [`SharedRun`], the future of one caller of a run.

use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::coop::{self, RestoreOnPending as Progress};
use tracing::Level;

use super::caller_wait::CallerWait;
use super::error::FlightError;
use super::flight_map::can_spawn;
use super::outcome::{Completion, JoinOutcome, RunPoll};
use super::run_entry::{Driver, RunWaiterId};
use super::run_error::RunError;
use super::single_flight::SingleFlight;
use super::trace;
use super::work_future::{FirstPoll, RunOutcome, WorkFuture, failed};
use crate::debug::impl_debug;
use crate::guard::key_map::{EntryId, Hash64};
use crate::panic::Panic;
use crate::scope::{CallerScopes, Scope};
use crate::trace::is_enabled;

/// Waits for the result of a run that callers share. Returned by [`SingleFlight::run`].
#[must_use = "futures do nothing unless polled"]
pub struct SharedRun<'a, K, T, E, W>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    flight: &'a SingleFlight<K, T, E>,
    /// `None` once this caller started a run, which then owns the key.
    key: Option<K>,
    /// `None` once this caller started a run.
    work: Option<W>,
    /// The run that this caller is a waiter of, if any.
    joined: Option<JoinedRun>,
    pub(super) wait: CallerWait,
    /// The scopes of this caller that the run inherits while this caller leads it and waits.
    caller_scopes: CallerScopes,
    is_done: bool,
}

#[derive(Clone, Copy, Debug)]
struct JoinedRun {
    entry: EntryId,
    id: RunWaiterId,
}

impl<'a, K, T, E, W> SharedRun<'a, K, T, E, W>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    pub(super) fn new(flight: &'a SingleFlight<K, T, E>, key: K, work: W) -> Self {
        Self {
            flight,
            key: Some(key),
            work: Some(work),
            joined: None,
            wait: CallerWait::default(),
            caller_scopes: CallerScopes::default(),
            is_done: false,
        }
    }

    /// Polls the run that this caller has joined. If that run ended without an outcome, joins or starts another.
    fn poll_joined<F>(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Poll<RunOutcome<T, E>>
    where
        W: FnOnce() -> F,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        while let Some(joined) = self.joined {
            if let Some(poll) = self.poll_run(joined, cx) {
                if poll.is_pending() {
                    return self.poll_timer(cx, progress);
                }
                self.finish(progress);
                return poll;
            }
        }
        self.join(cx, progress)
    }

    /// Joins the current run of the key, or starts one.
    #[inline]
    fn join<F>(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Poll<RunOutcome<T, E>>
    where
        W: FnOnce() -> F,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let map = self.flight.map();
        let (hash, number) =
            map.shards.locate(self.key.as_ref().expect("the caller has its key until it starts a run"));
        let shard = map.shards.shard(number);
        let is_inside = |index| Scope::is_any() && Scope::is_inside(map.scope(EntryId::new(number, index)));
        let max_callers = if self.wait.has_place { usize::MAX } else { self.flight.config.max_waiters + 1 };
        let mut waker = None;
        loop {
            match shard.join(hash, &mut self.key, &mut waker, max_callers, is_inside, can_spawn) {
                JoinOutcome::Started { index, id } => {
                    let joined = JoinedRun { entry: EntryId::new(number, index), id };
                    self.joined = Some(joined);
                    self.wait.has_place = true;
                    return self.start(joined, cx, progress);
                }
                JoinOutcome::Joined { index, id, spawn_task, needs_driver } => {
                    let entry = EntryId::new(number, index);
                    self.joined = Some(JoinedRun { entry, id });
                    self.wait.has_place = true;
                    if spawn_task {
                        map.spawn_driver(entry);
                    }
                    return if needs_driver { self.poll_joined(cx, progress) } else { self.poll_timer(cx, progress) };
                }
                JoinOutcome::NeedsWaker => waker = Some(cx.waker().clone()),
                JoinOutcome::Full => return self.refuse(RunError::TooManyWaiters, progress),
                JoinOutcome::Closed => return self.refuse(RunError::Closed, progress),
                JoinOutcome::WouldDeadlock => return self.refuse(RunError::WouldDeadlock, progress),
            }
        }
    }

    /// Calls the work and polls it for the first time, as the leader of a run.
    #[inline]
    fn start<F>(&mut self, joined: JoinedRun, cx: &mut Context<'_>, progress: &Progress) -> Poll<RunOutcome<T, E>>
    where
        W: FnOnce() -> F,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let make = self.work.take().expect("the caller has its work until it starts a run");
        let map = self.flight.map();
        self.caller_scopes = CallerScopes::capture();
        match WorkFuture::start(make, map.scope(joined.entry), &self.caller_scopes, cx) {
            FirstPoll::Ready(result) => {
                self.finish(progress);
                // The result is moved once, and only here: most runs end here, and copying memory that was just written
                // is slow.
                let deferred = map.shard(joined.entry).complete_unshared(joined.entry.index());
                if deferred.is_some() {
                    map.notify_if_closed(joined.entry);
                    // Cleared before the key and the waker in `deferred` are dropped: they are user code.
                    self.joined = None;
                    return Poll::Ready(result.map_err(failed));
                }
                Poll::Ready(self.complete(joined, result.map_err(failed)))
            }
            FirstPoll::Panicked(panicked) => {
                self.finish(progress);
                Poll::Ready(self.complete(joined, Err(panicked)))
            }
            FirstPoll::Pending(work) => {
                self.put_back(joined, work, cx);
                self.poll_timer(cx, progress)
            }
        }
    }

    /// Polls the joined run. Returns `None` if the run ended without an outcome.
    fn poll_run(&mut self, joined: JoinedRun, cx: &mut Context<'_>) -> Option<Poll<RunOutcome<T, E>>> {
        let shard = self.flight.map().shard(joined.entry);
        let mut spare = None;
        loop {
            match shard.poll(joined.entry.index(), joined.id, cx.waker(), &mut spare) {
                RunPoll::Pending => return Some(Poll::Pending),
                RunPoll::NeedsWaker => spare = Some(cx.waker().clone()),
                RunPoll::Drive(work) => return Some(self.drive(joined, work, cx)),
                RunPoll::Completed(outcome) => {
                    self.joined = None;
                    return Some(Poll::Ready(unshare(outcome)));
                }
                RunPoll::Rejoin => {
                    self.joined = None;
                    return None;
                }
            }
        }
    }

    /// Polls the work, as the driver of the run.
    fn drive(&mut self, joined: JoinedRun, mut work: WorkFuture<T, E>, cx: &mut Context<'_>) -> Poll<RunOutcome<T, E>> {
        let map = self.flight.map();
        let poll = work.poll(map.scope(joined.entry), cx);
        let Poll::Ready(outcome) = poll else {
            self.put_back(joined, work, cx);
            return Poll::Pending;
        };
        // A panic is counted in `complete`.
        if !matches!(outcome, Err(RunError::Panicked(_))) {
            let deferred = map.shard(joined.entry).complete_unshared(joined.entry.index());
            if deferred.is_some() {
                map.notify_if_closed(joined.entry);
                self.joined = None;
                return Poll::Ready(outcome);
            }
        }
        Poll::Ready(self.complete(joined, outcome))
    }

    #[cold]
    fn put_back(&mut self, joined: JoinedRun, work: WorkFuture<T, E>, cx: &mut Context<'_>) {
        let waker =
            match catch_unwind(AssertUnwindSafe(|| cx.waker().clone())) {
                Ok(waker) => waker,
                // User code panicked after the work was taken: the run must end, or the key would stay in use.
                Err(panic) => {
                    drop(work);
                    drop(self.complete(
                        joined,
                        Err(RunError::Panicked(Panic::without_location("its caller's waker panicked"))),
                    ));
                    resume_unwind(panic)
                }
            };
        let map = self.flight.map();
        let deferred = map.shard(joined.entry).put_back(joined.entry.index(), joined.id, work, waker, can_spawn);
        map.run_deferred(joined.entry, deferred);
    }

    #[cold]
    #[inline(never)]
    fn complete(&mut self, joined: JoinedRun, outcome: RunOutcome<T, E>) -> RunOutcome<T, E> {
        // `joined` is cleared first, because the waker of another waiter may panic.
        self.joined = None;
        match self.flight.map().complete(joined.entry, Driver::Waiter(joined.id), outcome) {
            Completion::Unshared(outcome) => outcome,
            Completion::Shared(outcome) => unshare(outcome),
        }
    }

    /// Polls the timer, and leaves the run once `max_wait` has passed.
    fn poll_timer(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Poll<RunOutcome<T, E>> {
        let Some(timeout) = self.flight.config.max_wait else { return Poll::Pending };
        let waited = ready!(self.wait.poll_timer(timeout, cx));
        self.finish(progress);
        let key_hash = is_enabled(Level::DEBUG).then(|| self.key_hash());
        // A result that became available just as the timer fired wins.
        Poll::Ready(self.leave().map_or_else(
            || {
                self.flight.timed_out.add(1);
                trace::timed_out(self.flight.name, key_hash, waited);
                Err(RunError::Timeout { waited })
            },
            unshare,
        ))
    }

    /// Leaves the run. Returns its outcome if it was completed meanwhile.
    fn leave(&mut self) -> Option<Arc<RunOutcome<T, E>>> {
        let JoinedRun { entry, id } = self.joined.take()?;
        self.caller_scopes.release();
        let map = self.flight.map();
        let mut deferred = map.shard(entry).leave(entry.index(), id, self.flight.config.detached, can_spawn);
        let outcome = deferred.outcome.take();
        map.run_deferred(entry, deferred);
        outcome
    }

    #[cold]
    fn refuse(&mut self, error: RunError<E>, progress: &Progress) -> Poll<RunOutcome<T, E>> {
        self.finish(progress);
        self.flight.refused.add(1);
        trace::refused(self.flight.name, is_enabled(Level::ERROR).then(|| self.key_hash()), &error);
        Poll::Ready(Err(error))
    }

    /// Returns the hash of the key for events.
    fn key_hash(&self) -> Hash64 {
        let map = self.flight.map();
        match (&self.joined, &self.key) {
            (Some(joined), _) => map.shard(joined.entry).key_hash(joined.entry.index()),
            (None, key) => map.shards.locate(key.as_ref().expect("the caller has its key until it starts a run")).0,
        }
    }

    #[inline]
    fn finish(&mut self, progress: &Progress) {
        progress.made_progress();
        self.is_done = true;
    }
}

impl<K, T, E, W, F> Future for SharedRun<'_, K, T, E, W>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
    W: FnOnce() -> F,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    type Output = Result<T, FlightError<E>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        assert!(!this.is_done, "a `SharedRun` is not polled after it completed");
        // A task whose runs all end at once still yields to other tasks.
        let progress = ready!(coop::poll_proceed(cx));
        let poll = if this.joined.is_none() { this.join(cx, &progress) } else { this.poll_joined(cx, &progress) };
        poll.map_err(|error| FlightError::new(this.flight.name, error))
    }
}

impl<K, T, E, W> Drop for SharedRun<'_, K, T, E, W>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    #[inline]
    fn drop(&mut self) {
        if self.joined.is_some() {
            self.leave();
        }
    }
}

// No field is pinned structurally: the work and the timer are boxed.
impl<K, T, E, W> Unpin for SharedRun<'_, K, T, E, W>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
}

impl_debug!(
    [K: Hash + Eq + Send + 'static, T: Clone + Send + Sync + 'static, E: Send + Sync + 'static, W]
    SharedRun<'_, K, T, E, W> |this| { flight: this.flight.name(), waiting: this.joined.is_some(), .. }
);

/// Clones the outcome for one waiter, or takes the original if this waiter is the last.
fn unshare<T: Clone, E>(outcome: Arc<RunOutcome<T, E>>) -> RunOutcome<T, E> {
    Arc::try_unwrap(outcome).unwrap_or_else(|shared| shared.as_ref().clone())
}
