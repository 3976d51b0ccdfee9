//! [`Source`], an iterator that a test looks into, and that waits at a [`Gate`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use futures::StreamExt;
use onelane::BlockingStream;
use onelane::offload::OffloadError;
use tokio::runtime::{Builder, Runtime};

use support::waiting::{Gate, Wait, soon};

pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The next item, which is there.
pub(crate) async fn next<T: Send + 'static>(stream: &mut BlockingStream<T>) -> T {
    soon("the next one comes", stream.next()).await.expect("it goes on").unwrap()
}

/// The last item, which is an error, after which there is nothing any more.
pub(crate) async fn last<T: Send + 'static>(stream: &mut BlockingStream<T>) -> OffloadError {
    let Some(Err(error)) = soon("an error comes", stream.next()).await else { panic!("it ends with an error") };
    for _ in 0..3 {
        assert!(soon("its end comes", stream.next()).await.is_none());
    }
    error
}

/// What is seen of an iterator from outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    made: AtomicUsize,
    dropped: Mutex<Vec<ThreadId>>,
}

impl Watch {
    /// How often `next` was called.
    pub(crate) fn made(&self) -> usize {
        self.0.made.load(Ordering::SeqCst)
    }

    /// On which thread it was dropped, if it was. It is so once.
    pub(crate) fn dropped(&self) -> Option<ThreadId> {
        let dropped = self.0.dropped.lock().unwrap();
        assert!(dropped.len() <= 1, "{dropped:?}");
        dropped.first().copied()
    }
}

/// The numbers from 0 on.
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
        let item = self.watch.0.made.fetch_add(1, Ordering::SeqCst);
        self.waits.iter().filter(|(at, _)| *at == item).for_each(|(_, gate)| gate.block());
        assert!(self.panics_at != Some(item), "no item {item}");
        (self.end != Some(item)).then_some(item)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.watch.0.dropped.lock().unwrap().push(thread::current().id());
        assert!(!self.panics_when_dropped, "it does not want to go");
    }
}
