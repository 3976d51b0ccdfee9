//! Tests of a server that is a future, and its services.

use std::future::pending;
use std::io;
use std::pin::pin;

use onelane::background::{HostError, HostPhase, Restart, ServiceHost, Trigger};
use tokio::time::{Instant, sleep, timeout};

use crate::host::actor::{Act, Actor, Log, SECOND, soon, threaded_host, virtual_host};
use support::waiting::{MS, PATIENCE, until};

type Served = Result<(), io::Error>;

#[tokio::test(start_paused = true)]
async fn server_that_ends_on_its_own_stops_the_host() {
    let log = Log::default();
    let host = virtual_host().service(Actor::new("actor", &log).service()).build().unwrap();
    let (handle, records) = (host.handle(), log.clone());
    let server = async move {
        assert!(handle.status().is_ready());
        sleep(SECOND).await;
        records.record("server ends");
        Served::Ok(())
    };
    let report = host.run_until(server).await.unwrap();
    assert_eq!((report.trigger().clone(), report.exit_code()), (Trigger::ServerEnded, 0));
    assert_eq!(log.lines(), ["start actor", "run actor", "server ends", "stop actor"]);
}

#[tokio::test(start_paused = true)]
async fn error_of_the_server_carries_the_report() {
    let log = Log::default();
    let host = virtual_host().service(Actor::new("actor", &log).service()).build().unwrap();
    let error = host.run_until(async { Err(io::Error::other("no port")) }).await.unwrap_err();
    let HostError::Server { source, report, .. } = &error else { panic!("{error:?}") };
    assert_eq!((source.to_string().as_str(), report.trigger()), ("no port", &Trigger::ServerEnded));
    assert_eq!((error.exit_code(), log.count("stop actor")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn services_stop_after_the_server_has_drained() {
    let (log, start) = (Log::default(), Instant::now());
    let host = virtual_host().service(Actor::new("actor", &log).service()).build().unwrap();
    let (handle, records) = (host.handle(), log.clone());
    let server = async move {
        let draining = handle.draining();
        sleep(SECOND).await;
        handle.request_shutdown();
        draining.cancelled().await;
        assert_eq!(handle.status().phase(), HostPhase::Draining);
        assert!(!handle.status().is_ready());
        assert!(handle.status().service("actor").unwrap().is_ready(), "the remaining requests may need the service");
        sleep(SECOND * 3).await;
        records.record("server ends");
        Served::Ok(())
    };
    let report = host.run_until(server).await.unwrap();
    assert_eq!((report.trigger().clone(), report.took()), (Trigger::Requested, SECOND * 3));
    assert!(report.is_clean());
    assert_eq!(log.times(start, "stop actor"), [4_000]);
    assert!(log.position("server ends") < log.position("stop actor"));
}

#[tokio::test(start_paused = true)]
async fn server_that_does_not_drain_in_time_is_dropped_before_the_services_stop() {
    struct RecordDrop(Log);
    impl Drop for RecordDrop {
        fn drop(&mut self) {
            self.0.record("server dropped");
        }
    }
    let (log, start) = (Log::default(), Instant::now());
    let actor = Actor::new("actor", &log).stop(Act::after(SECOND, Act::Succeed));
    let host = virtual_host().drain_timeout(SECOND * 3).service(actor.service()).build().unwrap();
    let (handle, on_drop) = (host.handle(), RecordDrop(log.clone()));
    let server = async move {
        let _on_drop = on_drop;
        handle.request_shutdown();
        pending::<Served>().await
    };
    let report = host.run_until(server).await.unwrap();
    assert!(report.server_cut_off() && report.exit_code() == 1);
    assert_eq!(log.times(start, "server dropped"), [3_000]);
    assert_eq!(start.elapsed(), SECOND * 4);
}

#[tokio::test(start_paused = true)]
async fn giving_up_on_a_critical_service_drains_the_server_and_returns_the_error() {
    let log = Log::default();
    let actor = Actor::new("actor", &log).run(Act::after(SECOND, Act::Fail));
    let host = virtual_host()
        .service(actor.service().restart(Restart::Never))
        .service(Actor::new("other", &log).service())
        .build()
        .unwrap();
    let (draining, records) = (host.handle().draining(), log.clone());
    let server = async move {
        draining.cancelled().await;
        sleep(SECOND).await;
        records.record("server ends");
        Served::Ok(())
    };
    let error = host.run_until(server).await.unwrap_err();
    assert!(matches!(&error, HostError::GaveUp { service, .. } if &**service == "actor"), "{error:?}");
    assert_eq!(error.exit_code(), 1);
    assert!(log.position("server ends") < log.position("stop other"));
}

#[tokio::test(start_paused = true)]
async fn services_are_restarted_while_the_server_drains() {
    let log = Log::default();
    let actor = Actor::new("actor", &log).runs([Act::after(SECOND * 2, Act::Fail), Act::UntilStopped]).service();
    let host = virtual_host().service(actor.backoff(onelane::background::Backoff::none())).build().unwrap();
    let handle = host.handle();
    let server = async move {
        handle.request_shutdown();
        sleep(SECOND * 5).await;
        assert!(handle.status().service("actor").unwrap().is_ready());
        Served::Ok(())
    };
    assert!(host.run_until(server).await.unwrap().is_clean());
    assert_eq!(log.count("run actor"), 2);
}

#[tokio::test(start_paused = true)]
async fn followers_restart_with_their_leader_while_the_server_drains() {
    let log = Log::default();
    let leader = Actor::new("leader", &log).runs([Act::after(SECOND * 2, Act::Fail), Act::UntilStopped]).service();
    let host = virtual_host()
        .service(leader.backoff(onelane::background::Backoff::none()))
        .service(Actor::new("follower", &log).service().restart_with("leader"))
        .build()
        .unwrap();
    let handle = host.handle();
    let server = async move {
        handle.request_shutdown();
        sleep(SECOND * 5).await;
        assert!(handle.status().service("follower").unwrap().is_ready());
        Served::Ok(())
    };
    assert!(host.run_until(server).await.unwrap().is_clean());
    assert_eq!((log.count("start follower"), log.count("stop follower")), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn forced_shutdown_drops_the_server_at_once() {
    let host = virtual_host().service(Actor::new("actor", &Log::default()).service()).build().unwrap();
    let (handle, start) = (host.handle(), Instant::now());
    let server = async move {
        sleep(SECOND).await;
        handle.force_shutdown();
        pending::<Served>().await
    };
    let report = host.run_until(server).await.unwrap();
    assert!(report.server_cut_off() && report.forced_by().is_some());
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test]
async fn services_are_stopped_after_the_server_panics() {
    let log = Log::default();
    let host = threaded_host().service(Actor::new("actor", &log).service()).build().unwrap();
    let handle = host.handle();
    let serving = tokio::spawn(host.run_until(async {
        let is_up = std::hint::black_box(true);
        assert!(!is_up, "a server panics");
        Served::Ok(())
    }));
    assert!(serving.await.unwrap_err().is_panic());
    let start = std::time::Instant::now();
    until("the host has stopped", || handle.status().phase() == HostPhase::Stopped).await;
    assert!(start.elapsed() < SECOND * 5, "the host does not wait for a server that has panicked");
    assert_eq!(log.count("stop actor"), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_run_until_at_any_point_stops_the_services_without_waiting_for_the_server() {
    // While the host starts, serves, drains, and stops.
    for wait in [500, 1_500, 2_500, 6_500] {
        let log = Log::default();
        let actor =
            Actor::new("actor", &log).start(Act::after(SECOND, Act::Succeed)).stop(Act::after(SECOND, Act::Succeed));
        let host = virtual_host().drain_timeout(SECOND * 4).service(actor.service()).build().unwrap();
        let (handle, requester) = (host.handle(), host.handle());
        let server = async move {
            sleep(SECOND).await;
            requester.request_shutdown();
            pending::<Served>().await
        };
        assert!(timeout(MS * wait, host.run_until(server)).await.is_err());
        let start = Instant::now();
        soon("the stop", until("the host has stopped", || handle.status().phase() == HostPhase::Stopped)).await;
        let max = if wait == 500 { SECOND * 5 } else { SECOND };
        assert!(start.elapsed() <= max + MS, "dropped after {wait} ms, the stop took {:?}", start.elapsed());
        assert_eq!(log.count("start actor"), 1);
        assert_eq!(log.count("stop actor"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_during_the_start_is_not_an_error_and_the_server_never_runs() {
    let log = Log::default();
    let actor = Actor::new("actor", &log).start(Act::UntilStopped);
    let host = virtual_host().service(actor.service()).build().unwrap();
    let handle = host.handle();
    let stop = async {
        sleep(SECOND).await;
        handle.request_shutdown();
    };
    let server = async { panic!("the server must not run") as Served };
    let (report, ()) = tokio::join!(host.run_until(server), stop);
    assert_eq!(report.unwrap().exit_code(), 0);
    assert_eq!(log.lines(), ["start actor", "stop actor"]);
}

#[tokio::test(start_paused = true)]
async fn host_is_not_ready_when_draining_is_cancelled() {
    let host = virtual_host().build().unwrap();
    let handle = host.handle();
    let server = async move {
        let draining = handle.draining();
        let mut draining = pin!(draining.cancelled());
        assert!(timeout(MS, draining.as_mut()).await.is_err());
        handle.request_shutdown();
        draining.await;
        assert!(!handle.status().is_ready());
        Served::Ok(())
    };
    let _ = timeout(PATIENCE, host.run_until(server)).await.unwrap().unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn successive_hosts_leave_a_single_thread_in_total() {
    // Only the last host waits for a further signal, so it alone keeps a thread.
    let host_threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |task: &std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.filter(|task| name(task.as_ref().unwrap()).trim() == "onelane-host").count()
    };
    let before = host_threads();
    for _ in 0..50 {
        let host = ServiceHost::builder().build().unwrap();
        let _ = host.run_until(async { Served::Ok(()) }).await.unwrap();
    }
    // Other tests run their own hosts at the same time.
    until("the threads end", || host_threads() < before + 25).await;
}
