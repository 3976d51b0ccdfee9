//! [`Source`], an iterator that a test observes through a [`Watch`], and that waits at a [`Gate`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use futures::StreamExt;
use onelane::offload::BlockingStream;
use onelane::offload::OffloadError;

use support::waiting::{Gate, Wait, soon};

/// Returns the next item, which must not be the end or an error.
pub(crate) async fn next<T: Send + 'static>(stream: &mut BlockingStream<T>) -> T {
    soon("the next item arrives", stream.next()).await.expect("the stream has not ended").unwrap()
}

/// Returns the last item, which must be an error, and checks that the stream has ended after it.
pub(crate) async fn last<T: Send + 'static>(stream: &mut BlockingStream<T>) -> OffloadError {
    let Some(Err(error)) = soon("the error arrives", stream.next()).await else {
        panic!("the stream ends with an error")
    };
    for _ in 0..3 {
        assert!(soon("the stream ends", stream.next()).await.is_none());
    }
    error
}

/// What a test observes of a [`Source`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    produced: AtomicUsize,
    dropped: Mutex<Vec<ThreadId>>,
}

impl Watch {
    /// Returns how often `next` was called.
    pub(crate) fn produced(&self) -> usize {
        self.0.produced.load(Ordering::SeqCst)
    }

    /// Returns the thread on which the source was dropped, if it was. Checks that it was dropped once at most.
    pub(crate) fn dropped(&self) -> Option<ThreadId> {
        let dropped = self.0.dropped.lock().unwrap();
        assert!(dropped.len() <= 1, "{dropped:?}");
        dropped.first().copied()
    }
}

/// Produces the numbers from 0 on.
#[derive(Debug)]
pub(crate) struct Source {
    watch: Watch,
    end: Option<usize>,
    waits: Vec<(usize, Wait)>,
    panics_at: Option<usize>,
    panics_when_dropped: bool,
}

impl Source {
    pub(crate) fn new(watch: &Watch) -> Self {
        let watch = watch.clone();
        Self { watch, end: None, waits: Vec::new(), panics_at: None, panics_when_dropped: false }
    }

    pub(crate) fn end(mut self, items: usize) -> Self {
        self.end = Some(items);
        self
    }

    /// Waits before this item.
    pub(crate) fn wait_at(mut self, item: usize, gate: &Gate) -> Self {
        self.waits.push((item, gate.wait()));
        self
    }

    pub(crate) fn panic_at(mut self, item: usize) -> Self {
        self.panics_at = Some(item);
        self
    }

    pub(crate) fn panic_when_dropped(mut self) -> Self {
        self.panics_when_dropped = true;
        self
    }
}

impl Iterator for Source {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let item = self.watch.0.produced.fetch_add(1, Ordering::SeqCst);
        self.waits.iter().filter(|(at, _)| *at == item).for_each(|(_, gate)| gate.block());
        assert!(self.panics_at != Some(item), "no item {item}");
        (self.end != Some(item)).then_some(item)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.watch.0.dropped.lock().unwrap().push(thread::current().id());
        assert!(!self.panics_when_dropped, "the drop panics");
    }
}
