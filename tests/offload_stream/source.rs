//! [`Source`], an iterator that a test looks into, and a [`Gate`] that it waits at.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use futures::StreamExt;
use onelane::BlockingStream;
use onelane::offload::OffloadError;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

/// How long a test waits for what must happen: long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it happens")
}

/// Waits for what threads do. They tell nobody, so it is looked at again and again.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    soon(async {
        while !is_so() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// The next item, which is there.
pub(crate) async fn next<T: Send + 'static>(stream: &mut BlockingStream<T>) -> T {
    soon(stream.next()).await.expect("it goes on").unwrap()
}

/// The last item, which is an error, after which there is nothing any more.
pub(crate) async fn last<T: Send + 'static>(stream: &mut BlockingStream<T>) -> OffloadError {
    let Some(Err(error)) = soon(stream.next()).await else { panic!("it ends with an error") };
    for _ in 0..3 {
        assert!(soon(stream.next()).await.is_none());
    }
    error
}

/// What blocks threads until it is opened, or the test ends.
#[derive(Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

#[derive(Clone, Debug)]
pub(crate) struct Wait(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn wait(&self) -> Wait {
        Wait(Arc::clone(&self.0))
    }

    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

impl Wait {
    pub(crate) fn block(&self) {
        let _open = self.0.1.wait_while(self.0.0.lock().unwrap(), |is_open| !*is_open).unwrap();
    }
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
