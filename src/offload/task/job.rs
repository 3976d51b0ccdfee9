//! [`Job`], one task on its way from the caller to a thread and back.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::caller_context::CallerContext;
use super::context::{TaskContext, Terms};
use crate::offload::error::OffloadError;
use crate::panic::{catch, discard};
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{Mutex, lock};

const CANCELLED: u8 = 1;
const ABANDONED: u8 = 2;

/// A task as a pool sees it.
pub(crate) trait Work: Send + Sync {
    /// Runs it, on the thread of a worker or of a caller that is one. Its result is kept until it is published.
    fn run(self: Arc<Self>);

    /// Lets its caller have the result of what was run. Who is to be woken for it.
    ///
    /// A caller often has the next task at once. So a worker first makes up its mind on what it does next: then the caller
    /// finds all in order, whether it was woken or looked by itself. (Who leaves is given it before.)
    fn publish(&self) -> Option<Waker>;

    /// Leaves an error for the caller: it will not run. Who is to be woken for that.
    fn refuse(&self, why: OffloadError) -> Option<Waker>;

    fn flags(&self) -> &Flags;

    fn terms(&self) -> &Terms;

    /// What tells limiters apart: it holds a token of that one.
    fn limiter(&self) -> usize;
}

/// A task as its caller sees it.
pub(crate) trait Outcome<T>: Work {
    /// The result, once it is there. Until then `cx` is woken when it is.
    fn poll(&self, cx: &Context<'_>) -> Poll<Result<T, OffloadError>>;

    /// Takes the task back, if it has not begun. That is decided here, once, whoever else wants to begin or refuse it.
    fn withdraw(&self) -> bool;

    /// Takes it back for good, and leaves an error for the caller. If it has begun, only its context is told.
    fn cancel(&self);

    /// The caller has left, and the task goes on without it. Its result, if that was there already.
    fn abandon(&self) -> Option<Result<T, OffloadError>>;

    /// Whether the result is there, or was taken.
    fn is_finished(&self) -> bool;
}

/// What has become of the caller. Nothing else is read because of what is in here, so `Relaxed` does.
#[derive(Debug, Default)]
pub(crate) struct Flags(AtomicU8);

impl Flags {
    /// Nobody waits for it any more.
    pub(crate) fn cancel(&self) {
        self.0.fetch_or(CANCELLED, Ordering::Relaxed);
    }

    /// The caller has left while it ran.
    pub(crate) fn abandon(&self) {
        self.0.fetch_or(ABANDONED, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) & CANCELLED != 0
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.load(Ordering::Relaxed) & ABANDONED != 0
    }
}

/// One task: the closure until it runs, its result from then on.
pub(crate) struct Job<F, T> {
    limiter: usize,
    flags: Flags,
    terms: Terms,
    around: CallerContext,
    stage: Mutex<Stage<F, T>>,
}

enum Stage<F, T> {
    Waiting {
        work: F,
        waker: Option<Waker>,
    },
    Running {
        waker: Option<Waker>,
    },
    /// It has run, and its caller may not know yet.
    Ran {
        result: Result<T, OffloadError>,
        waker: Option<Waker>,
    },
    Done(Result<T, OffloadError>),
    /// The result was taken, or nobody wants it.
    Over,
}

impl<F, T> Job<F, T> {
    pub(crate) fn new(limiter: usize, terms: Terms, around: CallerContext, work: F) -> Self {
        let stage = Mutex::new(Stage::Waiting { work, waker: None });
        Self { limiter, flags: Flags::default(), terms, around, stage }
    }

    /// Takes the closure, which is run from now on, if it is.
    fn begin(&self) -> Option<F> {
        let too_late = self.too_late();
        let mut stage = lock(&self.stage);
        match (mem::replace(&mut *stage, Stage::Over), too_late) {
            (Stage::Waiting { work, waker }, None) => {
                *stage = Stage::Running { waker };
                Some(work)
            }
            (Stage::Waiting { work, waker }, Some(error)) => {
                *stage = Stage::Ran { result: Err(error), waker };
                drop(stage);
                discard(work);
                None
            }
            // It was withdrawn in the moment between the queue and here.
            (over, _) => {
                *stage = over;
                None
            }
        }
    }

    /// Why it does not begin any more, if its time is over.
    fn too_late(&self) -> Option<OffloadError> {
        let Terms { deadline, begins_by, .. } = &self.terms;
        if deadline.is_none() && begins_by.is_none() {
            return None;
        }
        let now = self.around.now();
        match begins_by {
            _ if deadline.is_some_and(|deadline| deadline <= now) => {
                Some(OffloadError::Timeout { still_running: false })
            }
            Some((since, at)) if *at <= now => Some(OffloadError::QueueTimeout { waited: now.duration_since(*since) }),
            _ => None,
        }
    }

    /// Keeps the result, if somebody wants it.
    fn end(&self, result: Result<T, OffloadError>) {
        let mut stage = lock(&self.stage);
        match mem::replace(&mut *stage, Stage::Over) {
            Stage::Running { waker } if !self.flags.is_abandoned() => *stage = Stage::Ran { result, waker },
            unwanted => {
                drop(stage);
                // One by one: a second panic while one unwinds would end the process.
                discard(result);
                discard(unwanted);
            }
        }
    }
}

impl<F, T> Stage<F, T> {
    fn into_result(self) -> Option<Result<T, OffloadError>> {
        match self {
            Self::Ran { result, .. } | Self::Done(result) => Some(result),
            Self::Waiting { .. } | Self::Running { .. } | Self::Over => None,
        }
    }

    /// What is left of the closure is dropped.
    fn into_waker(self) -> Option<Waker> {
        match self {
            Self::Waiting { work, waker } => {
                discard(work);
                waker
            }
            Self::Running { waker } | Self::Ran { waker, .. } => waker,
            Self::Done(_) | Self::Over => None,
        }
    }
}

impl<F, T> Work for Job<F, T>
where
    F: FnOnce(&TaskContext) -> T + Send + 'static,
    T: Send + 'static,
{
    fn run(self: Arc<Self>) {
        let Some(work) = self.begin() else { return };
        let cx = TaskContext(Arc::clone(&self) as Arc<dyn Work>);
        let run = || cx.clone().enter(|| self.around.enter(|| work(&cx)));
        let result = catch(run).map_err(OffloadError::Panicked);
        self.end(result);
    }

    fn publish(&self) -> Option<Waker> {
        let mut stage = lock(&self.stage);
        match mem::replace(&mut *stage, Stage::Over) {
            Stage::Ran { result, waker } => {
                *stage = Stage::Done(result);
                waker
            }
            other => {
                *stage = other;
                None
            }
        }
    }

    fn refuse(&self, why: OffloadError) -> Option<Waker> {
        let mut stage = lock(&self.stage);
        if !matches!(*stage, Stage::Waiting { .. }) {
            return None;
        }
        let waiting = mem::replace(&mut *stage, Stage::Done(Err(why)));
        drop(stage);
        waiting.into_waker()
    }

    fn flags(&self) -> &Flags {
        &self.flags
    }

    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn limiter(&self) -> usize {
        self.limiter
    }
}

impl<F, T> Outcome<T> for Job<F, T>
where
    F: FnOnce(&TaskContext) -> T + Send + 'static,
    T: Send + 'static,
{
    fn poll(&self, cx: &Context<'_>) -> Poll<Result<T, OffloadError>> {
        // Cloned and dropped without the lock: it is foreign code.
        let mut fresh = None;
        loop {
            let mut stage = lock(&self.stage);
            let known = match &mut *stage {
                Stage::Waiting { waker, .. } | Stage::Running { waker } | Stage::Ran { waker, .. } => waker,
                Stage::Done(_) | Stage::Over => {
                    let result = mem::replace(&mut *stage, Stage::Over).into_result();
                    drop(stage);
                    return Poll::Ready(result.expect("it is taken once: a future is not polled after its end"));
                }
            };
            if known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            let before = fresh.take().map(|fresh| known.replace(fresh));
            drop(stage);
            if before.is_some() {
                return Poll::Pending;
            }
            fresh = Some(cx.waker().clone());
        }
    }

    fn withdraw(&self) -> bool {
        let mut stage = lock(&self.stage);
        if !matches!(*stage, Stage::Waiting { .. }) {
            return false;
        }
        let waiting = mem::replace(&mut *stage, Stage::Over);
        // Outside of the lock: what is in it is the user's.
        drop(stage);
        drop(waiting);
        true
    }

    fn abandon(&self) -> Option<Result<T, OffloadError>> {
        if !self.terms.is_shielded {
            self.flags.cancel();
        }
        self.flags.abandon();
        let mut stage = lock(&self.stage);
        match &mut *stage {
            Stage::Waiting { waker, .. } | Stage::Running { waker } => {
                let unwanted = waker.take();
                drop(stage);
                drop(unwanted);
                None
            }
            Stage::Ran { .. } | Stage::Done(_) | Stage::Over => mem::replace(&mut *stage, Stage::Over).into_result(),
        }
    }

    fn cancel(&self) {
        self.flags.cancel();
        wake(self.refuse(OffloadError::Cancelled));
    }

    fn is_finished(&self) -> bool {
        matches!(*lock(&self.stage), Stage::Done(_) | Stage::Over)
    }
}

/// A waker is foreign code: its panic does not become the thread's.
pub(crate) fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        let _ = catch(|| waker.wake());
    }
}

impl<F, T> fmt::Debug for Job<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("flags", &self.flags).field("terms", &self.terms).finish_non_exhaustive()
    }
}
