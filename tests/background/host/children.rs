//! Tasks that belong to a service.

use std::future::pending;
use std::sync::{Arc, Mutex, OnceLock};

use onelane::background::{ExitKind, Placement, Restart, RunContext, ServiceState, service_fn};
use tokio::time::{Instant, sleep, timeout};

use crate::host::actor::{Log, SECOND, threaded_host, virtual_host};
use support::waiting::{MS, PATIENCE, until};

/// Notes its drop.
struct Noted(Log, &'static str);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.note(self.1);
    }
}

#[tokio::test(start_paused = true)]
async fn children_are_told_and_awaited() {
    let (log, start) = (Log::default(), Instant::now());
    let notes = log.clone();
    let service = service_fn("actor", move |cx| {
        let notes = notes.clone();
        async move {
            let child = cx.clone();
            cx.spawn(async move {
                child.stopping().await;
                sleep(SECOND * 2).await;
                notes.note("child ends");
            });
            cx.stopping().await;
            Ok(())
        }
    });
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    let report = host.shutdown().await.unwrap();
    assert_eq!((log.times(start, "child ends"), report.took), (vec![2_000], SECOND * 2));
    assert!(report.is_clean());
}

#[tokio::test(start_paused = true)]
async fn deaf_children_are_aborted_when_the_time_to_stop_is_over() {
    let log = Log::default();
    let notes = log.clone();
    let service = service_fn("actor", move |cx| {
        let noted = Noted(notes.clone(), "child dropped");
        async move {
            cx.spawn(async move {
                let _noted = noted;
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
    assert_eq!((log.times(start, "child dropped"), report.took), (vec![1_000], SECOND));
    assert!(matches!(report.service("actor").unwrap().exit.as_ref().unwrap().kind, ExitKind::Stopped));
}

#[tokio::test(start_paused = true)]
async fn deaf_children_hold_up_a_restart_for_no_longer_than_the_time_to_stop() {
    let (log, start) = (Log::default(), Instant::now());
    let notes = log.clone();
    let service = service_fn("actor", move |cx: RunContext| {
        let notes = notes.clone();
        async move {
            notes.note("run");
            if cx.generation() == 1 {
                let noted = Noted(notes, "child dropped");
                cx.spawn(async move {
                    let _noted = noted;
                    pending::<()>().await;
                });
                panic!("its child goes on");
            }
            cx.stopping().await;
            Ok(())
        }
    });
    let service = service.stop_timeout(SECOND * 2).backoff(onelane::background::Backoff::none());
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND).await;
    assert_eq!(host.status().service("actor").unwrap().state, ServiceState::Stopping);
    sleep(SECOND * 9).await;
    assert_eq!(log.times(start, "run"), [0, 2_000]);
    assert_eq!(log.times(start, "child dropped"), [2_000]);
    let failure = host.status().service("actor").unwrap().last_failure.clone().unwrap();
    assert!(matches!(failure.kind, ExitKind::Panicked(_)), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn run_that_completes_with_children_has_completed_also_for_its_stop() {
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
    assert_eq!(host.status().service("parent").unwrap().state, ServiceState::Completed);
    assert_eq!(*exits.lock().unwrap(), ["completed"]);
}

#[tokio::test(start_paused = true)]
async fn child_that_is_spawned_after_the_end_is_aborted_at_once() {
    for had_children in [false, true] {
        let kept = Arc::new(OnceLock::<RunContext>::new());
        let keep = kept.clone();
        let service = service_fn("actor", move |cx| {
            keep.set(cx.clone()).unwrap();
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
        host.shutdown().await.unwrap();
        let child = kept.get().unwrap().spawn(pending::<()>());
        let error = timeout(SECOND, child).await.unwrap().unwrap_err();
        assert!(error.is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn child_that_panics_changes_nothing() {
    let seen = Arc::new(Mutex::new(None));
    let notes = seen.clone();
    let service = service_fn("actor", move |cx| {
        let notes = notes.clone();
        async move {
            let child = cx.spawn(async { panic!("a child") });
            *notes.lock().unwrap() = Some(child.await.unwrap_err().is_panic());
            cx.spawn(async { panic!("another child, which nobody awaits") });
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
async fn children_of_a_thread_run_there_and_end_with_it() {
    let log = Log::default();
    let notes = log.clone();
    let service = service_fn("own-thread", move |cx| {
        let (notes, other) = (notes.clone(), notes.clone());
        async move {
            cx.spawn(async move { notes.note(std::thread::current().name().unwrap_or_default()) });
            cx.spawn(async move {
                let _noted = Noted(other, "child dropped");
                pending::<()>().await;
            });
            cx.stopping().await;
            Ok(())
        }
    });
    let host = threaded_host().service(service.placement(Placement::Thread).stop_timeout(MS * 30)).build().unwrap();
    host.start().await.unwrap();
    until("the child runs", || log.count("own-thread") == 1).await;
    timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
    assert_eq!(log.count("child dropped"), 1);
}
