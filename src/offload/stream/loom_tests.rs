//! Models of the buffer, checked by loom over every interleaving.
//!
//! A model in which a wake-up is lost ends nowhere: loom tells that all threads are blocked.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected comes back")]

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, JoinHandle};

use super::{Bounds, Buffer, Chunk, Parking, Pushed, Taken};

/// What numbers come next, and where is counted how many such there are.
struct Numbers {
    next: usize,
    end: usize,
    alive: Arc<AtomicUsize>,
}

type Shared = Arc<Buffer<usize, Numbers, &'static str>>;

impl Numbers {
    fn up_to(end: usize, alive: &Arc<AtomicUsize>) -> Self {
        alive.fetch_add(1, Ordering::Relaxed);
        Self { next: 0, end, alive: Arc::clone(alive) }
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a task of the pool does with the producer.
fn produce(buffer: &Shared, mut numbers: Numbers) {
    while numbers.next < numbers.end {
        let number = numbers.next;
        numbers.next += 1;
        match buffer.push(number, 1) {
            Pushed::Closed(_) => return,
            Pushed::Taken { is_full, waker } => {
                waker.into_iter().for_each(Waker::wake);
                if is_full {
                    match buffer.park(numbers, false) {
                        Parking::Parked => return,
                        Parking::Closed(_) => return,
                        Parking::GoOn(back) => numbers = back,
                    }
                }
            }
        }
    }
    drop(numbers);
    buffer.end(Some("over")).into_iter().for_each(Waker::wake);
}

/// The stream's side, whose tasks are threads of the model.
struct Consumer {
    buffer: Shared,
    chunk: Chunk<usize>,
    tasks: Vec<JoinHandle<()>>,
    is_eager: bool,
}

impl Consumer {
    fn new(max_items: usize, numbers: Numbers) -> Self {
        let bounds = Bounds { max_items, max_bytes: usize::MAX };
        let buffer = Arc::new(Buffer::new(bounds, numbers));
        Self { buffer, chunk: Chunk::default(), tasks: Vec::new(), is_eager: true }
    }

    fn start(&mut self, numbers: Numbers) {
        let buffer = Arc::clone(&self.buffer);
        self.tasks.push(thread::spawn(move || produce(&buffer, numbers)));
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Option<usize>> {
        let mut fresh = None;
        loop {
            if let Some(number) = self.chunk.items.pop_front() {
                return Poll::Ready(Some(number));
            }
            match self.buffer.take(&mut self.chunk, cx.waker(), &mut fresh) {
                Taken::Chunk => {
                    if self.is_eager
                        && let Some(numbers) = self.buffer.resume()
                    {
                        self.start(numbers);
                    }
                }
                Taken::Parked(numbers) => self.start(numbers),
                Taken::WantsWaker => fresh = Some(cx.waker().clone()),
                Taken::Pending => return Poll::Pending,
                Taken::Ended(error) => {
                    assert_eq!(error, Some("over"));
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn next(&mut self) -> Option<usize> {
        block_on(poll_fn(|cx| self.poll(cx)))
    }

    /// The stream is dropped.
    fn leave(self) {
        drop(self.buffer.close());
        self.tasks.into_iter().for_each(|task| task.join().unwrap());
    }
}

fn all_in_order(items: usize, max_items: usize, is_eager: bool) {
    let alive = Arc::new(AtomicUsize::new(0));
    let mut consumer = Consumer::new(max_items, Numbers::up_to(items, &alive));
    consumer.is_eager = is_eager;
    for number in 0..items {
        assert_eq!(consumer.next(), Some(number));
    }
    assert_eq!(consumer.next(), None);
    // Dropped before the end was told.
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    consumer.leave();
}

#[test]
fn who_waits_is_woken_by_items_and_by_the_end() {
    loom::model(|| all_in_order(2, 8, true));
}

#[test]
fn a_full_buffer_parks_and_goes_on_when_it_was_drained() {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_threads = 5;
    builder.check(|| all_in_order(3, 2, true));
}

#[test]
fn one_item_at_a_time() {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_threads = 5;
    builder.check(|| all_in_order(3, 1, true));
}

#[test]
fn a_consumer_that_only_resumes_when_it_has_nothing_gets_all() {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_threads = 5;
    builder.check(|| all_in_order(3, 2, false));
}

#[test]
fn the_bound_holds_whatever_the_consumer_does() {
    loom::model(|| {
        let alive = Arc::new(AtomicUsize::new(0));
        let mut consumer = Consumer::new(2, Numbers::up_to(5, &alive));
        assert_eq!(consumer.next(), Some(0));
        // One was given out, in a chunk that has not come back: two are there at most, this one among them.
        {
            let state = crate::sync::lock(&consumer.buffer.state);
            let made = state.chunks.iter().map(|chunk| chunk.items.len()).sum::<usize>() + 1;
            assert!(made <= 2 && state.items == made, "{made} of {}", state.items);
        }
        consumer.leave();
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn dropped_while_it_is_filled_it_leaves_nothing_behind() {
    loom::model(|| {
        let alive = Arc::new(AtomicUsize::new(0));
        let mut consumer = Consumer::new(1, Numbers::up_to(3, &alive));
        // Polled once, so that it runs; whether an item is there already is not known.
        let mut taken = 0;
        let _ = block_on(poll_fn(|cx| {
            taken += usize::from(matches!(consumer.poll(cx), Poll::Ready(Some(0))));
            Poll::Ready(())
        }));
        assert!(taken <= 1);
        consumer.leave();
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn dropped_by_another_thread_than_the_one_that_polled() {
    loom::model(|| {
        let alive = Arc::new(AtomicUsize::new(0));
        let mut consumer = Consumer::new(1, Numbers::up_to(2, &alive));
        assert_eq!(consumer.next(), Some(0));
        let other = thread::spawn(move || consumer.leave());
        other.join().unwrap();
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    });
}
