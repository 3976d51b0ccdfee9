//! Tests of the child tasks of a service.

use std::future::pending;
use std::sync::{Arc, Mutex, OnceLock};

use onelane::background::{ExitKind, Placement, Restart, RunContext, ServiceState, service_fn};
use tokio::time::{Instant, sleep, timeout};

use crate::host::actor::{Log, SECOND, threaded_host, virtual_host};
use support::waiting::{MS, PATIENCE, until};

/// Records its drop.
struct RecordDrop(Log, &'static str);

impl Drop for RecordDrop {
    fn drop(&mut self) {
        self.0.record(self.1);
    }
}

#[tokio::test(start_paused = true)]
async fn children_are_asked_to_stop_and_awaited() {
    let (log, start) = (Log::default(), Instant::now());
    let records = log.clone();
    let service = service_fn("actor", move |cx| {
        let records = records.clone();
        async move {
            let child = cx.clone();
            cx.spawn(async move {
                child.stopping().await;
                sleep(SECOND * 2).await;
                records.record("child ends");
            });
            cx.stopping().await;
            Ok(())
        }
    });
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    let report = host.shutdown().await.unwrap();
    assert_eq!((log.times(start, "child ends"), report.took()), (vec![2_000], SECOND * 2));
    assert!(report.is_clean());
}

#[tokio::test(start_paused = true)]
async fn unresponsive_children_are_aborted_at_the_stop_timeout() {
    let log = Log::default();
    let records = log.clone();
    let service = service_fn("actor", move |cx| {
        let on_drop = RecordDrop(records.clone(), "child dropped");
        async move {
            cx.spawn(async move {
                let _on_drop = on_drop;
                pending::<()>().await;
            });
            cx.stopping().await;
            Ok(())
        }
    });
    let host = virtual_host().service(service.stop_timeout(SECOND)).build().unwrap();
    host.start().await.unwrap();
    let start = Instant::now();
    let report = host.shutdown().await.unwrap();
    assert_eq!((log.times(start, "child dropped"), report.took()), (vec![1_000], SECOND));
    assert!(matches!(report.service("actor").unwrap().exit().unwrap().kind(), ExitKind::Stopped));
}

#[tokio::test(start_paused = true)]
async fn unresponsive_children_delay_a_restart_by_at_most_the_stop_timeout() {
    let (log, start) = (Log::default(), Instant::now());
    let records = log.clone();
    let service = service_fn("actor", move |cx: RunContext| {
        let records = records.clone();
        async move {
            records.record("run");
            if cx.generation() == 1 {
                let on_drop = RecordDrop(records, "child dropped");
                cx.spawn(async move {
                    let _on_drop = on_drop;
                    pending::<()>().await;
                });
                panic!("the child keeps running");
            }
            cx.stopping().await;
            Ok(())
        }
    });
    let service = service.stop_timeout(SECOND * 2).backoff(onelane::background::Backoff::none());
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND).await;
    assert_eq!(*host.status().service("actor").unwrap().state(), ServiceState::Stopping);
    sleep(SECOND * 9).await;
    assert_eq!(log.times(start, "run"), [0, 2_000]);
    assert_eq!(log.times(start, "child dropped"), [2_000]);
    let status = host.status();
    let failure = status.service("actor").unwrap().last_failure().unwrap();
    assert!(matches!(failure.kind(), ExitKind::Panicked(_)), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn stop_sees_completion_of_a_run_that_left_children() {
    struct Parent(Arc<Mutex<Vec<String>>>);
    impl onelane::background::BackgroundService for Parent {
        fn name(&self) -> &str {
            "parent"
        }
        async fn run(&self, cx: RunContext) -> onelane::background::ServiceResult {
            let child = cx.clone();
            cx.spawn(async move { child.stopping().await });
            Ok(())
        }
        async fn stop(&self, cx: &onelane::background::StopContext) -> onelane::background::ServiceResult {
            self.0.lock().unwrap().push(cx.exit().to_string());
            Ok(())
        }
    }
    let exits = Arc::new(Mutex::new(Vec::new()));
    let host = virtual_host().service(Parent(exits.clone())).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND).await;
    assert_eq!(*host.status().service("parent").unwrap().state(), ServiceState::Completed);
    assert_eq!(*exits.lock().unwrap(), ["completed"]);
}

#[tokio::test(start_paused = true)]
async fn child_spawned_after_the_end_is_aborted_at_once() {
    for had_children in [false, true] {
        let leaked_cx = Arc::new(OnceLock::<RunContext>::new());
        let cell = leaked_cx.clone();
        let service = service_fn("actor", move |cx| {
            cell.set(cx.clone()).unwrap();
            async move {
                if had_children {
                    cx.spawn(async {});
                }
                cx.stopping().await;
                Ok(())
            }
        });
        let host = virtual_host().service(service).build().unwrap();
        host.start().await.unwrap();
        sleep(SECOND).await;
        let _ = host.shutdown().await.unwrap();
        let child = leaked_cx.get().unwrap().spawn(pending::<()>());
        let error = timeout(SECOND, child).await.unwrap().unwrap_err();
        assert!(error.is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_child_does_not_affect_its_service() {
    let seen = Arc::new(Mutex::new(None));
    let records = seen.clone();
    let service = service_fn("actor", move |cx| {
        let records = records.clone();
        async move {
            let child = cx.spawn(async { panic!("a child") });
            *records.lock().unwrap() = Some(child.await.unwrap_err().is_panic());
            cx.spawn(async { panic!("another child, which is never awaited") });
            cx.stopping().await;
            Ok(())
        }
    });
    let host = virtual_host().service(service.restart(Restart::Never)).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND).await;
    assert_eq!(*seen.lock().unwrap(), Some(true));
    assert!(host.status().is_ready());
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test]
async fn children_of_a_service_on_its_own_thread_run_there_and_end_with_it() {
    let log = Log::default();
    let records = log.clone();
    let service = service_fn("own-thread", move |cx| {
        let (records, other) = (records.clone(), records.clone());
        async move {
            cx.spawn(async move { records.record(std::thread::current().name().unwrap_or_default()) });
            cx.spawn(async move {
                let _on_drop = RecordDrop(other, "child dropped");
                pending::<()>().await;
            });
            cx.stopping().await;
            Ok(())
        }
    });
    let host = threaded_host().service(service.placement(Placement::Thread).stop_timeout(MS * 30)).build().unwrap();
    host.start().await.unwrap();
    until("the child runs", || log.count("own-thread") == 1).await;
    let _ = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
    assert_eq!(log.count("child dropped"), 1);
}
