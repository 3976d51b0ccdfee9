//! Services that bring work in stop while the server drains, and waiting requests are refused before its time is up.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onelane::background::{Backoff, ExitKind, HostPhase, service_fn};
use onelane::guard::AcquireErrorKind;
use onelane::{EndpointGuard, ServiceHost};
use tokio::time::{Instant, sleep};

use crate::host::actor::{Act, Actor, Log, SECOND, virtual_host};
use support::waiting::MS;

type Served = Result<(), std::io::Error>;

fn intake_host(log: &Log) -> ServiceHost {
    let service = |name: &'static str| Actor::new(name, log).stop(Act::after(MS * 100, Act::Succeed)).service();
    virtual_host()
        .service(service("pool"))
        .service(service("consumer").after("pool").intake())
        .service(service("feeder").after("consumer").intake())
        .service(service("other").after("pool"))
        .build()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn intake_stops_in_its_order_while_the_server_drains_and_the_others_stop_after_it() {
    let log = Log::default();
    let host = intake_host(&log);
    let handle = host.handle();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let states = Arc::clone(&seen);
    let report = host
        .run_until(async move {
            handle.request_shutdown();
            handle.draining().cancelled().await;
            sleep(SECOND).await;
            let status = handle.status();
            assert_eq!(status.phase(), HostPhase::Draining);
            let ended = status.services().filter(|service| service.is_ended());
            states.lock().unwrap().extend(ended.map(|service| service.name().to_owned()));
            Served::Ok(())
        })
        .await
        .unwrap();
    assert_eq!(*seen.lock().unwrap(), ["consumer", "feeder"]);
    assert!(report.is_clean(), "{report:?}");
    let exits: Vec<_> = report.services().iter().map(|service| service.exit().unwrap().kind()).collect();
    assert!(exits.iter().all(|exit| matches!(exit, ExitKind::Stopped)), "{exits:?}");
    let order = ["feeder", "consumer", "other", "pool"].map(|name| log.position(&format!("stop {name}")));
    assert!(order.is_sorted(), "{:?}", log.lines());
}

#[tokio::test(start_paused = true)]
async fn intake_is_not_started_again_while_the_server_drains() {
    for fails_after in [MS * 10, SECOND] {
        let starts = Arc::new(Mutex::new(0));
        let count = Arc::clone(&starts);
        let failing = service_fn("failing", move |cx| {
            *count.lock().unwrap() += 1;
            async move {
                // Before the stop, or as its reaction to it.
                tokio::select! {
                    () = sleep(fails_after) => {}
                    () = cx.stopping() => {}
                }
                Err("on purpose".into())
            }
        });
        let host = virtual_host()
            .service(failing.intake().degradable().backoff(Backoff::new(SECOND * 2).jitter(0.0)))
            .build()
            .unwrap();
        let handle = host.handle();
        let server = async move {
            sleep(MS * 100).await;
            handle.request_shutdown();
            sleep(SECOND * 5).await;
            Served::Ok(())
        };
        drop(host.run_until(server).await.unwrap());
        assert_eq!(*starts.lock().unwrap(), 1, "{fails_after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn intake_that_other_services_need_stops_after_them() {
    let log = Log::default();
    let service = |name: &'static str| Actor::new(name, &log).service();
    let host =
        virtual_host().service(service("intake").intake()).service(service("user").after("intake")).build().unwrap();
    let handle = host.handle();
    let server = async move {
        handle.request_shutdown();
        handle.draining().cancelled().await;
        sleep(SECOND).await;
        assert!(handle.status().services().all(|service| !service.is_ended()));
        Served::Ok(())
    };
    assert!(host.run_until(server).await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn callers_that_wait_are_refused_shortly_before_the_servers_time_is_up() {
    let guard = Arc::new(EndpointGuard::new("report"));
    let host = virtual_host().drain_timeout(SECOND * 10).manage(Arc::clone(&guard)).build().unwrap();
    let (handle, inside) = (host.handle(), Arc::clone(&guard));
    let server = async move {
        let _held = inside.acquire().await.unwrap();
        handle.request_shutdown();
        handle.draining().cancelled().await;
        let start = Instant::now();
        let refused = inside.acquire().await.unwrap_err();
        assert_eq!(refused.kind(), AcquireErrorKind::Closed);
        let waited = start.elapsed();
        assert!(waited >= SECOND * 9 && waited < SECOND * 10, "the server has time to respond: {waited:?}");
        // The request that runs has its whole time.
        sleep(SECOND * 10 - waited - MS * 10).await;
        Served::Ok(())
    };
    let report = host.run_until(server).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn server_that_hangs_is_dropped_no_later_than_before() {
    let host = virtual_host().drain_timeout(Duration::from_secs(3)).build().unwrap();
    let handle = host.handle();
    let start = Instant::now();
    let server = async move {
        handle.request_shutdown();
        pending::<Served>().await
    };
    assert!(host.run_until(server).await.unwrap().server_cut_off());
    assert!(start.elapsed() < SECOND * 3 + MS * 500, "{:?}", start.elapsed());
}
