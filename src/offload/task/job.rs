//! [`Job`], one task on its way from the caller to a thread and back.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::around::Around;
use super::context::{TaskContext, Terms};
use crate::offload::error::OffloadError;
use crate::panic::{catch, discard};
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{Mutex, lock};

const CANCELLED: u8 = 1;
const ABANDONED: u8 = 2;

/// A task as a pool sees it.
pub(crate) trait Work: Send + Sync {
    /// Runs it, on the thread of a worker or of a caller that is one. Who is to be woken for its result.
    fn run(self: Arc<Self>) -> Option<Waker>;

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
    around: Around,
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
    Done(Result<T, OffloadError>),
    /// The result was taken, or nobody wants it.
    Over,
}

impl<F, T> Job<F, T> {
    pub(crate) fn new(limiter: usize, terms: Terms, around: Around, work: F) -> Self {
        let stage = Mutex::new(Stage::Waiting { work, waker: None });
        Self { limiter, flags: Flags::default(), terms, around, stage }
    }

    fn poll_with(&self, fresh: Waker) -> Poll<Result<T, OffloadError>> {
        let mut stage = lock(&self.stage);
        let replaced = match &mut *stage {
            Stage::Waiting { waker, .. } | Stage::Running { waker } => waker.replace(fresh),
            Stage::Done(_) => {
                let done = mem::replace(&mut *stage, Stage::Over);
                drop(stage);
                let Stage::Done(result) = done else { unreachable!("it was there under the lock") };
                return Poll::Ready(result);
            }
            Stage::Over => unreachable!("the result is taken once: its future is not polled after its end"),
        };
        drop(stage);
        drop(replaced);
        Poll::Pending
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

    fn finish(&self, result: Result<T, OffloadError>) -> Option<Waker> {
        let mut stage = lock(&self.stage);
        if matches!(*stage, Stage::Done(_) | Stage::Over) {
            drop(stage);
            discard(result);
            return None;
        }
        let (kept, unwanted) =
            if self.flags.is_abandoned() { (Stage::Over, Some(result)) } else { (Stage::Done(result), None) };
        let before = mem::replace(&mut *stage, kept);
        drop(stage);
        discard(unwanted);
        before.into_waker()
    }
}

impl<F, T> Stage<F, T> {
    fn into_result(self) -> Option<Result<T, OffloadError>> {
        if let Self::Done(result) = self { Some(result) } else { None }
    }

    /// What is left of the closure is dropped.
    fn into_waker(self) -> Option<Waker> {
        match self {
            Self::Waiting { work, waker } => {
                discard(work);
                waker
            }
            Self::Running { waker } => waker,
            Self::Done(_) | Self::Over => None,
        }
    }
}

impl<F, T> Work for Job<F, T>
where
    F: FnOnce(&TaskContext) -> T + Send + 'static,
    T: Send + 'static,
{
    fn run(self: Arc<Self>) -> Option<Waker> {
        let too_late = self.too_late();
        let work = {
            let mut stage = lock(&self.stage);
            match mem::replace(&mut *stage, Stage::Over) {
                Stage::Waiting { work, waker } if too_late.is_none() => {
                    *stage = Stage::Running { waker };
                    work
                }
                before => {
                    // It was withdrawn in the moment between the queue and here, or never begins.
                    let is_late = matches!(before, Stage::Waiting { .. });
                    let (kept, waiting) = match too_late {
                        Some(error) if is_late => (Stage::Done(Err(error)), before),
                        _ => (before, Stage::Over),
                    };
                    *stage = kept;
                    drop(stage);
                    return waiting.into_waker();
                }
            }
        };
        let cx = TaskContext(Arc::clone(&self) as Arc<dyn Work>);
        let run = || cx.clone().enter(|| self.around.enter(|| work(&cx)));
        let result = catch(run).map_err(OffloadError::Panicked);
        self.finish(result)
    }

    fn refuse(&self, why: OffloadError) -> Option<Waker> {
        self.finish(Err(why))
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
        let mut stage = lock(&self.stage);
        match &mut *stage {
            Stage::Waiting { waker, .. } | Stage::Running { waker } => {
                if waker.as_ref().is_none_or(|known| !known.will_wake(cx.waker())) {
                    // Cloned and dropped without the lock: it is foreign code.
                    drop(stage);
                    return self.poll_with(cx.waker().clone());
                }
                Poll::Pending
            }
            Stage::Done(_) => {
                let done = mem::replace(&mut *stage, Stage::Over);
                drop(stage);
                let Stage::Done(result) = done else { unreachable!("it was there under the lock") };
                Poll::Ready(result)
            }
            Stage::Over => unreachable!("the result is taken once: its future is not polled after its end"),
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
            Stage::Done(_) | Stage::Over => mem::replace(&mut *stage, Stage::Over).into_result(),
        }
    }

    fn cancel(&self) {
        self.flags.cancel();
        let mut stage = lock(&self.stage);
        if !matches!(*stage, Stage::Waiting { .. }) {
            return;
        }
        let waiting = mem::replace(&mut *stage, Stage::Done(Err(OffloadError::Cancelled)));
        drop(stage);
        wake(waiting.into_waker());
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
