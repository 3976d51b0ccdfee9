//! [`CpuThreads`], the threads of a CPU pool.

use std::io;
use std::sync::Arc;
use std::thread::Builder;

use super::threads::{SpawnError, WorkerThreads, hand_over};
use super::worker::Worker;
use crate::sync::{Mutex, lock};

/// Threads that run only the workers of one pool. Each starts with its worker and ends with it.
pub(crate) struct CpuThreads {
    /// Begins the name of each thread.
    pool: Box<str>,
    stack_size: usize,
    numbers: Arc<ThreadNumbers>,
}

impl CpuThreads {
    pub(crate) fn new(pool: &str, stack_size: usize) -> Self {
        // A thread name with a NUL would panic.
        Self { pool: pool.replace('\0', "").into(), stack_size, numbers: Arc::default() }
    }

    fn start(&self, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let number = ThreadNumbers::take(&self.numbers);
        let builder = Builder::new().name(format!("{}-{}", self.pool, number.value));
        builder.stack_size(self.stack_size).spawn(move || {
            let _number = number;
            run();
        })?;
        Ok(())
    }
}

impl WorkerThreads for CpuThreads {
    fn spawn(&self, worker: Worker) -> Result<(), SpawnError> {
        hand_over(worker, |run| self.start(run))
    }
}

/// Which numbers the living threads have in their names: the lowest ones, also after many threads have ended.
#[derive(Debug, Default)]
struct ThreadNumbers(Mutex<Vec<bool>>);

impl ThreadNumbers {
    fn take(this: &Arc<Self>) -> ThreadNumber {
        let mut taken = lock(&this.0);
        let free = taken.iter().position(|is_taken| !is_taken);
        let value = free.unwrap_or_else(|| {
            taken.push(false);
            taken.len() - 1
        });
        taken[value] = true;
        ThreadNumber { value, numbers: Arc::clone(this) }
    }
}

/// The number of a thread, which is free again when this value is dropped.
struct ThreadNumber {
    value: usize,
    numbers: Arc<ThreadNumbers>,
}

impl Drop for ThreadNumber {
    fn drop(&mut self) {
        lock(&self.numbers.0)[self.value] = false;
    }
}
