//! Models of the buffer, checked by loom over every interleaving.
//!
//! A lost wake-up fails a model: loom reports that all threads are blocked.

#![allow(clippy::unwrap_used, reason = "a test fails on an unexpected result")]

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, JoinHandle};

use super::buffer::{Buffer, BufferLimits, Chunk, ParkOutcome, ProducerState, PushOutcome, TakeOutcome};

/// A producer of numbers. `alive` counts the producers that were not dropped.
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

/// Does what a task of the pool does with the producer.
fn produce(buffer: &Shared, mut numbers: Numbers) {
    while numbers.next < numbers.end {
        let number = numbers.next;
        numbers.next += 1;
        match buffer.push(number, 1) {
            PushOutcome::Closed(_) => return,
            PushOutcome::Pushed { is_full, waker } => {
                waker.into_iter().for_each(Waker::wake);
                if is_full {
                    match buffer.park(numbers, false) {
                        ParkOutcome::Parked => return,
                        ParkOutcome::Closed(_) => return,
                        ParkOutcome::HasRoom(returned) => numbers = returned,
                    }
                }
            }
        }
    }
    drop(numbers);
    buffer.end(Some("over")).into_iter().for_each(Waker::wake);
}

/// The stream's side. Its tasks are threads of the model.
struct Consumer {
    buffer: Shared,
    chunk: Chunk<usize>,
    tasks: Vec<JoinHandle<()>>,
    is_eager: bool,
}

impl Consumer {
    fn new(max_items: usize, numbers: Numbers) -> Self {
        let limits = BufferLimits { max_items, max_bytes: None };
        let buffer = Arc::new(Buffer::new(limits, numbers));
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
                TakeOutcome::Chunk => {
                    if self.is_eager
                        && let Some(numbers) = self.buffer.resume()
                    {
                        self.start(numbers);
                    }
                }
                TakeOutcome::Parked(numbers) => self.start(numbers),
                TakeOutcome::NeedsWaker => fresh = Some(cx.waker().clone()),
                TakeOutcome::Pending => return Poll::Pending,
                TakeOutcome::Ended(error) => {
                    assert_eq!(error, Some("over"));
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn next(&mut self) -> Option<usize> {
        block_on(poll_fn(|cx| self.poll(cx)))
    }

    /// Does what dropping the stream does.
    fn close(self) {
        drop(self.buffer.close());
        self.tasks.into_iter().for_each(|task| task.join().unwrap());
        assert!(matches!(crate::sync::lock(&self.buffer.state).producer, ProducerState::Closed), "it stays closed");
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
    // The producer is dropped before the consumer sees the end.
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    consumer.close();
}

#[test]
fn waiting_consumer_is_woken_by_items_and_by_the_end() {
    loom::model(|| all_in_order(2, 8, true));
}

#[test]
fn producer_parks_on_a_full_buffer_and_continues_after_it_was_emptied() {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_threads = 5;
    builder.check(|| all_in_order(3, 2, true));
}

#[test]
fn all_items_arrive_in_order_with_a_limit_of_one() {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_threads = 5;
    builder.check(|| all_in_order(3, 1, true));
}

#[test]
fn consumer_that_resumes_only_an_empty_buffer_gets_all_items() {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_threads = 5;
    builder.check(|| all_in_order(3, 2, false));
}

#[test]
fn item_limit_holds_while_the_consumer_has_a_chunk() {
    loom::model(|| {
        let alive = Arc::new(AtomicUsize::new(0));
        let mut consumer = Consumer::new(2, Numbers::up_to(5, &alive));
        assert_eq!(consumer.next(), Some(0));
        // The consumer has one item, in a chunk that it has not returned: at most two exist, including this one.
        {
            let state = crate::sync::lock(&consumer.buffer.state);
            let produced = state.chunks.iter().map(|chunk| chunk.items.len()).sum::<usize>() + 1;
            assert!(produced <= 2 && state.items == produced, "{produced} of {}", state.items);
        }
        consumer.close();
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn stream_dropped_while_its_buffer_is_filled_drops_the_producer() {
    loom::model(|| {
        let alive = Arc::new(AtomicUsize::new(0));
        let mut consumer = Consumer::new(1, Numbers::up_to(3, &alive));
        // Polled once, so that the producer runs. It may have produced an item already.
        let mut taken = 0;
        let _ = block_on(poll_fn(|cx| {
            taken += usize::from(matches!(consumer.poll(cx), Poll::Ready(Some(0))));
            Poll::Ready(())
        }));
        assert!(taken <= 1);
        consumer.close();
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn stream_dropped_by_a_thread_that_did_not_poll_it_drops_the_producer() {
    loom::model(|| {
        let alive = Arc::new(AtomicUsize::new(0));
        let mut consumer = Consumer::new(1, Numbers::up_to(2, &alive));
        assert_eq!(consumer.next(), Some(0));
        let other = thread::spawn(move || consumer.close());
        other.join().unwrap();
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    });
}
