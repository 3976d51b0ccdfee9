//! Runs that continue without callers.

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::sleep;
use tokio_test::assert_pending;

use support::leak;
use support::runtimes::current_thread;
use support::waiting::MS;

use super::{
    Flight, WorkResult, assert_idle, assert_starts_fresh, caller, joined, on_demand, quiet_panic, settle, yield_once,
};
use crate::SECOND;

fn detached() -> &'static Flight {
    leak(Flight::builder("detached").detached().build())
}

fn counted(
    work: impl Future<Output = WorkResult> + Send + 'static,
) -> (Arc<AtomicUsize>, impl Future<Output = WorkResult> + Send) {
    let ended = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&ended);
    let work = async move {
        let output = work.await;
        counter.fetch_add(1, Ordering::SeqCst);
        output
    };
    (ended, work)
}

#[tokio::test(start_paused = true)]
async fn run_finishes_without_callers() {
    for callers in [1, 2, 5] {
        let flight = detached();
        let (ended, work) = counted(async {
            sleep(SECOND).await;
            Ok(7)
        });
        let mut first = caller(flight, 0, work);
        assert_pending!(first.poll());
        let others: Vec<_> = (1..callers).map(|_| joined(flight, 0)).collect();
        drop(others);
        drop(first);
        assert_eq!((flight.len(), flight.stats().waiting), (1, 0));
        sleep(SECOND - MS).await;
        assert_eq!((flight.len(), ended.load(Ordering::SeqCst)), (1, 0));
        sleep(2 * MS).await;
        assert_eq!(ended.load(Ordering::SeqCst), 1);
        assert_idle(flight);
        assert_eq!(flight.stats().cancelled, 0);
        assert_starts_fresh(flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn later_caller_joins_the_detached_run() {
    let flight = detached();
    let (finish, work) = on_demand();
    let mut first = caller(flight, 0, work);
    assert_pending!(first.poll());
    drop(first);
    settle().await;
    let late = [0, 1].map(|_| joined(flight, 0));
    let [one, other] = late;
    drop(one);
    finish.send(7).unwrap();
    assert_eq!(other.await.unwrap(), 7);
    assert_eq!((flight.stats().runs, flight.stats().shared, flight.stats().cancelled), (1, 2, 0));
    assert_idle(flight);
}

#[test]
fn run_is_dropped_with_its_last_caller_without_a_runtime() {
    let flight = detached();
    let (ended, work) = counted(async {
        yield_once().await;
        Ok(7)
    });
    let mut first = caller(flight, 0, work);
    assert_pending!(first.poll());
    let second = joined(flight, 0);
    drop(first);
    assert_eq!(flight.len(), 1);
    drop(second);
    assert_eq!(Arc::strong_count(&ended), 1, "the work was not dropped");
    assert_idle(flight);
    assert_eq!(flight.stats().cancelled, 1);
    assert_starts_fresh(flight, 0);
}

#[test]
fn run_whose_runtime_is_shut_down_is_cancelled() {
    // The result is the same if the driver task was never polled.
    for is_polled in [false, true] {
        let runtime = current_thread();
        let flight = detached();
        let (ended, work) = counted(async {
            yield_once().await;
            pending().await
        });
        let mut first = caller(flight, 0, work);
        {
            let _entered = runtime.enter();
            assert_pending!(first.poll());
            drop(first);
        }
        if is_polled {
            runtime.block_on(settle());
        }
        assert_eq!((flight.len(), flight.stats().cancelled), (1, 0));
        drop(runtime);
        assert_eq!((flight.len(), flight.stats().cancelled), (0, 1));
        assert_eq!((ended.load(Ordering::SeqCst), Arc::strong_count(&ended)), (0, 1));
        assert_starts_fresh(flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn run_without_callers_can_panic_or_fail() {
    for end in [|| quiet_panic("without callers"), || Err("without callers")] as [fn() -> WorkResult; 2] {
        let flight = detached();
        let mut first = caller(flight, 0, async move {
            sleep(SECOND).await;
            end()
        });
        assert_pending!(first.poll());
        drop(first);
        sleep(2 * SECOND).await;
        assert_idle(flight);
        assert_starts_fresh(flight, 0);
    }
}
