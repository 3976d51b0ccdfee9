//! [`Errands`], what many services of the server's runtime are told at once.

use std::collections::VecDeque;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::background::generation::{Line, Runs};
use crate::background::placement::Placement;
use crate::panic::catch;
use crate::sync::lock;

/// From how many on they are worth a task.
const MANY: usize = 32;
/// So many are not kept waiting for others.
const ENOUGH: usize = 512;
/// How many are run before others of the runtime have a turn.
const AT_ONCE: usize = 128;
/// How long the runtime has for them.
const LONGEST: Duration = Duration::from_millis(10);

/// What is about to be told to services on the server's runtime.
///
/// Many at once are told by a task of that runtime. From there it is cheaper: their tasks go to a worker's own queue, and
/// wake nobody up one by one. If that takes long, as the runtime is stuck, they are told from here: others may wait elsewhere.
#[derive(Default)]
pub(super) struct Errands {
    here: Vec<Errand>,
    there: Arc<Queue>,
    /// Until when those that are there should have been run.
    pub(super) due: Option<Instant>,
}

type Queue = Mutex<VecDeque<Errand>>;

pub(super) enum Errand {
    Begin(Arc<dyn Runs>, Arc<Line>),
    /// To wake the tasks of one that was told to stop.
    Wake(Arc<Line>),
}

impl Errands {
    pub(super) fn add(&mut self, errand: Errand, server: &Handle) {
        self.here.push(errand);
        if self.here.len() >= ENOUGH {
            self.run(server);
        }
    }

    pub(super) fn run(&mut self, server: &Handle) {
        if self.here.len() < MANY {
            return self.here.drain(..).for_each(|errand| drop(catch(|| errand.run())));
        }
        lock(&self.there).extend(mem::take(&mut self.here));
        self.due.get_or_insert_with(|| Instant::now() + LONGEST);
        drop(server.spawn(Running(Some(Arc::clone(&self.there)))));
    }

    /// Runs those that should have been run.
    pub(super) fn look_after(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.run_all();
        }
    }

    pub(super) fn run_all(&mut self) {
        self.due = None;
        while run_some(&self.there) {}
    }
}

/// Runs some of them, one by one: the others are there for whoever has time. Whether there were as many.
fn run_some(queue: &Queue) -> bool {
    (0..AT_ONCE).all(|_| {
        let next = {
            let mut queue = lock(queue);
            let next = queue.pop_front();
            if queue.is_empty() {
                // After many it would stay large for nothing.
                *queue = VecDeque::new();
            }
            next
        };
        let is_there = next.is_some();
        let _ = catch(|| next.map(Errand::run));
        is_there
    })
}

/// Runs them, some at a time.
struct Running(Option<Arc<Queue>>);

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.as_ref().is_some_and(|queue| run_some(queue)) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.0 = None;
        Poll::Ready(())
    }
}

impl Drop for Running {
    /// If its runtime is gone, so are theirs. Those that begin all the same find that out, and whoever waits elsewhere for one
    /// of them to stop is woken.
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            while run_some(queue) {}
        }
    }
}

impl Errand {
    fn run(self) {
        match self {
            Self::Begin(service, line) => service.begin(Placement::Shared, line),
            Self::Wake(line) => line.wake_to_stop(),
        }
    }
}
