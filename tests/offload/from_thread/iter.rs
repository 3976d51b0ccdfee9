//! `iter_from_stream`.
//!
//! Sleeps are real and short: they check that the timers of the runtime wake the thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use futures::channel::mpsc;
use futures::{StreamExt, stream};
use onelane::offload::from_thread::FromThreadError;
use onelane::offload::iter_from_stream;
use onelane::run_blocking;
use tokio::time::sleep;

use crate::from_thread::support::NotifyOnDrop;
use crate::runtimes::{current_thread, multi_thread};
use support::waiting::soon;

#[test]
fn task_reads_a_stream_of_its_callers_runtime() {
    for runtime in [current_thread(), multi_thread()] {
        runtime.block_on(async {
            let numbers = stream::iter(0..100).then(|number| async move {
                sleep(Duration::from_micros(10)).await;
                number
            });
            let mut numbers = iter_from_stream(numbers);
            assert_eq!(numbers.size_hint(), (100, Some(100)));
            let read =
                run_blocking(move || (numbers.by_ref().collect::<Vec<_>>(), numbers.next(), numbers.size_hint()));
            let (read, after, hint) = soon("the task ends", read).await.unwrap();
            assert!(read.into_iter().eq(0..100));
            assert_eq!((after, hint), (None, (0, Some(0))));
        });
    }
}

#[test]
fn thread_reads_a_stream_in_the_runtime_that_created_the_iterator() {
    let runtime = multi_thread();
    let numbers = runtime.block_on(async {
        iter_from_stream(stream::iter(0..3).then(|number| async move {
            sleep(Duration::from_millis(1)).await;
            number
        }))
    });
    assert_eq!(thread::spawn(move || numbers.collect::<Vec<_>>()).join().unwrap(), [0, 1, 2]);
}

#[test]
fn stream_that_needs_no_runtime_works_without_one() {
    let (mut sender, receiver) = mpsc::channel(0);
    let sends = thread::spawn(move || {
        for number in 0..1_000 {
            while sender.try_send(number).is_err() {
                thread::yield_now();
            }
        }
    });
    assert!(iter_from_stream(receiver).eq(0..1_000));
    sends.join().unwrap();
}

#[test]
fn thread_that_runs_async_tasks_is_refused_and_no_item_is_lost() {
    let mut numbers = current_thread().block_on(async {
        let mut numbers = iter_from_stream(stream::iter([7]));
        assert_eq!(numbers.try_next(), Err(FromThreadError::BlockingInAsync));
        let panic = catch_unwind(AssertUnwindSafe(|| numbers.next())).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("blocking wait on a thread that runs async tasks: use .await"), "{message}");
        numbers
    });
    assert_eq!((numbers.try_next(), numbers.try_next()), (Ok(Some(7)), Ok(None)));
    // The iterator has checked this thread before, but now it runs async tasks. A wait would never end.
    let mut endless = iter_from_stream(stream::iter([1]).chain(stream::pending()));
    assert_eq!(endless.next(), Some(1));
    current_thread().block_on(async { assert_eq!(endless.try_next(), Err(FromThreadError::BlockingInAsync)) });
}

#[test]
fn stream_is_dropped_at_its_end() {
    let (notify, dropped) = NotifyOnDrop::new();
    let mut numbers = iter_from_stream(stream::iter([7]).inspect(move |_| _ = &notify));
    assert_eq!(numbers.next(), Some(7));
    assert!(dropped.try_recv().is_err());
    assert_eq!(numbers.next(), None);
    assert_eq!(dropped.try_recv(), Ok(()));
    assert_eq!(numbers.next(), None);
}
