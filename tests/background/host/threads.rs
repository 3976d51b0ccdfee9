//! Tests of services on their own threads, and of the supervisor's thread.

use std::sync::{Arc, Mutex};
use std::time::Instant as Clock;

use onelane::background::{HostPhase, Placement, ServiceState, blocking_fn, service_fn};
use tokio::time::timeout;

use crate::host::actor::{Act, Actor, Log, SECOND, SLACK, threaded_host, virtual_host};
use support::waiting::{Gate, MS, PATIENCE, until};

#[tokio::test]
async fn threads_are_named_after_their_services() {
    let names = Arc::new(Mutex::new(Vec::new()));
    let (one, two) = (names.clone(), names.clone());
    let record =
        |names: &Mutex<Vec<String>>| names.lock().unwrap().push(std::thread::current().name().unwrap().to_owned());
    let host = threaded_host()
        .service(blocking_fn("blocks", move |cx| {
            record(&one);
            while !cx.wait_stopping(SECOND) {}
            Ok(())
        }))
        .service(
            service_fn("awaits", move |cx| {
                record(&two);
                async move {
                    cx.stopping().await;
                    Ok(())
                }
            })
            .placement(Placement::Thread),
        )
        .build()
        .unwrap();
    host.start().await.unwrap();
    until("both run", || names.lock().unwrap().len() == 2).await;
    let _ = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
    let mut names = names.lock().unwrap().clone();
    names.sort();
    assert_eq!(names, ["awaits", "blocks"]);
}

#[tokio::test]
async fn parked_thread_wakes_up_when_it_is_asked_to_stop() {
    let log = Log::default();
    let records = log.clone();
    let host = threaded_host()
        .service(blocking_fn("parks", move |cx| {
            assert!(!cx.wait_stopping(MS));
            records.record("parks");
            assert!(cx.wait_stopping(PATIENCE * 10));
            assert!(cx.is_stopping());
            Ok(())
        }))
        .build()
        .unwrap();
    host.start().await.unwrap();
    until("the thread parks", || log.count("parks") == 1).await;
    let start = Clock::now();
    assert!(timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap().is_clean());
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
}

#[test]
fn blocked_server_runtime_delays_neither_the_shutdown_nor_its_deadline() {
    let (log, gate) = (Log::default(), Gate::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let host = threaded_host()
        .shutdown_timeout(SECOND * 2)
        .service(Actor::new("shared", &log).service().stop_timeout(MS * 50))
        .service(Actor::new("thread", &log).at(Placement::Thread))
        .build()
        .unwrap();
    runtime.block_on(host.start()).unwrap();
    let (wait, (signal, is_blocked)) = (gate.wait(), std::sync::mpsc::channel());
    runtime.spawn(async move {
        signal.send(()).unwrap();
        wait.block();
    });
    is_blocked.recv_timeout(PATIENCE).unwrap();
    let start = Clock::now();
    let report = futures::executor::block_on(host.shutdown()).unwrap();
    assert!(start.elapsed() < SECOND * 2 + SLACK, "{:?}", start.elapsed());
    // The task is not polled, so it cannot be dropped, and `stop` runs on another thread.
    assert_eq!(report.service("shared").unwrap().clean_up().to_string(), "done");
    assert_eq!(
        report.service("shared").unwrap().exit().unwrap().kind().to_string(),
        "leaked: its thread is blocked, so it cannot be dropped"
    );
    assert!(report.service("thread").unwrap().is_clean());
    gate.open();
    drop(runtime);
    assert_eq!((log.count("stop shared"), log.count("stop thread")), (1, 1));
}

#[test]
fn waiters_on_other_threads_are_woken_to_stop_while_the_server_runtime_is_blocked() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // Dropped before the runtime, which waits for the blocked task.
    let gate = Gate::default();
    let (sender, contexts) = std::sync::mpsc::channel();
    let mut host = threaded_host().shutdown_timeout(PATIENCE * 3);
    for n in 0..100 {
        let sender = sender.clone();
        let service = service_fn(&n.to_string(), move |cx| {
            sender.send(cx.clone()).unwrap();
            async move {
                cx.stopping().await;
                Ok(())
            }
        });
        host = host.service(service.stop_timeout(PATIENCE * 2));
    }
    let host = host.build().unwrap();
    runtime.block_on(host.start()).unwrap();
    let waiting = contexts.iter().take(100).map(|cx| {
        let (notify, is_notified) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            futures::executor::block_on(cx.stopping());
            notify.send(()).unwrap();
        });
        is_notified
    });
    let waiting: Vec<_> = waiting.collect();
    let (wait, (signal, is_blocked)) = (gate.wait(), std::sync::mpsc::channel());
    runtime.spawn(async move {
        signal.send(()).unwrap();
        wait.block();
    });
    is_blocked.recv_timeout(PATIENCE).unwrap();
    host.handle().request_shutdown();
    waiting.iter().for_each(|is_notified| is_notified.recv_timeout(PATIENCE).unwrap());
    gate.open();
    assert!(futures::executor::block_on(host.shutdown()).unwrap().is_clean());
}

#[test]
fn lag_of_a_blocked_server_runtime_is_visible_while_it_is_blocked() {
    let gate = Gate::default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let host = threaded_host().build().unwrap();
    runtime.block_on(host.start()).unwrap();
    let wait = gate.wait();
    runtime.spawn(async move { wait.block() });
    let start = Clock::now();
    while host.status().runtime_lag() < MS * 150 {
        assert!(start.elapsed() < PATIENCE);
        // The lag is measured by the host's thread, in real time.
        std::thread::sleep(MS);
    }
    gate.open();
    while host.status().runtime_lag() > MS * 100 {
        assert!(start.elapsed() < PATIENCE);
        // The lag is measured by the host's thread, in real time.
        std::thread::sleep(MS);
    }
    let _ = futures::executor::block_on(host.shutdown()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_service_that_blocks_its_worker_is_abandoned_and_not_restarted() {
    let (log, gate) = (Log::default(), Gate::default());
    let actor = Actor::new("actor", &log).run(Act::Block(gate.wait()));
    let service = actor.service().heartbeat(MS * 20).stop_timeout(MS * 20).degradable();
    let host = threaded_host().service(service).build().unwrap();
    host.start().await.unwrap();
    until("the host gives up on it", || *host.status().service("actor").unwrap().state() == ServiceState::Failed).await;
    assert_eq!(log.lines(), ["start actor", "run actor", "stop actor"]);
    assert_eq!(host.status().phase(), HostPhase::Running);
    gate.open();
    let _ = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
    assert_eq!(log.count("stop actor"), 1);
}

#[test]
fn threads_are_asked_to_stop_when_the_runtime_of_their_supervisor_is_dropped() {
    let log = Log::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let host = virtual_host()
        .service(Actor::new("blocks", &log).at(Placement::Blocking))
        .service(Actor::new("awaits", &log).at(Placement::Thread))
        .build()
        .unwrap();
    runtime.block_on(host.start()).unwrap();
    drop(runtime);
    let start = Clock::now();
    while log.count("stop blocks") + log.count("stop awaits") < 2 {
        assert!(start.elapsed() < PATIENCE, "the threads were not asked to stop: {:?}", log.lines());
        // The services end on their own threads.
        std::thread::sleep(MS);
    }
    assert!(!host.status().is_ready());
}
