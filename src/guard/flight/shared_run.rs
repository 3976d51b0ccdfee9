//! [`SharedRun`], a caller's share in a run.

use std::fmt;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop::{self, RestoreOnPending as Progress};
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::FlightError;
use super::found::{Boarding, Found, Landing, Pilot};
use super::run::Seat;
use super::runs::can_spawn;
use super::single_flight::SingleFlight;
use super::work::{Begun, Outcome, Work, failed};
use crate::guard::key_map::EntryId;
use crate::guard::scope::Scope;

/// A caller's share in a run. Made by [`SingleFlight::run`].
#[must_use = "futures do nothing unless polled"]
pub struct SharedRun<'a, K, T, E, W>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    flight: &'a SingleFlight<K, T, E>,
    /// `None` once this caller began a run, which has it then.
    key: Option<K>,
    /// `None` once this caller began a run.
    work: Option<W>,
    /// Set while this caller has a share in a run.
    aboard: Option<Aboard>,
    timer: Option<Box<Timer>>,
    is_done: bool,
}

#[derive(Clone, Copy, Debug)]
struct Aboard {
    spot: EntryId,
    seat: Seat,
}

struct Timer {
    since: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    fn start(limit: Duration) -> Box<Self> {
        let since = Instant::now();
        // A limit too far away to be an Instant is as good as a century.
        let until = since.checked_add(limit).unwrap_or_else(|| since + Duration::from_secs(3_155_760_000));
        Box::new(Self { since, sleep: Box::pin(sleep_until(until)) })
    }
}

impl<'a, K, T, E, W> SharedRun<'a, K, T, E, W>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    pub(super) fn new(flight: &'a SingleFlight<K, T, E>, key: K, work: W) -> Self {
        Self { flight, key: Some(key), work: Some(work), aboard: None, timer: None, is_done: false }
    }

    /// Has a share in a run.
    fn go_on<F>(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Poll<Outcome<T, E>>
    where
        W: FnOnce() -> F,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        while let Some(aboard) = self.aboard {
            if let Some(poll) = self.look(aboard, cx) {
                if poll.is_pending() {
                    return self.wait(cx, progress);
                }
                self.finish(progress);
                return poll;
            }
        }
        self.come_aboard(cx, progress)
    }

    /// Joins the run of the key, or begins one.
    #[inline]
    fn come_aboard<F>(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Poll<Outcome<T, E>>
    where
        W: FnOnce() -> F,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let runs = self.flight.runs();
        let (hash, shard) = runs.boards.locate(self.key.as_ref().expect("it keeps its key until it begins a run"));
        let board = runs.boards.shard(shard);
        let is_inside = |index| Scope::is_any() && Scope::is_inside(runs.scope(EntryId::new(shard, index)));
        let most = self.flight.settings.max_waiters + 1;
        let mut waker = None;
        loop {
            match board.come_aboard(hash, &mut self.key, &mut waker, most, is_inside, can_spawn) {
                Boarding::Started { index, seat } => {
                    let aboard = Aboard { spot: EntryId::new(shard, index), seat };
                    self.aboard = Some(aboard);
                    return self.begin(aboard, cx, progress);
                }
                Boarding::Joined { index, seat, spawn_task, is_adrift } => {
                    let spot = EntryId::new(shard, index);
                    self.aboard = Some(Aboard { spot, seat });
                    if spawn_task {
                        runs.spawn(spot);
                    }
                    return if is_adrift { self.go_on(cx, progress) } else { self.wait(cx, progress) };
                }
                Boarding::WantsWaker => waker = Some(cx.waker().clone()),
                Boarding::Full => return self.refuse(FlightError::TooManyWaiters, progress),
                Boarding::WouldDeadlock => return self.refuse(FlightError::WouldDeadlock, progress),
            }
        }
    }

    /// Begins the work of a run.
    #[inline]
    fn begin<F>(&mut self, aboard: Aboard, cx: &mut Context<'_>, progress: &Progress) -> Poll<Outcome<T, E>>
    where
        W: FnOnce() -> F,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let make = self.work.take().expect("it keeps its work until it begins a run");
        let runs = self.flight.runs();
        let scope = Scope::enter(runs.scope(aboard.spot));
        let begun = Work::begin(make, cx);
        drop(scope);
        match begun {
            Begun::Ended(result) => {
                self.finish(progress);
                // Moved only now, and once: most runs end here, and to copy what was just written is slow.
                let alone = runs.board(aboard.spot).land_alone(aboard.spot.index());
                if alone.is_some() {
                    // Before the key and a waker are dropped, which are foreign.
                    self.aboard = None;
                    return Poll::Ready(result.map_err(failed));
                }
                Poll::Ready(self.land(aboard, result.map_err(failed)))
            }
            Begun::Panicked(panicked) => {
                self.finish(progress);
                Poll::Ready(self.land(aboard, Err(panicked)))
            }
            Begun::Waiting(work) => {
                self.put_back(aboard, work, cx);
                self.wait(cx, progress)
            }
        }
    }

    /// Looks how its run goes. `None` if it has to come aboard another.
    fn look(&mut self, aboard: Aboard, cx: &mut Context<'_>) -> Option<Poll<Outcome<T, E>>> {
        let board = self.flight.runs().board(aboard.spot);
        let mut fresh = None;
        loop {
            match board.find(aboard.spot.index(), aboard.seat, cx.waker(), &mut fresh) {
                Found::Pending => return Some(Poll::Pending),
                Found::WantsWaker => fresh = Some(cx.waker().clone()),
                Found::Drive(work) => return Some(self.drive(aboard, work, cx)),
                Found::Landed(outcome) => {
                    self.aboard = None;
                    return Some(Poll::Ready(unshare(outcome)));
                }
                Found::Again => {
                    self.aboard = None;
                    return None;
                }
            }
        }
    }

    /// Polls the work.
    fn drive(&mut self, aboard: Aboard, mut work: Work<T, E>, cx: &mut Context<'_>) -> Poll<Outcome<T, E>> {
        let runs = self.flight.runs();
        let scope = Scope::enter(runs.scope(aboard.spot));
        let poll = work.poll(cx);
        drop(scope);
        if let Poll::Ready(outcome) = poll {
            let is_counted = matches!(outcome, Err(FlightError::Panicked { .. }));
            if !is_counted {
                let alone = runs.board(aboard.spot).land_alone(aboard.spot.index());
                if alone.is_some() {
                    self.aboard = None;
                    return Poll::Ready(outcome);
                }
            }
            return Poll::Ready(self.land(aboard, outcome));
        }
        self.put_back(aboard, work, cx);
        Poll::Pending
    }

    #[cold]
    fn put_back(&mut self, aboard: Aboard, work: Work<T, E>, cx: &mut Context<'_>) {
        let waker = match catch_unwind(AssertUnwindSafe(|| cx.waker().clone())) {
            Ok(waker) => waker,
            // Foreign code, between taking the work and putting it back: the key must not stay taken.
            Err(panic) => {
                drop(work);
                drop(self.land(aboard, Err(FlightError::Panicked { message: "its caller's waker panicked".into() })));
                resume_unwind(panic)
            }
        };
        let runs = self.flight.runs();
        let rest = runs.board(aboard.spot).put_back(aboard.spot.index(), aboard.seat, work, waker, can_spawn);
        runs.settle(aboard.spot, rest);
    }

    #[cold]
    #[inline(never)]
    fn land(&mut self, aboard: Aboard, outcome: Outcome<T, E>) -> Outcome<T, E> {
        // First: a waker of another caller may panic.
        self.aboard = None;
        match self.flight.runs().land(aboard.spot, Pilot::Caller(aboard.seat), outcome) {
            Landing::Own(outcome) => outcome,
            Landing::Shared(outcome) => unshare(outcome),
        }
    }

    /// Waits, no longer than it may.
    fn wait(&mut self, cx: &mut Context<'_>, progress: &Progress) -> Poll<Outcome<T, E>> {
        let Some(limit) = self.flight.settings.wait_timeout else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Timer::start(limit));
        // Whatever is left of the task's budget: the timer is what bounds the wait.
        ready!(Pin::new(&mut coop::unconstrained(timer.sleep.as_mut())).poll(cx));
        let since = timer.since;
        self.finish(progress);
        // A result that came as the timer rang wins.
        Poll::Ready(match self.leave() {
            Some(outcome) => unshare(outcome),
            None => {
                self.flight.timed_out.add(1);
                Err(FlightError::Timeout { waited: since.elapsed() })
            }
        })
    }

    /// Leaves the run. Returns its outcome if it has landed meanwhile.
    fn leave(&mut self) -> Option<Arc<Outcome<T, E>>> {
        let Aboard { spot, seat } = self.aboard.take()?;
        let runs = self.flight.runs();
        let mut rest = runs.board(spot).leave(spot.index(), seat, self.flight.settings.detached, can_spawn);
        let landed = rest.landed.take();
        runs.settle(spot, rest);
        landed
    }

    #[cold]
    fn refuse(&mut self, error: FlightError<E>, progress: &Progress) -> Poll<Outcome<T, E>> {
        self.finish(progress);
        self.flight.refused.add(1);
        Poll::Ready(Err(error))
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
        assert!(!this.is_done, "a shared run is not polled after it completed");
        // A task whose runs end at once, again and again, still lets others run.
        let progress = ready!(coop::poll_proceed(cx));
        if this.aboard.is_none() { this.come_aboard(cx, &progress) } else { this.go_on(cx, &progress) }
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
        if self.aboard.is_some() {
            self.leave();
        }
    }
}

// Nothing in it is polled in place: the work and the timer have boxes of their own.
impl<K, T, E, W> Unpin for SharedRun<'_, K, T, E, W>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
}

impl<K, T, E, W> fmt::Debug for SharedRun<'_, K, T, E, W>
where
    K: Hash + Eq + Send + 'static,
    T: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRun")
            .field("flight", &self.flight.name())
            .field("waiting", &self.aboard.is_some())
            .finish_non_exhaustive()
    }
}

/// A caller's own copy, or the original if it is the last.
fn unshare<T: Clone, E>(outcome: Arc<Outcome<T, E>>) -> Outcome<T, E> {
    Arc::try_unwrap(outcome).unwrap_or_else(|shared| shared.as_ref().clone())
}
