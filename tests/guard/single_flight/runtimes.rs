//! The driver of a run: a task, or one of the callers.

use std::future::{Future, pending, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use futures::executor::block_on;
use futures::future::join_all;
use tokio_test::{assert_pending, assert_ready_ok};

use support::polling::PanickingWaker;
use support::runtimes::{current_thread, multi_thread};
use support::waiting::spin_until;

use super::{WorkResult, assert_idle, caller, flight, joined, settle};

/// Wakes work from outside, so that the work needs no runtime.
#[derive(Default)]
struct Signal {
    signals: AtomicUsize,
    waker: Mutex<Option<Waker>>,
    polls: AtomicUsize,
    starts: AtomicUsize,
}

impl Signal {
    fn send(&self) {
        self.signals.fetch_add(1, Ordering::SeqCst);
        if let Some(waker) = self.waker.lock().unwrap().take() {
            waker.wake();
        }
    }

    fn work(self: &Arc<Self>, steps: usize) -> impl Future<Output = WorkResult> + Send + 'static + use<> {
        self.starts.fetch_add(1, Ordering::SeqCst);
        let signal = Arc::clone(self);
        poll_fn(move |cx| {
            signal.polls.fetch_add(1, Ordering::SeqCst);
            *signal.waker.lock().unwrap() = Some(cx.waker().clone());
            if signal.signals.load(Ordering::SeqCst) >= steps { Poll::Ready(Ok(7)) } else { Poll::Pending }
        })
    }
}

#[test]
fn caller_on_another_runtime_takes_over_when_the_runtime_of_the_driver_task_is_shut_down() {
    let flight = flight();
    let signal = Arc::<Signal>::default();
    let (doomed, survivor) = (multi_thread(1), current_thread());
    // The first caller runs on the runtime that is shut down later, and is dropped with it.
    let work = signal.work(2);
    let first = doomed.spawn(async move { flight.run(0, || work).await });
    spin_until(|| flight.len() == 1);
    // The driver task runs there, too, because the caller that spawned it does.
    let on_doomed = doomed.spawn(async move { flight.run(0, pending).await });
    spin_until(|| flight.stats().waiting == 2);
    let mut other = {
        let _entered = survivor.enter();
        joined(flight, 0)
    };
    signal.send();
    drop((first, on_doomed));
    drop(doomed);
    assert_eq!(flight.stats().waiting, 1);
    assert!(other.is_woken(), "the run has no driver, so this caller has to drive it");
    let _entered = survivor.enter();
    assert_pending!(other.poll());
    signal.send();
    assert!(other.is_woken());
    assert_eq!(assert_ready_ok!(other.poll()), 7);
    assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().runs, flight.stats().cancelled), (1, 1, 0));
    assert_idle(flight);
}

#[test]
fn callers_on_another_runtime_get_a_new_driver_task_when_the_first_runtime_is_shut_down() {
    let flight = flight();
    let signal = Arc::<Signal>::default();
    let (doomed, survivor) = (multi_thread(1), multi_thread(1));
    let work = signal.work(2);
    drop(doomed.spawn(async move { flight.run(0, || work).await }));
    spin_until(|| flight.len() == 1);
    drop(doomed.spawn(async move { flight.run(0, pending).await }));
    spin_until(|| flight.stats().waiting == 2);
    let others: Vec<_> = (0..3).map(|_| survivor.spawn(async move { flight.run(0, pending).await })).collect();
    spin_until(|| flight.stats().waiting == 5);
    let polls = signal.polls.load(Ordering::SeqCst);
    drop(doomed);
    spin_until(|| signal.polls.load(Ordering::SeqCst) > polls);
    signal.send();
    signal.send();
    for other in survivor.block_on(join_all(others)) {
        assert_eq!(other.unwrap().unwrap(), 7);
    }
    assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().runs, flight.stats().cancelled), (1, 1, 0));
    assert_idle(flight);
}

#[test]
fn repeated_runtime_shutdowns_lose_no_run() {
    for round in 0..50 {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let survivor = multi_thread(1);
        let doomed = multi_thread(2);
        let work = signal.work(3);
        drop(doomed.spawn(async move { flight.run(0, || work).await }));
        spin_until(|| flight.len() == 1);
        let other = survivor.spawn(async move { flight.run(0, pending).await });
        let more = (round % 2 == 0).then(|| survivor.spawn(async move { flight.run(0, pending).await }));
        spin_until(|| flight.stats().waiting == 2 + usize::from(more.is_some()));
        let sender = {
            let signal = Arc::clone(&signal);
            thread::spawn(move || (0..3).for_each(|_| signal.send()))
        };
        drop(doomed);
        sender.join().unwrap();
        assert_eq!(survivor.block_on(other).unwrap().unwrap(), 7);
        if let Some(more) = more {
            assert_eq!(survivor.block_on(more).unwrap().unwrap(), 7);
        }
        assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().cancelled), (1, 0));
        assert_idle(flight);
    }
}

/// The handle of a runtime that was shut down accepts tasks and drops them at once.
#[test]
fn callers_inside_a_runtime_that_was_shut_down_drive_the_run_themselves() {
    let runtime = current_thread();
    let handle = runtime.handle().clone();
    let _entered = handle.enter();
    drop(runtime);
    let flight = flight();
    let signal = Arc::<Signal>::default();
    let mut first = caller(flight, 0, signal.work(1));
    assert_pending!(first.poll());
    let mut second = joined(flight, 0);
    for _ in 0..10 {
        assert_pending!(first.poll());
        assert_pending!(second.poll());
    }
    signal.send();
    // The caller that drives the run completes it.
    let mut all = [Some(first), Some(second)];
    spin_until(|| {
        for caller in &mut all {
            if caller.as_mut().is_some_and(|caller| caller.is_woken()) {
                match caller.as_mut().unwrap().poll() {
                    Poll::Ready(output) => {
                        assert_eq!(output.unwrap(), 7);
                        *caller = None;
                    }
                    Poll::Pending => {}
                }
            }
        }
        all.iter().all(Option::is_none)
    });
    assert_eq!((flight.stats().runs, flight.stats().cancelled), (1, 0));
    assert_idle(flight);
}

#[test]
fn callers_take_over_from_a_driver_task_of_another_runtime() {
    for is_polled in [false, true] {
        let flight = flight();
        let signal = Arc::<Signal>::default();
        let runtime = current_thread();
        let mut first = caller(flight, 0, signal.work(1));
        assert_pending!(first.poll());
        let mut second = {
            let _entered = runtime.enter();
            joined(flight, 0)
        };
        if is_polled {
            runtime.block_on(settle());
            assert_eq!(signal.polls.load(Ordering::SeqCst), 2, "the driver task polls the work");
        }
        assert!(!first.is_woken() && !second.is_woken());
        drop(runtime);
        assert!(first.is_woken() && second.is_woken(), "one of them has to drive the run");
        assert_pending!(second.poll());
        assert_pending!(first.poll());
        signal.send();
        assert!(second.is_woken());
        assert_eq!(assert_ready_ok!(second.poll()), 7);
        assert_eq!(assert_ready_ok!(first.poll()), 7);
        assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().cancelled), (1, 0));
    }
}

#[test]
fn driver_task_spawned_while_a_caller_polls_the_work_continues_it() {
    let flight = flight();
    let runtime = current_thread();
    let signal = Arc::<Signal>::default();
    let (started, has_started) = mpsc::channel();
    let (finish, may_finish) = mpsc::channel();
    let mut work = Box::pin(signal.work(1));
    let mut is_first = true;
    let mut first = caller(
        flight,
        0,
        poll_fn(move |cx| {
            if std::mem::replace(&mut is_first, false) {
                started.send(()).unwrap();
                may_finish.recv().unwrap();
            }
            work.as_mut().poll(cx)
        }),
    );
    let polls = thread::spawn(move || {
        assert_pending!(first.poll());
        first
    });
    has_started.recv().unwrap();
    let _entered = runtime.enter();
    let mut second = joined(flight, 0);
    runtime.block_on(settle());
    finish.send(()).unwrap();
    // The first caller is kept, but not polled again.
    let _first = polls.join().unwrap();
    runtime.block_on(settle());
    assert_eq!(signal.polls.load(Ordering::SeqCst), 2, "the driver task polls the work");
    signal.send();
    runtime.block_on(settle());
    assert!(second.is_woken());
    assert_eq!(assert_ready_ok!(second.poll()), 7);
}

#[test]
fn caller_that_polls_on_a_runtime_spawns_a_driver_task() {
    let flight = flight();
    let signal = Arc::<Signal>::default();
    let mut first = caller(flight, 0, signal.work(1));
    assert_pending!(first.poll());
    let mut second = joined(flight, 0);
    let runtime = current_thread();
    let _entered = runtime.enter();
    assert_pending!(first.poll());
    // The first caller is kept, but not polled again.
    signal.send();
    runtime.block_on(settle());
    assert!(second.is_woken());
    assert_eq!(assert_ready_ok!(second.poll()), 7);
}

#[test]
fn callers_on_two_runtimes_share_a_run() {
    let flight = flight();
    let signal = Arc::<Signal>::default();
    let runtimes = [multi_thread(1), multi_thread(1)];
    let callers: Vec<_> = (0..10)
        .map(|i| {
            let signal = Arc::clone(&signal);
            let caller = runtimes[i % 2].spawn(async move { flight.run(0, || signal.work(1)).await });
            spin_until(|| flight.stats().waiting == i + 1);
            caller
        })
        .collect();
    signal.send();
    for (i, caller) in callers.into_iter().enumerate() {
        assert_eq!(runtimes[i % 2].block_on(caller).unwrap().unwrap(), 7);
    }
    assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().shared), (1, 9));
}

#[test]
fn callers_on_plain_threads_share_a_run() {
    let flight = flight();
    let signal = Arc::<Signal>::default();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let signal = Arc::clone(&signal);
            thread::spawn(move || block_on(flight.run(0, || signal.work(1))))
        })
        .collect();
    spin_until(|| flight.stats().waiting == 8);
    signal.send();
    for caller in callers {
        assert_eq!(caller.join().unwrap().unwrap(), 7);
    }
    assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().shared), (1, 7));
    assert_idle(flight);
}

#[test]
fn without_a_runtime_a_cancelled_driver_passes_the_work_to_another_caller() {
    let flight = flight();
    let signal = Arc::<Signal>::default();
    let mut callers = vec![caller(flight, 0, signal.work(1))];
    assert_pending!(callers[0].poll());
    callers.extend((0..3).map(|_| joined(flight, 0)));
    while callers.len() > 1 {
        drop(callers.remove(0));
        assert!(callers.iter().all(|caller| caller.is_woken()), "each of them may have to drive the run");
        let polls = signal.polls.load(Ordering::SeqCst);
        for caller in &mut callers {
            assert_pending!(caller.poll());
        }
        assert_eq!(signal.polls.load(Ordering::SeqCst), polls + 1, "one of them drives the run");
    }
    signal.send();
    assert!(callers[0].is_woken());
    assert_eq!(assert_ready_ok!(callers[0].poll()), 7);
    assert_eq!((signal.starts.load(Ordering::SeqCst), flight.stats().cancelled), (1, 0));
}

#[test]
fn without_a_runtime_a_caller_that_joins_a_run_without_a_driver_drives_at_once() {
    let flight = flight();
    let signal = Arc::<Signal>::default();
    let mut first = caller(flight, 0, signal.work(1));
    assert_pending!(first.poll());
    let second = joined(flight, 0);
    drop(first);
    assert!(second.is_woken(), "the second caller may drive now");
    // The second caller is not polled again, but a third one joins.
    let polls = signal.polls.load(Ordering::SeqCst);
    let mut third = joined(flight, 0);
    assert_eq!(signal.polls.load(Ordering::SeqCst), polls + 1, "no other caller would drive the run");
    signal.send();
    assert!(third.is_woken());
    assert_eq!(assert_ready_ok!(third.poll()), 7);
}

#[test]
fn caller_with_a_runtime_spawns_a_driver_task_for_callers_without() {
    let flight = flight();
    let signal = Arc::<Signal>::default();
    let mut first = caller(flight, 0, signal.work(1));
    assert_pending!(first.poll());
    let mut second = joined(flight, 0);
    let runtime = current_thread();
    let third = {
        let _entered = runtime.enter();
        joined(flight, 0)
    };
    signal.send();
    assert_eq!(runtime.block_on(third).unwrap(), 7);
    assert!(first.is_woken() && second.is_woken());
    assert_eq!(assert_ready_ok!(first.poll()), 7);
    assert_eq!(assert_ready_ok!(second.poll()), 7);
}

#[test]
fn work_that_completes_at_once_needs_no_runtime() {
    assert_eq!(block_on(flight().run(0, || ready(Ok(7)))).unwrap(), 7);
}

#[test]
fn latest_waker_is_the_one_that_is_woken() {
    struct Flag(AtomicUsize);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let flight = flight();
    let signal = Arc::<Signal>::default();
    let mut first = caller(flight, 0, signal.work(1));
    assert_pending!(first.poll());
    let mut second = Box::pin(flight.run(0, pending));
    let flags = [0, 1, 2].map(|_| Arc::new(Flag(AtomicUsize::new(0))));
    for flag in &flags {
        let waker = Waker::from(Arc::clone(flag));
        assert_pending!(second.as_mut().poll(&mut Context::from_waker(&waker)));
        assert_pending!(second.as_mut().poll(&mut Context::from_waker(&waker)));
    }
    assert_eq!(flags.each_ref().map(Arc::strong_count), [1, 1, 2], "the caller keeps only its latest waker");
    signal.send();
    assert_eq!(assert_ready_ok!(first.poll()), 7);
    assert_eq!(flags.each_ref().map(|flag| flag.0.load(Ordering::SeqCst)), [0, 0, 1]);
}

#[test]
fn panicking_waker_keeps_the_outcome_from_no_other_caller() {
    let flight = flight();
    let signal = Arc::<Signal>::default();
    let mut first = caller(flight, 0, signal.work(1));
    assert_pending!(first.poll());
    let mut panics = Box::pin(flight.run(0, pending));
    let waker = Waker::from(Arc::new(PanickingWaker));
    assert_pending!(panics.as_mut().poll(&mut Context::from_waker(&waker)));
    let mut third = joined(flight, 0);
    signal.send();
    // The first caller polls the work and wakes the others, and the panic of the waker passes through it.
    assert!(catch_unwind(AssertUnwindSafe(|| first.poll())).is_err());
    drop(first);
    assert!(third.is_woken());
    assert_eq!(assert_ready_ok!(third.poll()), 7);
    drop(panics);
    assert_idle(flight);
}
