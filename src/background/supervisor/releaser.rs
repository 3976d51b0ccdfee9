//! [`Releaser`], which drops the services of a host on threads that their destructors may block.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::timer_queue::after;
use crate::background::generation::ServiceRunner;
use crate::panic::{catch, discard};
use crate::sync::lock;

/// How long a value waits for the destructors before it until another thread is used. Until then, services are dropped
/// before those that they depend on.
const PATIENCE: Duration = Duration::from_millis(100);

/// Drops values one after the other, in a thread of the supervisor's runtime. A destructor that takes long does not
/// hold up the others: they get another thread. Further threads are not those of the runtime, which may all be busy:
/// the supervisor may share them with the server.
pub(super) struct Releaser {
    queue: Arc<Mutex<Queue>>,
    /// When to check if the queue makes progress.
    pub(super) check_at: Option<Instant>,
    /// How many values had been taken at the last check.
    taken: u64,
}

#[derive(Default)]
struct Queue {
    values: VecDeque<Arc<dyn ServiceRunner>>,
    /// How many values were taken from the queue.
    taken: u64,
    /// How many threads run a destructor, or will look for a value.
    threads: usize,
    /// `true` while a thread that is not of the runtime has not begun.
    is_thread_starting: bool,
}

impl Releaser {
    pub(super) fn new() -> Self {
        Self { queue: Arc::default(), check_at: None, taken: 0 }
    }

    /// Drops a value soon. Its destructor may use the server's runtime.
    pub(super) fn release(&mut self, now: Instant, value: Arc<dyn ServiceRunner>, server: &Handle) {
        let is_first = {
            let mut queue = lock(&self.queue);
            queue.values.push_back(value);
            queue.threads == 0
        };
        self.check_at.get_or_insert(after(now, PATIENCE));
        if is_first {
            self.add_thread(server);
        }
    }

    /// Adds a thread if no value was taken since the last check. Called at `check_at`, or earlier.
    pub(super) fn check(&mut self, now: Instant, server: &Handle) {
        if self.check_at.is_none_or(|at| now < at) {
            return;
        }
        let (is_empty, taken, is_stuck) = {
            let queue = lock(&self.queue);
            (queue.values.is_empty(), queue.taken, !queue.is_thread_starting)
        };
        if !is_empty && is_stuck && taken == self.taken {
            self.add_own_thread(server);
        }
        self.taken = taken;
        self.check_at = (!is_empty).then(|| after(now, PATIENCE));
    }

    /// Adds a thread that does not wait for a thread of the runtime. If the system refuses one, the next check tries
    /// again.
    fn add_own_thread(&self, server: &Handle) {
        lock(&self.queue).is_thread_starting = true;
        let (queue, context) = (Arc::clone(&self.queue), server.clone());
        let run = move || {
            {
                let mut queue = lock(&queue);
                queue.is_thread_starting = false;
                queue.threads += 1;
            }
            drop_all(&queue, &context);
        };
        if thread::Builder::new().name("onelane-release".to_owned()).spawn(run).is_err() {
            lock(&self.queue).is_thread_starting = false;
        }
    }

    fn add_thread(&self, server: &Handle) {
        lock(&self.queue).threads += 1;
        let (queue, context) = (Arc::clone(&self.queue), server.clone());
        // Panics if no thread can be spawned.
        if catch(|| Handle::current().spawn_blocking(move || drop_all(&queue, &context))).is_err() {
            drop_all(&self.queue, server);
        }
    }
}

/// Drops values until none is left.
fn drop_all(queue: &Mutex<Queue>, context: &Handle) {
    let _context = context.enter();
    while let Some(value) = next(queue) {
        discard(value);
    }
}

fn next(queue: &Mutex<Queue>) -> Option<Arc<dyn ServiceRunner>> {
    let mut queue = lock(queue);
    let value = queue.values.pop_front();
    if value.is_some() {
        queue.taken += 1;
    } else {
        queue.threads -= 1;
    }
    value
}
