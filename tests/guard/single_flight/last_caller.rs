//! The last caller is cancelled, and with it the run.

use std::future::{Future, pending, ready};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use onelane::guard::FlightErrorKind;
use tokio::sync::oneshot;
use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready, assert_ready_ok};

use support::leak;
use support::runtimes::{current_thread, multi_thread, paused};
use support::waiting::spin_until;

use super::{
    Flight, OnDrop, WorkResult, assert_idle, assert_starts_fresh, caller, flight, joined, joiner, quiet_panic, settle,
};
use crate::SECOND;

/// What the destructor of the work observed.
#[derive(Default)]
struct Dropped {
    times: AtomicUsize,
    keys: AtomicUsize,
}

/// Returns work that never completes, and whose destructor inspects the flight.
fn endless(flight: &'static Flight, dropped: &Arc<Dropped>) -> impl Future<Output = WorkResult> + Send + 'static {
    let dropped = Arc::clone(dropped);
    let on_drop = OnDrop(move || {
        dropped.keys.store(flight.len(), Ordering::SeqCst);
        dropped.times.fetch_add(1, Ordering::SeqCst);
    });
    async move {
        let _on_drop = on_drop;
        pending().await
    }
}

fn cancel_all_callers(callers: usize, run_driver_task: impl Fn()) {
    let flight = flight();
    let dropped = Arc::new(Dropped::default());
    dropped.keys.store(usize::MAX, Ordering::SeqCst);
    let mut first = caller(flight, 0, endless(flight, &dropped));
    assert_pending!(first.poll());
    let mut all = vec![first];
    all.extend((1..callers).map(|_| joined(flight, 0)));
    run_driver_task();
    for remaining in (0..callers).rev() {
        assert_eq!((flight.len(), flight.stats().waiting), (1, remaining + 1));
        assert_eq!(dropped.times.load(Ordering::SeqCst), 0);
        drop(all.remove(remaining / 2));
    }
    assert_eq!(dropped.times.load(Ordering::SeqCst), 1, "the work is dropped during the drop of the last caller");
    assert_eq!(dropped.keys.load(Ordering::SeqCst), 0, "the key was removed before the work was dropped");
    assert_idle(flight);
    assert_eq!(flight.stats().cancelled, 1);
    assert_starts_fresh(flight, 0);
    run_driver_task();
    assert_eq!(flight.stats().runs, 2);
}

#[test]
fn work_is_dropped_with_the_last_caller_without_a_runtime() {
    (1..=4).for_each(|callers| cancel_all_callers(callers, || ()));
}

#[test]
fn work_is_dropped_with_the_last_caller_before_the_driver_task_has_run() {
    let runtime = current_thread();
    let _entered = runtime.enter();
    (1..=4).for_each(|callers| cancel_all_callers(callers, || ()));
}

#[test]
fn work_is_dropped_with_the_last_caller_after_the_driver_task_has_polled_it() {
    let runtime = current_thread();
    let _entered = runtime.enter();
    (1..=4).for_each(|callers| cancel_all_callers(callers, || runtime.block_on(settle())));
}

/// Drops the last caller on another thread. The work's destructor blocks there until `test` returns.
fn while_the_destructor_runs(flight: &'static Flight, test: impl FnOnce()) {
    let (started, has_started) = mpsc::channel();
    let (finish, may_finish) = mpsc::channel();
    let on_drop = OnDrop(move || {
        started.send(()).unwrap();
        may_finish.recv().unwrap();
    });
    let mut first = caller(flight, 0, async move {
        let _on_drop = on_drop;
        pending().await
    });
    assert_pending!(first.poll());
    let dropping = thread::spawn(move || drop(first));
    has_started.recv().unwrap();
    test();
    finish.send(()).unwrap();
    dropping.join().unwrap();
}

/// Returns work that panics if it starts before `may_begin` is set.
fn later(may_begin: &Arc<AtomicBool>) -> impl Future<Output = WorkResult> + Send + 'static {
    let may_begin = Arc::clone(may_begin);
    async move {
        assert!(may_begin.load(Ordering::SeqCst), "the run started before the previous one was dropped");
        Ok(8)
    }
}

#[test]
fn caller_during_the_drop_of_the_work_waits_and_starts_a_new_run() {
    let runtime = current_thread();
    for has_runtime in [false, true] {
        let _entered = has_runtime.then(|| runtime.enter());
        let flight = flight();
        let may_begin = Arc::new(AtomicBool::new(false));
        let mut late = [0, 1].map(|_| caller(flight, 0, later(&may_begin)));
        while_the_destructor_runs(flight, || {
            for caller in &mut late {
                assert_pending!(caller.poll());
                assert_pending!(caller.poll());
                assert!(!caller.is_woken());
            }
            assert_eq!((flight.len(), flight.stats().waiting, flight.stats().shared), (0, 2, 0));
            assert!(!flight.forget(&0), "there is no run to forget, and `forget` must not let a second run start");
            assert_pending!(late[0].poll());
            may_begin.store(true, Ordering::SeqCst);
        });
        for caller in &mut late {
            assert!(caller.is_woken());
            assert_eq!(assert_ready_ok!(caller.poll()), 8);
        }
        assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().cancelled), (3, 0, 1));
        assert_idle(flight);
    }
}

#[test]
fn caller_during_the_drop_of_the_work_can_be_cancelled() {
    let flight = flight();
    let mut kept = caller(flight, 0, ready(Ok(8)));
    while_the_destructor_runs(flight, || {
        let dropped = [0, 1].map(|_| joined(flight, 0));
        assert_pending!(kept.poll());
        drop(dropped);
        assert_eq!(flight.stats().waiting, 1);
    });
    assert!(kept.is_woken());
    assert_eq!(assert_ready_ok!(kept.poll()), 8);
    while_the_destructor_runs(flight, || drop(joined(flight, 0)));
    assert_idle(flight);
    assert_starts_fresh(flight, 0);
    assert_eq!(flight.stats().cancelled, 2);
}

#[test]
fn limits_apply_while_the_work_is_dropped() {
    let runtime = paused();
    let _entered = runtime.enter();
    let flight = leak(Flight::builder("limits").max_waiters(0).max_wait(SECOND).build());
    while_the_destructor_runs(flight, || {
        let mut waiter = joined(flight, 0);
        let refused = assert_ready!(joiner(flight, 0).poll());
        assert!(matches!(refused, Err(error) if error == FlightErrorKind::TooManyWaiters));
        runtime.block_on(advance(SECOND));
        assert!(waiter.is_woken());
        assert!(matches!(assert_ready!(waiter.poll()), Err(error) if error == FlightErrorKind::Timeout));
        assert_eq!(flight.stats().waiting, 0);
    });
    assert_idle(flight);
    assert_starts_fresh(flight, 0);
    assert_eq!((flight.stats().refused, flight.stats().timed_out, flight.stats().cancelled), (1, 1, 1));
}

/// How the poll ends during which the last caller is dropped.
#[derive(Clone, Copy, Debug)]
enum PollEnd {
    Pending,
    WithValue,
    WithError,
    WithPanic,
}

#[test]
fn caller_while_cancelled_work_is_polled_waits_and_starts_a_new_run() {
    let runtime = multi_thread(1);
    let _entered = runtime.enter();
    for poll_end in [PollEnd::Pending, PollEnd::WithValue, PollEnd::WithError, PollEnd::WithPanic] {
        let flight = flight();
        let dropped = Arc::new(Dropped::default());
        let (started, has_started) = mpsc::channel();
        let (finish, may_finish) = mpsc::channel();
        let (polled_twice, second_poll) = oneshot::channel();
        let mut on_drop = Some(endless(flight, &dropped));
        let work = async move {
            second_poll.await.unwrap();
            started.send(()).unwrap();
            may_finish.recv().unwrap();
            match poll_end {
                PollEnd::Pending => on_drop.take().unwrap().await,
                PollEnd::WithValue => Ok(7),
                PollEnd::WithError => Err("in the cancelled run"),
                PollEnd::WithPanic => quiet_panic("in the cancelled run"),
            }
        };
        let mut first = caller(flight, 0, work);
        assert_pending!(first.poll());
        let second = joined(flight, 0);
        // From here on, the worker thread is inside a poll of the work.
        polled_twice.send(()).unwrap();
        has_started.recv().unwrap();
        drop(first);
        assert_eq!(flight.len(), 1);
        drop(second);
        assert_idle(flight);
        assert_eq!(dropped.times.load(Ordering::SeqCst), 0, "the work is being polled");
        let may_begin = Arc::new(AtomicBool::new(false));
        let mut late = caller(flight, 0, later(&may_begin));
        assert_pending!(late.poll());
        assert_pending!(late.poll());
        assert!(!late.is_woken());
        may_begin.store(true, Ordering::SeqCst);
        finish.send(()).unwrap();
        spin_until(|| late.is_woken());
        assert_eq!(dropped.times.load(Ordering::SeqCst), 1, "{poll_end:?}");
        assert_eq!(assert_ready_ok!(late.poll()), 8, "{poll_end:?}");
        let stats = flight.stats();
        assert_eq!((stats.runs, stats.shared, stats.cancelled), (2, 1, 1), "{poll_end:?}");
        assert_idle(flight);
    }
}

#[test]
fn cancelled_work_is_dropped_when_the_task_that_polls_it_returns() {
    let runtime = multi_thread(1);
    let _entered = runtime.enter();
    let flight = flight();
    let dropped = Arc::new(Dropped::default());
    let (started, has_started) = mpsc::channel();
    let (finish, may_finish) = mpsc::channel();
    let (wake, woken) = oneshot::channel();
    let rest = endless(flight, &dropped);
    let mut first = caller(flight, 0, async move {
        woken.await.unwrap();
        started.send(()).unwrap();
        may_finish.recv().unwrap();
        rest.await
    });
    assert_pending!(first.poll());
    let second = joined(flight, 0);
    wake.send(()).unwrap();
    has_started.recv().unwrap();
    drop((first, second));
    assert_eq!(dropped.times.load(Ordering::SeqCst), 0);
    finish.send(()).unwrap();
    spin_until(|| dropped.times.load(Ordering::SeqCst) == 1);
    spin_until(|| flight.stats().cancelled == 1);
    assert_starts_fresh(flight, 0);
}
