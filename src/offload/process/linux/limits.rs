//! [`CallLimits`], the limits of one task, and [`LimitWatch`], which checks them while the server waits.

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use super::system;
use super::worker::{CallEnd, Worker};

/// The time between two checks of the memory of a worker.
const MEMORY_CHECK: Duration = Duration::from_millis(100);
/// The least time between two checks of the processor time of a worker.
const CPU_CHECK: Duration = Duration::from_millis(1);

/// The greatest time between two checks of the processor time of a worker.
const LONGEST_CHECK: Duration = Duration::from_secs(3_600);

/// The number of processors. No process uses more processor time than this number times the elapsed time.
static PROCESSORS: LazyLock<u32> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, |number| u32::try_from(number.get()).unwrap_or(1)));

/// The limits of one task.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallLimits {
    /// The time at which the worker is killed.
    pub(super) kill_at: Option<Instant>,
    /// The physical memory of the worker, in bytes.
    pub(super) memory: Option<u64>,
    /// The processor time of all threads of the worker.
    pub(super) cpu: Option<Duration>,
    /// The greatest length of a reply, in bytes.
    pub(super) max_reply: usize,
}

/// The checks of one task.
pub(super) struct LimitWatch {
    limits: CallLimits,
    memory_check: Option<Instant>,
    cpu: Option<CpuCheck>,
}

struct CpuCheck {
    at: Instant,
    /// The processor time of the worker at which the task has used up its own limit.
    limit: Duration,
}

impl LimitWatch {
    pub(super) fn new(worker: &Worker, limits: CallLimits) -> Self {
        let now = Instant::now();
        let cpu = limits.cpu.and_then(|limit| {
            let limit = system::processor_time(worker.pid())?.saturating_add(limit);
            Some(CpuCheck { at: now, limit })
        });
        Self { limits, memory_check: limits.memory.map(|_| now + MEMORY_CHECK), cpu }
    }

    /// Returns the time of the next check.
    pub(super) fn next_check(&self) -> Option<Instant> {
        [self.limits.kill_at, self.memory_check, self.cpu.as_ref().map(|cpu| cpu.at)].into_iter().flatten().min()
    }

    /// Makes the checks that are due. Returns how the call ends if the worker exceeds a limit.
    pub(super) fn check(&mut self, worker: &Worker) -> Option<CallEnd> {
        let Self { limits, memory_check, cpu } = self;
        let now = Instant::now();
        if limits.kill_at.is_some_and(|at| at <= now) {
            return Some(CallEnd::TimedOut);
        }
        if memory_check.is_some_and(|at| at <= now) {
            if worker.resident_memory().zip(limits.memory).is_some_and(|(resident, limit)| resident > limit) {
                return Some(CallEnd::OutOfMemory);
            }
            *memory_check = Some(now + MEMORY_CHECK);
        }
        if let Some(cpu) = cpu.as_mut().filter(|cpu| cpu.at <= now) {
            let left = cpu.limit.saturating_sub(system::processor_time(worker.pid()).unwrap_or_default());
            if left.is_zero() {
                return Some(CallEnd::OutOfTime);
            }
            // The worker can't use up what is left earlier, even on all processors.
            let unused = (left / *PROCESSORS).max(CPU_CHECK);
            cpu.at = now.checked_add(unused.min(LONGEST_CHECK)).unwrap_or(now);
        }
        None
    }
}
