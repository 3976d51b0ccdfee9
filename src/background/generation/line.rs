//! [`Line`], what a generation and its supervisor tell each other.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Context;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::children::Children;
use super::inside::Child;
use super::stop_signal::StopSignal;
use crate::background::host::{Link, Message};
use crate::background::status::{CleanUp, Exit, ExitKind, Pulse};
use crate::panic::{catch, discard};
use crate::sync::lock;

/// The line between one generation of a service and its supervisor.
pub(crate) struct Line {
    /// The index of the service in its host.
    pub(crate) id: u32,
    pub(crate) generation: u64,
    pub(crate) name: Arc<str>,
    pub(crate) last_failure: Option<Arc<Exit>>,
    pub(crate) link: Arc<Link>,
    pub(super) children: Children,
    /// Where it has a runtime of its own.
    pub(super) own_runtime: OnceLock<Handle>,
    pulse: Option<Arc<Pulse>>,
    /// Given when the generation has to stop, and to its children at the latest when its run has ended.
    stop: StopSignal,
    /// Whether it was the supervisor who gave it.
    was_told: AtomicBool,
    /// The phase up to which it is cut off: [`Phase`] as a number, or 0.
    cut: AtomicU8,
    /// Whoever is polled in a phase that may be cut off.
    polled: AtomicWaker,
    is_in_poll: AtomicBool,
    condition: Mutex<Condition>,
    /// Whether the supervisor was told to look at the condition, and has not yet.
    has_changed: AtomicBool,
    is_clean_up_claimed: AtomicBool,
}

/// The parts of a generation, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Start = 1,
    Run,
    Stop,
}

/// How a running service is, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) ready: bool,
    pub(crate) degraded: bool,
    pub(crate) reason: Option<Arc<str>>,
}

/// What a generation tells its supervisor.
#[derive(Debug)]
pub(crate) enum News {
    /// `start` returned `Ok`.
    Started,
    /// `start` did not, and that is the end of the generation.
    NotStarted(Ended),
    /// `run` is over. Its children were told to stop and have not ended yet.
    AwaitsChildren,
    /// `run` is over, and its children.
    RunEnded(Ended),
    /// `stop` is over, and with it the generation.
    CleanedUp(CleanUp),
    /// Both, one right after the other.
    AllEnded(Ended, CleanUp),
    /// The [`Condition`] changed.
    Changed,
    /// The generation was dropped before its end: its runtime is gone.
    Lost,
}

impl News {
    /// Drops it, each value of the service by itself: two destructors that panic at once would abort the process.
    pub(crate) fn discard(self) {
        if let Self::AllEnded(ended, clean_up) = self {
            discard(ended);
            discard(clean_up);
        } else {
            discard(self);
        }
    }
}

/// How a phase ended. `Ok` is completed or stopped: the supervisor knows which.
pub(crate) type Ended = Result<(), ExitKind>;

impl Line {
    pub(crate) fn new(
        id: u32,
        generation: u64,
        name: Arc<str>,
        is_ready: bool,
        pulse: Option<Arc<Pulse>>,
        last_failure: Option<Arc<Exit>>,
        link: Arc<Link>,
    ) -> Self {
        Self {
            id,
            generation,
            name,
            last_failure,
            link,
            children: Children::default(),
            own_runtime: OnceLock::new(),
            pulse,
            stop: StopSignal::default(),
            was_told: AtomicBool::new(false),
            cut: AtomicU8::new(0),
            polled: AtomicWaker::new(),
            is_in_poll: AtomicBool::new(false),
            condition: Mutex::new(Condition { ready: is_ready, ..Condition::default() }),
            has_changed: AtomicBool::new(false),
            is_clean_up_claimed: AtomicBool::new(false),
        }
    }

    // From the supervisor to the generation.

    /// Tells it to stop. Its tasks that wait for that are to be [woken](Self::wake_to_stop).
    pub(crate) fn tell_to_stop(&self) {
        self.was_told.store(true, Ordering::Release);
        // Who waits for a token is woken, and a waker is foreign code.
        let _ = catch(|| self.stop.give());
    }

    pub(crate) fn wake_to_stop(&self) {
        let _ = catch(|| self.stop.wake_tasks());
    }

    /// Has what is polled dropped, if it is in this phase or comes to it.
    pub(crate) fn cut_off(&self, phase: Phase) {
        self.cut.fetch_max(phase as u8, Ordering::AcqRel);
        self.polled.wake();
    }

    /// The condition, after [`News::Changed`].
    pub(crate) fn condition(&self) -> Condition {
        // Before the look: a change from here on is told anew.
        self.has_changed.store(false, Ordering::SeqCst);
        lock(&self.condition).clone()
    }

    pub(crate) fn is_in_poll(&self) -> bool {
        self.is_in_poll.load(Ordering::Relaxed)
    }

    // From the generation to the supervisor.

    pub(crate) fn tell(&self, news: News) {
        self.link.send(Message::News { id: self.id, generation: self.generation, news });
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Condition)) {
        let is_new = {
            let mut condition = lock(&self.condition);
            let mut changed = condition.clone();
            change(&mut changed);
            let is_new = *condition != changed;
            *condition = changed;
            is_new
        };
        if is_new && !self.has_changed.swap(true, Ordering::SeqCst) {
            self.tell(News::Changed);
        }
    }

    pub(crate) fn beat(&self) {
        // The pulse is that of all generations: what an old one has left behind is no sign of life of the next one.
        if let Some(pulse) = self.pulse.as_ref().filter(|_| !self.is_clean_up_claimed()) {
            pulse.beat(Instant::now());
        }
    }

    // Within the generation.

    pub(crate) fn spawn<F>(&self, child: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let child = Child::of(self.link.address(), child);
        self.children.spawn(child, self.own_runtime.get().unwrap_or_else(|| self.link.server()))
    }

    pub(crate) fn token(&self) -> &CancellationToken {
        self.stop.token()
    }

    pub(crate) fn is_told_to_stop(&self) -> bool {
        self.stop.is_given()
    }

    pub(crate) async fn stopping(&self) {
        self.stop.given().await;
    }

    /// Parks the thread until it is told to stop, for `limit` at most. Whether it is.
    pub(crate) fn park(&self, limit: Duration) -> bool {
        self.stop.park(limit)
    }

    /// Tells the children to stop, whose service has ended.
    pub(super) fn tell_children(&self) {
        let _ = catch(|| self.stop.give());
        self.wake_to_stop();
    }

    pub(super) fn was_told_by_supervisor(&self) -> bool {
        self.was_told.load(Ordering::Acquire)
    }

    /// Whether what is in this phase is to be dropped. If not, `cx` is woken when it is.
    pub(super) fn poll_cut(&self, phase: Phase, cx: &Context<'_>) -> bool {
        if self.is_cut_off(phase) {
            return true;
        }
        self.polled.register(cx.waker());
        // It may have happened before the waker was there.
        self.is_cut_off(phase)
    }

    /// It is not polled any more. What its waker keeps, its task, is dropped here.
    pub(super) fn forget_waker(&self) {
        drop(self.polled.take());
    }

    pub(super) fn is_cut_off(&self, phase: Phase) -> bool {
        self.cut.load(Ordering::Acquire) >= phase as u8
    }

    pub(super) fn set_in_poll(&self, is_in_poll: bool) {
        self.is_in_poll.store(is_in_poll, Ordering::Relaxed);
    }

    pub(super) fn is_clean_up_claimed(&self) -> bool {
        self.is_clean_up_claimed.load(Ordering::Acquire)
    }

    /// Whether it is the caller who calls `stop`. It is for one of all.
    pub(super) fn claim_clean_up(&self) -> bool {
        !self.is_clean_up_claimed.swap(true, Ordering::AcqRel)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("name", &self.name).field("generation", &self.generation).finish_non_exhaustive()
    }
}
