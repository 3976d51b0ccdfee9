//! `Portal` and `PortalTask`.
//!
//! Sleeps are real and short: they check that the timers of the runtime wake the task.

use std::cell::RefCell;
use std::future::{pending, ready};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use onelane::offload::from_thread::{FromThreadError, Portal};
use onelane::run_blocking;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::from_thread::support::NotifyOnDrop;
use crate::runtimes::{current_thread, multi_thread};
use support::polling::PanickingWaker;
use support::waiting::{PATIENCE, soon, spin_until};

/// Creates a portal to a runtime that runs until the sender is dropped.
fn portal_elsewhere() -> (Portal, oneshot::Sender<()>, thread::JoinHandle<()>) {
    let (send, receive) = mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let run = move || {
        current_thread().block_on(async {
            send.send(Portal::current().unwrap()).unwrap();
            let _ = stopped.await;
        });
    };
    let thread = thread::spawn(run);
    (receive.recv().unwrap(), stop, thread)
}

#[test]
fn threads_call_into_the_runtime_of_the_portal() {
    for runtime in [current_thread(), multi_thread()] {
        runtime.block_on(async {
            let here = Handle::current().id();
            let portal = Portal::current().unwrap();
            let (end, ended) = oneshot::channel();
            let caller = thread::spawn(move || {
                let id = portal.call(async {
                    sleep(Duration::from_millis(1)).await;
                    Handle::current().id()
                });
                end.send(id).unwrap();
            });
            assert_eq!(soon("the task ends", ended).await.unwrap(), Ok(here));
            caller.join().unwrap();
        });
    }
    assert_eq!(Portal::current().unwrap_err(), FromThreadError::NoRuntime);
}

#[test]
fn started_portal_works_in_a_program_without_a_runtime() {
    let portal = Portal::start().unwrap();
    assert_eq!(portal.call(async { tokio::spawn(ready(7)).await.unwrap() }), Ok(7));
    let task = portal.spawn(async {
        sleep(Duration::from_millis(1)).await;
        8
    });
    assert_eq!(task.unwrap().wait(), Ok(8));
}

#[test]
fn task_reports_when_it_is_finished() {
    let portal = Portal::start().unwrap();
    let (go, gone) = oneshot::channel::<()>();
    let task = portal.spawn(gone).unwrap();
    assert!(!task.is_finished());
    go.send(()).unwrap();
    spin_until(|| task.is_finished());
    assert_eq!(task.wait(), Ok(Ok(())));
}

#[test]
fn cancelled_task_is_dropped_and_others_continue() {
    let portal = Portal::start().unwrap();
    let (notify, dropped) = NotifyOnDrop::new();
    let task = portal.spawn(async move {
        let _notify = notify;
        pending::<()>().await;
    });
    let task = task.unwrap();
    // Real time: this task still runs when the first one is cancelled.
    let other = portal.spawn(async { sleep(Duration::from_millis(5)).await }).unwrap();
    task.cancel();
    assert_eq!(task.wait(), Err(FromThreadError::Cancelled));
    assert_eq!(dropped.try_recv(), Ok(()));
    assert_eq!(other.wait(), Ok(()));
    // Cancelling a task that has ended changes nothing.
    let task = portal.spawn(ready(7)).unwrap();
    spin_until(|| task.is_finished());
    task.cancel();
    assert_eq!(task.wait(), Ok(7));
}

#[test]
fn panic_has_message_and_location_and_the_portal_still_works() {
    let portal = Portal::start().unwrap();
    let Err(FromThreadError::Panicked(panic)) = portal.call(async { panic!("async") }) else {
        panic!("the task panics")
    };
    assert_eq!(panic.message(), "async");
    let payload = panic.clone().into_payload().unwrap();
    assert_eq!(payload.downcast_ref(), Some(&"async"));
    assert!(panic.location().unwrap().contains("portal.rs:"));
    assert_eq!(portal.call(ready(7)), Ok(7));
}

#[test]
fn closed_portal_refuses_new_calls_and_running_tasks_end() {
    let (elsewhere, stop, thread) = portal_elsewhere();
    for portal in [elsewhere, Portal::start().unwrap()] {
        let (go, gone) = oneshot::channel();
        let task = portal.spawn(gone).unwrap();
        let mut drained = tokio_test::task::spawn(portal.drained());
        assert!(drained.poll().is_pending() && !portal.is_closed());
        portal.close();
        portal.close();
        assert!(portal.is_closed());
        assert_eq!(portal.call(ready(7)), Err(FromThreadError::Closed));
        assert_eq!(portal.clone().spawn(ready(7)).unwrap_err(), FromThreadError::Closed);
        assert!(drained.poll().is_pending() && !task.is_finished());
        go.send(7).unwrap();
        assert_eq!(task.wait(), Ok(Ok(7)));
        spin_until(|| drained.poll().is_ready());
    }
    drop(stop);
    thread.join().unwrap();
}

#[test]
fn cancelled_portal_cancels_running_tasks_and_refuses_new_ones() {
    let (elsewhere, stop, thread) = portal_elsewhere();
    for portal in [elsewhere, Portal::start().unwrap()] {
        let (notify, dropped) = NotifyOnDrop::new();
        let task = portal.spawn(async move {
            let _notify = notify;
            pending::<()>().await;
        });
        let (task, late) = (task.unwrap(), portal.spawn(pending::<()>()).unwrap());
        let (notify, detached) = NotifyOnDrop::new();
        let hold = portal.spawn(async move {
            let _notify = notify;
            pending::<()>().await;
        });
        hold.unwrap().detach();
        portal.cancel();
        portal.cancel();
        assert!(portal.is_closed());
        assert_eq!(portal.call(ready(7)), Err(FromThreadError::Closed));
        assert_eq!(portal.clone().spawn(ready(7)).unwrap_err(), FromThreadError::Closed);
        assert_eq!(task.wait(), Err(FromThreadError::Cancelled));
        // Cancelled after the portal was cancelled, and perhaps after its runtime has ended.
        late.cancel();
        assert_eq!(late.wait(), Err(FromThreadError::Cancelled));
        assert_eq!(dropped.recv_timeout(PATIENCE), Ok(()));
        assert_eq!(detached.recv_timeout(PATIENCE), Ok(()));
    }
    drop(stop);
    thread.join().unwrap();
}

#[test]
fn task_whose_handle_is_dropped_is_cancelled_and_a_detached_one_goes_on() {
    let portal = Portal::start().unwrap();
    let hold = |notify: NotifyOnDrop, gone: oneshot::Receiver<()>| async move {
        let _notify = notify;
        gone.await
    };
    let (notify, dropped) = NotifyOnDrop::new();
    let (_go, gone) = oneshot::channel();
    drop(portal.spawn(hold(notify, gone)).unwrap());
    assert_eq!(dropped.recv_timeout(PATIENCE), Ok(()));

    let (notify, ended) = NotifyOnDrop::new();
    let (go, gone) = oneshot::channel();
    portal.spawn(hold(notify, gone)).unwrap().detach();
    // The runtime has one thread: tasks that were woken before this call have run.
    portal.call(tokio::task::yield_now()).unwrap();
    assert!(ended.try_recv().is_err());
    go.send(()).unwrap();
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(()));
}

#[test]
fn task_that_is_dropped_before_it_has_started_never_runs() {
    let portal = Portal::start().unwrap();
    let (go, gone) = mpsc::channel::<()>();
    // Blocks the only thread of the runtime, so that the other tasks can't start.
    let busy = portal.spawn(async move { gone.recv().unwrap_or_default() }).unwrap();
    let ran = Arc::new(AtomicUsize::new(0));
    let count = || {
        let ran = Arc::clone(&ran);
        async move { ran.fetch_add(1, Ordering::SeqCst) }
    };
    drop(portal.spawn(count()).unwrap());
    portal.spawn(count()).unwrap().detach();
    drop(go);
    busy.wait().unwrap();
    portal.call(tokio::task::yield_now()).unwrap();
    assert_eq!(ran.load(Ordering::SeqCst), 1, "the detached task");
}

#[test]
fn thread_of_a_started_portal_ends_with_the_last_portal_or_task() {
    thread_local! {
        static NOTIFY: RefCell<Option<NotifyOnDrop>> = const { RefCell::new(None) };
    }
    let portal = Portal::start().unwrap();
    let (notify, ended) = NotifyOnDrop::new();
    portal.call(async move { NOTIFY.set(Some(notify)) }).unwrap();
    let (go, gone) = oneshot::channel();
    let (task, other) = (portal.spawn(gone).unwrap(), portal.spawn(pending::<()>()).unwrap());
    drop(portal.clone());
    drop(portal);
    // Waiting for a task needs no portal.
    go.send(7).unwrap();
    assert_eq!(task.wait(), Ok(Ok(7)));
    assert!(ended.try_recv().is_err());
    drop(other);
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(()));
}

#[test]
fn portal_dropped_by_its_own_task_ends() {
    let (go, gone) = oneshot::channel();
    let (notify, ended) = NotifyOnDrop::new();
    let portal = Portal::start().unwrap();
    let inside = portal.clone();
    let task = portal.spawn(async move {
        gone.await.unwrap();
        let _notify = notify;
        drop(inside);
        pending::<()>().await;
    });
    task.unwrap().detach();
    drop(portal);
    go.send(()).unwrap();
    assert_eq!(ended.recv_timeout(PATIENCE), Ok(()));
}

#[test]
fn portal_without_its_runtime_neither_hangs_nor_panics() {
    let (portal, stop, thread) = portal_elsewhere();
    let task = portal.spawn(pending::<()>()).unwrap();
    let cancelled = portal.spawn(pending::<()>()).unwrap();
    drop(stop);
    thread.join().unwrap();
    cancelled.cancel();
    assert!(cancelled.is_finished());
    assert_eq!(cancelled.wait(), Err(FromThreadError::Cancelled));
    assert_eq!(task.wait(), Err(FromThreadError::Closed));
    assert_eq!(portal.call(ready(7)), Err(FromThreadError::Closed));
    portal.close();
}

#[test]
fn calls_from_many_threads_all_return_while_the_portal_stops() {
    for round in 0..20 {
        call_until_refused(&Portal::start().unwrap(), round, Portal::close);
        call_until_refused(&Portal::start().unwrap(), round, Portal::cancel);

        let (portal, stop, thread) = portal_elsewhere();
        call_until_refused(&portal, round, |_| {
            drop(stop);
            thread.join().unwrap();
        });
    }
}

/// Calls the portal from many threads, and stops it in the meantime.
fn call_until_refused(portal: &Portal, calls: usize, stop: impl FnOnce(&Portal)) {
    let done = AtomicUsize::new(0);
    let call = || {
        loop {
            match portal.call(async { tokio::task::yield_now().await }) {
                Ok(()) => done.fetch_add(1, Ordering::SeqCst),
                Err(FromThreadError::Closed | FromThreadError::Cancelled) => return,
                Err(other) => panic!("{other:?}"),
            };
        }
    };
    thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(call)));
        spin_until(|| done.load(Ordering::SeqCst) > calls);
        stop(portal);
    });
}

#[tokio::test]
async fn portal_on_a_thread_that_runs_async_tasks_spawns_but_does_not_wait() {
    let portal = Portal::current().unwrap();
    let is_polled = Arc::new(AtomicBool::new(false));
    let polled = Arc::clone(&is_polled);
    let call = portal.call(async move { polled.store(true, Ordering::SeqCst) });
    assert_eq!(call, Err(FromThreadError::BlockingInAsync));
    let task = portal.spawn(ready(7)).unwrap();
    tokio::task::yield_now().await;
    assert!(!is_polled.load(Ordering::SeqCst));
    assert_eq!(soon("the task ends", run_blocking(|| task.wait())).await, Ok(Ok(7)));
    let (notify, dropped) = NotifyOnDrop::new();
    let task = portal.spawn(async move {
        let _notify = notify;
        pending::<()>().await;
    });
    assert_eq!(task.unwrap().wait(), Err(FromThreadError::BlockingInAsync));
    tokio::task::yield_now().await;
    assert_eq!(dropped.try_recv(), Ok(()), "the handle was dropped, which cancels the task");
}

thread_local! {
    static ENDS: RefCell<Option<NotifyOnDrop>> = const { RefCell::new(None) };
}

#[test]
fn waker_that_panics_keeps_no_caller_of_drained_and_no_thread_waiting() {
    let portal = Portal::start().unwrap();
    let mut panicking = Box::pin(portal.drained());
    let waker = Waker::from(Arc::new(PanickingWaker));
    assert!(panicking.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let mut other = tokio_test::task::spawn(portal.drained());
    assert!(other.poll().is_pending());
    let (ends, has_ended) = NotifyOnDrop::new();
    portal.call(async { ENDS.set(Some(ends)) }).unwrap();
    portal.close();
    spin_until(|| other.is_woken());
    spin_until(|| other.poll().is_ready());
    has_ended.recv_timeout(PATIENCE).expect("the thread of the portal ends");
}
