//! [`Errands`], what many services of the server's runtime are told at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{mem, vec};

use tokio::runtime::Handle;

use crate::background::generation::{Line, Runs};
use crate::background::placement::Placement;

/// From how many on they are worth a task.
const MANY: usize = 32;
/// So many are not kept waiting for others.
const ENOUGH: usize = 512;
/// How many are run before others of the runtime have a turn.
const AT_ONCE: usize = 128;

/// What is about to be told to services on the server's runtime.
///
/// Many at once are told by a task of that runtime. From there it is cheaper: their tasks go to a worker's own queue, and
/// wake nobody up one by one.
#[derive(Default)]
pub(super) struct Errands(Vec<Errand>);

pub(super) enum Errand {
    Begin(Arc<dyn Runs>, Arc<Line>),
    /// To wake the tasks of one that was told to stop.
    Wake(Arc<Line>),
}

impl Errands {
    pub(super) fn add(&mut self, errand: Errand, server: &Handle) {
        self.0.push(errand);
        if self.0.len() >= ENOUGH {
            self.run(server);
        }
    }

    pub(super) fn run(&mut self, server: &Handle) {
        if self.0.len() >= MANY {
            drop(server.spawn(Running(mem::take(&mut self.0).into_iter())));
        } else {
            self.0.drain(..).for_each(Errand::run);
        }
    }
}

/// Runs them, some at a time.
struct Running(vec::IntoIter<Errand>);

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.by_ref().take(AT_ONCE).for_each(Errand::run);
        if self.0.len() == 0 {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Running {
    /// If its runtime is gone, so are theirs. Those that begin all the same find that out, and whoever waits elsewhere for one
    /// of them to stop is woken.
    fn drop(&mut self) {
        self.0.by_ref().for_each(Errand::run);
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
