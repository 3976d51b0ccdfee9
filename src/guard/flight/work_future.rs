//! [`WorkFuture`], the work of a run whose first poll returned `Pending`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::run_error::RunError;
use crate::caller_trace::CallerTrace;
use crate::panic::{catch, catch_work, discard};
use crate::scope::{CallerScopes, Hold, Scope, ScopeId};

/// The outcome of a run, which each of its waiters gets.
pub(super) type RunOutcome<T, E> = Result<T, RunError<E>>;

type BoxedWork<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// The work of a run. Polling and dropping it never panics.
pub(super) struct WorkFuture<T, E> {
    /// `None` once the work has ended.
    work: Option<BoxedWork<T, E>>,
    /// The leader's tracing span and subscriber.
    trace: CallerTrace,
    /// The scopes of the leader, which are in effect while the leader waits for the run.
    leader: CallerScopes,
    /// Indicates to captured scopes of the run that the run has not ended.
    hold: Hold,
}

/// The result of the first poll of a run's work.
pub(super) enum FirstPoll<T, E> {
    /// The work ended at once, and was dropped.
    Ready(Result<T, E>),
    Panicked(RunError<E>),
    Pending(WorkFuture<T, E>),
}

impl<T, E> WorkFuture<T, E> {
    /// Calls `make` and polls the future that it returns for the first time, in the scope of the run `id`, inside the
    /// scopes of its leader.
    #[inline]
    pub(super) fn start<F>(
        make: impl FnOnce() -> F,
        id: ScopeId,
        leader: &CallerScopes,
        cx: &mut Context<'_>,
    ) -> FirstPoll<T, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        // Declared outside the closure: a destructor that panics while the closure unwinds would abort the process.
        let mut started = None;
        let mut hold = Hold::default();
        // The work is also dropped inside the scopes.
        let _leader = leader.enter();
        let run = Scope::enter(id, &mut hold);
        let poll = catch_work(|| started.insert(Box::pin(make())).as_mut().poll(cx));
        match poll {
            Ok(Poll::Ready(result)) => {
                discard(started);
                FirstPoll::Ready(result)
            }
            Ok(Poll::Pending) => {
                drop(run);
                FirstPoll::Pending(Self::pending(started.expect("it was just polled"), leader.clone(), hold))
            }
            Err(panic) => {
                discard(started);
                FirstPoll::Panicked(RunError::Panicked(panic))
            }
        }
    }

    /// Wraps work that is pending. Its first poll ran in the leader's span, which is still the current one.
    #[cold]
    fn pending(work: BoxedWork<T, E>, leader: CallerScopes, hold: Hold) -> Self {
        Self { work: Some(work), trace: CallerTrace::capture(), leader, hold }
    }

    /// Polls the work in the leader's span, and in the scope of the run `id`. Work that has ended is dropped there
    /// before this returns.
    pub(super) fn poll(&mut self, id: ScopeId, cx: &mut Context<'_>) -> Poll<RunOutcome<T, E>> {
        let Self { work, trace, leader, hold } = self;
        let polled = work.as_mut().expect("work is not polled after it ended");
        // The work is also dropped inside the scopes.
        let leader = leader.enter();
        let run = Scope::enter(id, hold);
        let poll = catch_work(|| trace.enter(|| polled.as_mut().poll(cx)));
        let outcome = match poll {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => result.map_err(failed),
            Err(panic) => Err(RunError::Panicked(panic)),
        };
        discard_in(trace, work);
        drop((run, leader));
        self.hold = Hold::default();
        Poll::Ready(outcome)
    }
}

impl<T, E> Drop for WorkFuture<T, E> {
    fn drop(&mut self) {
        discard_in(&self.trace, &mut self.work);
    }
}

/// Drops work in the leader's span. A panic of the destructor or of the subscriber does not propagate.
fn discard_in<T, E>(trace: &CallerTrace, work: &mut Option<BoxedWork<T, E>>) {
    let _ = catch(|| trace.enter(|| discard(work.take())));
    // Has an effect only if the subscriber panicked on entering the span.
    discard(work.take());
}

pub(super) fn failed<E>(error: E) -> RunError<E> {
    RunError::Failed(Arc::new(error))
}
