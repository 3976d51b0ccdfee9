//! [`Slot`], where a thread publishes the label of its poll, and [`InPoll`], which publishes a label during a poll.
//!
//! # Invariants
//!
//! - Only the thread that owns a slot writes `state` and `tasks`. Another thread writes `worker` only to clear it, when
//!   that thread has taken the worker over. A poll reads no clock: the watch supplies the
//!   time.
//! - The upper half of `state` counts the outermost polls of the thread. The lower half is the label of the innermost
//!   poll, or 0 between polls. If a watch reads the same count twice, with a label, both reads belong to one poll.
//! - A poll inside another one changes only the label, and restores the outer label at its end.
//! - A watch writes `slow` to mark the poll that it reports. Either the thread clears the mark when that poll ends, or
//!   the watch withdraws the mark. The side that comes first reports the end of the block.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};
use tokio::task;

use super::label::Label;
use super::trace;
use super::worker_index;

/// The slots of all threads that have polled a watched future.
///
/// Slots are never freed, so a poll reaches the slot of its thread without a reference count. When a thread ends,
/// another thread can take its slot.
static SLOTS: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());

/// The start of the time scale of `slow_since`.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

const NO_WORKER: usize = usize::MAX;

thread_local! {
    static SLOT: Cell<Option<&'static Slot>> = const { Cell::new(None) };
    /// The task of the last outermost poll.
    static LAST_TASK: Cell<Option<task::Id>> = const { Cell::new(None) };
    /// Gives the slot back when the thread ends. `SLOT` is a variable of its own, because it is faster without a
    /// destructor.
    static OWNED: Cell<Option<OwnedSlot>> = const { Cell::new(None) };
}

/// The poll of one thread, as the thread publishes it.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// See the invariants.
    state: AtomicU64,
    /// Counts the outermost polls that belong to another task than the outermost poll before.
    tasks: AtomicU64,
    /// The index of the worker that ran on the thread when its last outermost poll began.
    worker: AtomicUsize,
    /// The state of the poll that a watch has reported, or 0.
    slow: AtomicU64,
    /// When that poll began to block its worker, in nanoseconds since `EPOCH`. Written before `slow`.
    slow_since: AtomicU64,
    owner: Mutex<Option<Owner>>,
}

/// The thread of a slot.
#[derive(Debug)]
struct Owner {
    /// The runtime that the thread works for, or last worked for.
    runtime: Option<Id>,
    thread: ThreadName,
}

/// The name of a thread, and its id in the system.
#[derive(Clone, Debug)]
pub(super) struct ThreadName {
    pub(super) name: Option<String>,
    #[cfg(all(feature = "backtrace", target_os = "linux"))]
    pub(super) tid: libc::pid_t,
}

/// A slot as a watch sees it.
#[derive(Debug)]
pub(super) struct SlotView {
    slot: &'static Slot,
    pub(super) worker: Option<usize>,
    pub(super) poll: PollState,
    /// Changes when the thread polls another task.
    pub(super) tasks: u64,
}

/// The value of a slot's `state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PollState(u64);

/// Identifies an outermost poll: the address of the slot, and the number of the poll. The number may repeat after a
/// long time.
pub(super) type PollId = (usize, u32);

/// The mark of a poll in its slot: the thread reports the end of the poll.
#[derive(Debug)]
pub(super) struct SlowMark {
    slot: &'static Slot,
    poll: PollState,
}

/// Publishes the label of this thread's poll until the value is dropped.
#[derive(Debug)]
pub(crate) struct InPoll {
    /// `None` on a thread that is ending.
    slot: Option<&'static Slot>,
    outer: PollState,
    /// The destructor writes to the slot of its own thread.
    not_send: PhantomData<*const ()>,
}

struct OwnedSlot(&'static Slot);

impl PollState {
    /// Returns the number of the outermost poll. Between polls, returns the number of the last one.
    pub(super) fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Returns the label of the innermost poll.
    pub(super) fn label(self) -> Option<Label> {
        Label::from_id(self.0 as u32)
    }

    fn enter(self, label: Label) -> Self {
        // The count of outermost polls may wrap: it is only compared with a count that was read moments before.
        let polls = if self.0 as u32 == 0 { (self.0 >> 32).wrapping_add(1) } else { self.0 >> 32 };
        Self(polls << 32 | u64::from(label.id()))
    }
}

impl Label {
    /// Publishes this label as that of the thread's poll, until the returned value is dropped.
    #[inline]
    pub(crate) fn enter(self) -> InPoll {
        let slot = SLOT.get().or_else(register);
        let outer = slot.map_or(PollState(0), |slot| slot.enter(self));
        InPoll { slot, outer, not_send: PhantomData }
    }
}

impl Slot {
    #[inline]
    fn enter(&'static self, label: Label) -> PollState {
        let outer = PollState(self.state.load(Ordering::Relaxed));
        if outer.label().is_none() {
            let task = task::try_id();
            if LAST_TASK.replace(task) != task {
                self.tasks.store(self.tasks.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            // `block_in_place` moves a worker to another thread, so the worker of a thread can change.
            let worker = worker_index::current().unwrap_or(NO_WORKER);
            if worker != self.worker.load(Ordering::Relaxed) {
                self.move_to(worker);
            }
        }
        // Pairs with `slots_of`: a watch that sees the poll also sees its worker.
        self.state.store(outer.enter(label).0, Ordering::Release);
        outer
    }

    #[inline]
    fn exit(&self, outer: PollState) {
        if outer.label().is_some() {
            self.state.store(outer.0, Ordering::Release);
            return;
        }
        // The count stays when the outermost poll ends.
        let ended = PollState(self.state.load(Ordering::Relaxed)).number();
        self.state.store(u64::from(ended) << 32, Ordering::Release);
        if self.slow.load(Ordering::Relaxed) != 0 {
            self.report_slow_poll(ended);
        }
    }

    /// Emits the event of a poll that a watch has marked, once the outermost poll has ended. The event is in the span
    /// that is entered around that poll.
    #[cold]
    fn report_slow_poll(&self, ended: u32) {
        let slow = PollState(self.slow.load(Ordering::Acquire));
        // The watch withdraws a mark that comes too late.
        let Some(label) = slow.label().filter(|_| slow.number() == ended) else { return };
        let since = self.slow_since.load(Ordering::Relaxed);
        if self.slow.compare_exchange(slow.0, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            trace::slow_poll(label, Duration::from_nanos(nanos_since_epoch(Instant::now()).saturating_sub(since)));
        }
    }

    /// Records that another worker, or none, runs on this thread, maybe one of another runtime. The thread that ran the
    /// worker before has given it away with `block_in_place`.
    #[cold]
    fn move_to(&'static self, worker: usize) {
        let runtime = current_runtime();
        if let Some(owner) = &mut *self.owner() {
            owner.runtime = runtime;
        }
        self.worker.store(worker, Ordering::Relaxed);
        if worker != NO_WORKER {
            let slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
            let others = slots.iter().filter(|slot| !std::ptr::eq(**slot, self));
            for other in others.filter(|slot| slot.owner().as_ref().is_some_and(|owner| owner.runtime == runtime)) {
                // If the other thread is yet another worker by now, its own value stays.
                let _ = other.worker.compare_exchange(worker, NO_WORKER, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    fn owner(&self) -> MutexGuard<'_, Option<Owner>> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotView {
    /// Returns the thread, unless it has ended.
    pub(super) fn thread(&self) -> Option<ThreadName> {
        self.slot.owner().as_ref().map(|owner| owner.thread.clone())
    }

    pub(super) fn poll_id(&self) -> PollId {
        (std::ptr::from_ref(self.slot).addr(), self.poll.number())
    }

    /// Marks the poll, so that the thread reports its end. Returns the mark, or `None` if the thread is between polls.
    pub(super) fn mark_slow(&self, since: Instant) -> Option<SlowMark> {
        self.poll.label()?;
        self.slot.slow_since.store(nanos_since_epoch(since), Ordering::Relaxed);
        // Pairs with `report_slow_poll`.
        self.slot.slow.store(self.poll.0, Ordering::Release);
        Some(SlowMark { slot: self.slot, poll: self.poll })
    }
}

impl SlowMark {
    /// Removes the mark. Returns `true` if the mark was still set, so that the thread will not report the end of the
    /// poll.
    pub(super) fn withdraw(self) -> bool {
        let (slow, poll) = (&self.slot.slow, self.poll.0);
        slow.compare_exchange(poll, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Drop for InPoll {
    #[inline]
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            slot.exit(self.outer);
        }
    }
}

impl Drop for OwnedSlot {
    fn drop(&mut self) {
        SLOT.set(None);
        *self.0.owner() = None;
    }
}

/// Returns the slots of the threads that work for a runtime.
pub(super) fn slots_of(runtime: Id) -> Vec<SlotView> {
    let slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
    let view = |slot: &&'static Slot| {
        slot.owner().as_ref().filter(|owner| owner.runtime == Some(runtime))?;
        let poll = PollState(slot.state.load(Ordering::Acquire));
        let worker = Some(slot.worker.load(Ordering::Relaxed)).filter(|worker| *worker != NO_WORKER);
        Some(SlotView { slot, worker, poll, tasks: slot.tasks.load(Ordering::Relaxed) })
    };
    slots.iter().filter_map(view).collect()
}

/// Registers this thread with all watches, together with its current runtime and worker.
///
/// A watch knows a thread once the thread has polled a watched future, or one of the tasks with which the watch
/// measures the lag. If a thread blocks earlier, its report has no name and no stack. The same holds for a thread that
/// has run another current-thread runtime before, until the thread has polled a task of the watch.
///
/// Call this function in [`on_thread_park`](tokio::runtime::Builder::on_thread_park). Every worker is then known once
/// it has parked for the first time. The call takes locks of the watch, and waits for nothing else.
///
/// ```
/// use onelane::watch::{Watch, register_thread};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = tokio::runtime::Builder::new_multi_thread().on_thread_park(register_thread).build()?;
/// let watch = Watch::builder().start(runtime.handle())?;
/// # Ok(())
/// # }
/// ```
pub fn register_thread() {
    if let Some(slot) = SLOT.get().or_else(register) {
        let worker = worker_index::current().unwrap_or(NO_WORKER);
        // The worker of a current-thread runtime is always 0, so the runtime may be another one.
        if worker != slot.worker.load(Ordering::Relaxed) || worker == 0 {
            slot.move_to(worker);
        }
    }
}

/// Takes a slot for this thread. Returns `None` if the thread is ending.
#[cold]
fn register() -> Option<&'static Slot> {
    // Fails on a thread that is ending.
    OWNED.try_with(|_| ()).ok()?;
    let owner = Owner { runtime: current_runtime(), thread: ThreadName::current() };
    let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = slots.iter().copied().find(|slot| slot.owner().is_none()).unwrap_or_else(|| {
        let slot: &'static Slot = Box::leak(Box::default());
        slots.push(slot);
        slot
    });
    *slot.owner() = Some(owner);
    slot.worker.store(NO_WORKER, Ordering::Relaxed);
    SLOT.set(Some(slot));
    OWNED.set(Some(OwnedSlot(slot)));
    Some(slot)
}

fn current_runtime() -> Option<Id> {
    Handle::try_current().ok().map(|handle| handle.id())
}

/// Sets `EPOCH`, unless an earlier watch has set it. No watch reports a block that began earlier.
pub(super) fn begin_epoch() {
    LazyLock::force(&EPOCH);
}

fn nanos_since_epoch(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*EPOCH).as_nanos()).unwrap_or(u64::MAX)
}

impl ThreadName {
    pub(super) fn current() -> Self {
        Self {
            name: std::thread::current().name().map(str::to_owned),
            #[cfg(all(feature = "backtrace", target_os = "linux"))]
            tid: rustix::thread::gettid().as_raw_nonzero().get(),
        }
    }
}
