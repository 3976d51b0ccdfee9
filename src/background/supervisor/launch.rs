//! [`Launch`], the beginning of many generations at once.

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
/// How many begin before others of the runtime have a turn.
const AT_ONCE: usize = 128;

/// Services on the server's runtime that are about to begin.
///
/// Many at once are begun by a task of that runtime. From there it is cheaper: their tasks go to a worker's own queue, and
/// wake nobody up one by one.
#[derive(Default)]
pub(super) struct Launch(Vec<Beginning>);

type Beginning = (Arc<dyn Runs>, Arc<Line>);

impl Launch {
    pub(super) fn add(&mut self, service: Arc<dyn Runs>, line: Arc<Line>) {
        self.0.push((service, line));
    }

    pub(super) fn begin(&mut self, server: &Handle) {
        if self.0.len() >= MANY {
            drop(server.spawn(Launching(mem::take(&mut self.0).into_iter())));
        } else {
            self.0.drain(..).for_each(begin);
        }
    }
}

/// Begins them, some at a time.
struct Launching(vec::IntoIter<Beginning>);

impl Future for Launching {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.by_ref().take(AT_ONCE).for_each(begin);
        if self.0.len() == 0 {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Launching {
    /// If its runtime is gone, so are theirs. They begin all the same, and find that out.
    fn drop(&mut self) {
        self.0.by_ref().for_each(begin);
    }
}

fn begin((service, line): Beginning) {
    service.begin(Placement::Shared, line);
}
