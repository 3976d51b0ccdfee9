//! Tests that drop each public future at every await point: nothing hangs, and nothing is lost.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use onelane::background::{HostEvent, HostPhase, RunContext, ServiceHost, service_fn};
use tokio::time::{sleep, timeout};

use crate::host::actor::{Act, Actor, Log, SECOND, soon, virtual_host};
use support::waiting::{MS, until};

/// Polls `future` up to `polls` times, with time passing in between, and drops it. Returns `true` if it completed.
async fn poll_and_drop(polls: usize, future: impl Future) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        if future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            return true;
        }
        sleep(MS * 300).await;
    }
    false
}

fn host(log: &Log) -> ServiceHost {
    let slow = Actor::new("actor", log).start(Act::after(SECOND, Act::Succeed)).stop(Act::after(SECOND, Act::Succeed));
    virtual_host().service(slow.service()).build().unwrap()
}

async fn assert_clean_shutdown(host: &ServiceHost, log: &Log) {
    let report = soon("the stop", host.shutdown()).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((log.count("start actor"), log.count("stop actor")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn start_continues_after_its_future_is_dropped_at_any_poll() {
    let mut ended = 0;
    for polls in 1..8 {
        let log = Log::default();
        let host = host(&log);
        ended += usize::from(poll_and_drop(polls, host.start()).await);
        soon("the start", until("the host is ready", || host.status().is_ready())).await;
        assert_clean_shutdown(&host, &log).await;
    }
    assert!((1..7).contains(&ended), "some futures are dropped before, and some after completion");
}

#[tokio::test(start_paused = true)]
async fn shutdown_continues_after_its_future_is_dropped_at_any_poll() {
    let mut ended = 0;
    for polls in 1..8 {
        let log = Log::default();
        let host = host(&log);
        host.start().await.unwrap();
        ended += usize::from(poll_and_drop(polls, host.shutdown()).await);
        soon("the stop", until("the host has stopped", || host.status().phase() == HostPhase::Stopped)).await;
        assert_clean_shutdown(&host, &log).await;
    }
    assert!((1..7).contains(&ended), "some futures are dropped before, and some after completion");
}

#[tokio::test(start_paused = true)]
async fn run_until_dropped_at_any_poll_stops_the_host() {
    let mut ended = 0;
    for polls in 1..16 {
        let log = Log::default();
        let host = host(&log);
        let handle = host.handle();
        let server = async {
            sleep(SECOND).await;
            Ok::<(), std::io::Error>(())
        };
        ended += usize::from(poll_and_drop(polls, host.run_until(server)).await);
        soon("the stop", until("the host has stopped", || handle.status().phase() == HostPhase::Stopped)).await;
        assert_eq!(log.count("start actor"), log.count("stop actor") + log.count("dropped start actor"), "{polls}");
    }
    assert!((1..15).contains(&ended), "some futures are dropped before, and some after completion");
}

#[tokio::test(start_paused = true)]
async fn dropping_recv_loses_no_event() {
    let log = Log::default();
    let host = host(&log);
    let (mut slow, mut fast) = (host.subscribe(), host.subscribe());
    let all = async {
        let mut seen = 0;
        while fast.recv().await.is_some() {
            seen += 1;
        }
        seen
    };
    let dropping = async {
        let mut seen = 0;
        loop {
            match timeout(MS, slow.recv()).await {
                Ok(Some(HostEvent::Missed(_))) => panic!("the receiver is fast enough"),
                Ok(Some(_)) => seen += 1,
                Ok(None) => return seen,
                Err(_) => {}
            }
        }
    };
    let life = async {
        host.start().await.unwrap();
        sleep(SECOND).await;
        let _ = host.shutdown().await.unwrap();
    };
    let (all, dropping, ()) = soon("the life of a host", async { tokio::join!(all, dropping, life) }).await;
    assert_eq!(all, dropping);
    assert_eq!(all, 8);
}

#[tokio::test(start_paused = true)]
async fn dropping_stopping_and_sleep_loses_nothing() {
    let log = Log::default();
    let records = log.clone();
    let service = service_fn("actor", move |cx: RunContext| {
        let records = records.clone();
        async move {
            for _ in 0..10 {
                assert!(timeout(MS, cx.stopping()).await.is_err());
                assert!(timeout(MS, cx.sleep(SECOND)).await.is_err());
                assert!(cx.sleep(MS).await);
            }
            records.record("halfway");
            assert!(!cx.sleep(SECOND * 1_000).await);
            cx.stopping().await;
            assert!(!cx.sleep(SECOND).await && cx.is_stopping() && cx.token().is_cancelled());
            records.record("stopping");
            Ok(())
        }
    });
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    soon("the first half", until("the service is halfway", || log.count("halfway") == 1)).await;
    assert!(soon("the stop", host.shutdown()).await.unwrap().is_clean());
    assert_eq!(log.lines(), ["halfway", "stopping"]);
}
