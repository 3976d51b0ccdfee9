//! The work outlives the permit, or the run, that its caller was inside. Without them, the work is an ordinary caller.

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use onelane::guard::FlightError;
use onelane::offload::{TaskHandle, from_thread};
use onelane::{BlockingPool, SingleFlight};
use support::leak;
use support::runtimes::multi_thread;
use support::waiting::{soon, spin_until, until};
use tokio::sync::oneshot;

use super::{Call, Hop, KEY, Outcome, World, for_all};

/// Polls `work` once inside both guards and the flight, so that the work has made its hop, and then leaves all three.
async fn hop_and_leave<F: Future<Output = Outcome> + Unpin + Send + 'static>(world: World, work: F) -> F {
    static KEPT: Mutex<Option<Box<dyn std::any::Any + Send>>> = Mutex::new(None);
    let World { guard, keyed, flight, latch, .. } = world;
    latch.send_replace(false);
    let start = move || async move {
        let mut work = work;
        poll_fn(|cx| {
            assert!(Pin::new(&mut work).poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        *KEPT.lock().unwrap() = Some(Box::new(work));
        Ok(())
    };
    guard.run(keyed.run(KEY, async { flight.run(KEY, start).await })).await.unwrap().unwrap().unwrap();
    *KEPT.lock().unwrap().take().unwrap().downcast().unwrap()
}

#[test]
fn call_acquires_what_is_free() {
    for_all(&Hop::ALL, |world, hop, call| async move {
        let work = hop_and_leave(world, hop.make(call, world)).await;
        world.latch.send_replace(true);
        work.await
    });
}

/// The next holder has the same permit, key and run as the caller had. The work waits for that holder.
#[test]
fn call_waits_for_the_next_holder() {
    for_all(&Hop::ALL, |world, hop, call| async move {
        let World { guard, keyed, flight, latch, .. } = world;
        let work = tokio::spawn(hop_and_leave(world, hop.make(call, world)).await);
        let (end, ended) = oneshot::channel::<()>();
        let next = async move {
            let _permits = (guard.try_acquire().unwrap(), keyed.try_acquire(KEY).unwrap());
            let next = flight.run(KEY, || async {
                let _ = ended.await;
                Ok(())
            });
            next.await.unwrap();
        };
        let next = tokio::spawn(next);
        until("the next holder runs", || flight.stats().running == 1).await;
        latch.send_replace(true);
        let is_waiting = || match call {
            Call::Flight => flight.stats().shared == 1,
            _ => guard.stats().waiting + keyed.stats().waiting == 1,
        };
        until("the work waits or ends", || is_waiting() || work.is_finished()).await;
        drop(end);
        next.await.unwrap();
        work.await.unwrap()
    });
}

/// The caller of a run to completion gives up, inside another guard that it still holds. What the run has started no
/// longer belongs to that caller, whether it was started before or after.
#[test]
fn run_that_continues_without_its_caller_leaves_the_guards_of_that_caller() {
    use onelane::{EndpointGuard, run_blocking};
    static OUTER: EndpointGuard = EndpointGuard::new("outer");
    static INNER: EndpointGuard = EndpointGuard::new("inner");

    let runtime = multi_thread(2);
    let acquired = runtime.block_on(async {
        let (give_up, given_up) = mpsc::channel();
        let (report, mut reports) = tokio::sync::mpsc::unbounded_channel();
        let acquire = move || {
            given_up.recv().unwrap();
            report.send(OUTER.acquire_blocking().map(drop)).unwrap();
        };
        let task = OUTER.run(async {
            let mut run = Box::pin(INNER.run_to_completion(async move { run_blocking(acquire).await.unwrap() }));
            let is_pending = poll_fn(|cx| Poll::Ready(run.as_mut().poll(cx).is_pending())).await;
            assert!(is_pending);
            drop(run);
            give_up.send(()).unwrap();
            // The task waits, as any other caller does, until this permit is released.
            until("the task waits or ends", || OUTER.stats().waiting == 1 || OUTER.stats().refused == 1).await;
        });
        task.await.unwrap();
        reports.recv().await.unwrap()
    });
    assert_eq!(acquired, Ok(()));
}

type NumberFlight = SingleFlight<u32, u32, String>;
type NumberRun = Pin<Box<dyn Future<Output = Result<u32, FlightError<String>>> + Send>>;

/// Runs a closure when it is woken, or dropped.
struct Once(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Once {
    fn new(run: impl FnOnce() + Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(run))))
    }

    fn run(&self) {
        let run = self.0.lock().unwrap().take();
        run.into_iter().for_each(|run| run());
    }
}

impl Wake for Once {
    fn wake(self: Arc<Self>) {
        self.run();
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        self.run();
    }
}

fn poll_once(run: &mut NumberRun, waker: &Waker) {
    assert!(run.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
}

/// A destructor of cancelled work starts a task, and another caller joins meanwhile. As soon as that caller is woken, it
/// starts the next run, in the place of the cancelled one. The task is not inside of that run, and shares it.
#[test]
fn task_that_cancelled_work_starts_when_it_is_dropped_shares_the_next_run() {
    let runtime = multi_thread(2);
    runtime.block_on(async {
        let flight: &'static NumberFlight = leak(SingleFlight::new("cancelled"));
        let pool = BlockingPool::new("of the destructor");
        let task = Arc::new(Mutex::new(None::<TaskHandle<Result<u32, FlightError<String>>>>));
        let next_run = Arc::new(Mutex::new(None::<NumberRun>));
        let (go, may_go) = mpsc::channel::<()>();
        let (end, ended) = oneshot::channel::<()>();

        let on_wake = {
            let (task, next_run) = (Arc::clone(&task), Arc::clone(&next_run));
            move || {
                poll_once(next_run.lock().unwrap().as_mut().unwrap(), Waker::noop());
                go.send(()).unwrap();
                let task = task.lock().unwrap();
                spin_until(|| flight.stats().shared == 1 || task.as_ref().unwrap().is_finished());
            }
        };
        let waker = Arc::new(Once::new(on_wake)).into();
        let on_drop = {
            let (task, next_run) = (Arc::clone(&task), Arc::clone(&next_run));
            move || {
                let call = move || {
                    may_go.recv().unwrap();
                    from_thread::block_on(flight.run(KEY, || async { Ok(1) })).unwrap()
                };
                *task.lock().unwrap() = Some(pool.task(move |_| call()).start().unwrap());
                let work = || async {
                    ended.await.unwrap();
                    Ok(2)
                };
                let mut run: NumberRun = Box::pin(flight.run(KEY, work));
                let join = move || {
                    poll_once(&mut run, &waker);
                    *next_run.lock().unwrap() = Some(run);
                };
                thread::spawn(join).join().unwrap();
            }
        };
        let on_drop = Once::new(on_drop);
        let mut cancelled: NumberRun = Box::pin(flight.run(KEY, || async move {
            let _on_drop = on_drop;
            pending().await
        }));
        poll_once(&mut cancelled, Waker::noop());
        drop(cancelled);
        end.send(()).unwrap();
        let task = task.lock().unwrap().take().unwrap();
        assert_eq!(soon("the task ends", task).await.unwrap().map_err(|error| error.kind()), Ok(2));
        let next_run = next_run.lock().unwrap().take().unwrap();
        assert_eq!(soon("the next run ends", next_run).await.unwrap(), 2);
    });
}
