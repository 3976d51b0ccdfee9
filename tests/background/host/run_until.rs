//! A server that is a future, and its services.

use std::future::pending;
use std::io;
use std::pin::pin;

use onelane::background::{HostError, HostPhase, Restart, ServiceHost, Trigger};
use tokio::time::{Instant, sleep, timeout};

use crate::host::actor::{Act, Actor, Log, SECOND, soon, threaded_host, virtual_host};
use support::waiting::{MS, PATIENCE, until};

type Served = Result<(), io::Error>;

#[tokio::test(start_paused = true)]
async fn server_that_ends_by_itself_ends_the_host() {
    let log = Log::default();
    let host = virtual_host().service(Actor::new("actor", &log).service()).build().unwrap();
    let (handle, notes) = (host.handle(), log.clone());
    let server = async move {
        assert!(handle.status().is_ready());
        sleep(SECOND).await;
        notes.note("server ends");
        Served::Ok(())
    };
    let report = host.run_until(server).await.unwrap();
    assert_eq!((report.trigger.clone(), report.exit_code()), (Trigger::ServerEnded, 0));
    assert_eq!(log.lines(), ["start actor", "run actor", "server ends", "stop actor"]);
}

#[tokio::test(start_paused = true)]
async fn error_of_the_server_comes_with_the_report() {
    let log = Log::default();
    let host = virtual_host().service(Actor::new("actor", &log).service()).build().unwrap();
    let error = host.run_until(async { Err(io::Error::other("no port")) }).await.unwrap_err();
    let HostError::Server { source, report } = &error else { panic!("{error:?}") };
    assert_eq!((source.to_string().as_str(), &report.trigger), ("no port", &Trigger::ServerEnded));
    assert_eq!((error.exit_code(), log.count("stop actor")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn services_stop_after_the_server_has_drained() {
    let (log, start) = (Log::default(), Instant::now());
    let host = virtual_host().service(Actor::new("actor", &log).service()).build().unwrap();
    let (handle, notes) = (host.handle(), log.clone());
    let server = async move {
        let draining = handle.draining();
        sleep(SECOND).await;
        handle.request_shutdown();
        draining.cancelled().await;
        assert_eq!(handle.status().phase, HostPhase::Draining);
        assert!(!handle.status().is_ready());
        assert!(handle.status().service("actor").unwrap().is_ready(), "requests may need it");
        sleep(SECOND * 3).await;
        notes.note("server ends");
        Served::Ok(())
    };
    let report = host.run_until(server).await.unwrap();
    assert_eq!((report.trigger.clone(), report.took), (Trigger::Requested, SECOND * 3));
    assert!(report.is_clean());
    assert_eq!(log.times(start, "stop actor"), [4_000]);
    assert!(log.position("server ends") < log.position("stop actor"));
}

#[tokio::test(start_paused = true)]
async fn server_that_does_not_drain_in_time_is_dropped_before_the_services_stop() {
    struct Dropped(Log);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.note("server dropped");
        }
    }
    let (log, start) = (Log::default(), Instant::now());
    let actor = Actor::new("actor", &log).stop(Act::after(SECOND, Act::Succeed));
    let host = virtual_host().drain_timeout(SECOND * 3).service(actor.service()).build().unwrap();
    let (handle, dropped) = (host.handle(), Dropped(log.clone()));
    let server = async move {
        let _dropped = dropped;
        handle.request_shutdown();
        pending::<Served>().await
    };
    let report = host.run_until(server).await.unwrap();
    assert!(report.server_cut_off && report.exit_code() == 1);
    assert_eq!(log.times(start, "server dropped"), [3_000]);
    assert_eq!(start.elapsed(), SECOND * 4);
}

#[tokio::test(start_paused = true)]
async fn critical_service_that_is_given_up_drains_the_server_and_ends_with_its_error() {
    let log = Log::default();
    let actor = Actor::new("actor", &log).run(Act::after(SECOND, Act::Fail));
    let host = virtual_host()
        .service(actor.service().restart(Restart::Never))
        .service(Actor::new("other", &log).service())
        .build()
        .unwrap();
    let (draining, notes) = (host.handle().draining(), log.clone());
    let server = async move {
        draining.cancelled().await;
        sleep(SECOND).await;
        notes.note("server ends");
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
    let actor = Actor::new("actor", &log).runs([Act::after(SECOND * 2, Act::Fail), Act::UntilTold]).service();
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
async fn followers_begin_anew_with_their_leader_while_the_server_drains() {
    let log = Log::default();
    let leader = Actor::new("leader", &log).runs([Act::after(SECOND * 2, Act::Fail), Act::UntilTold]).service();
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
async fn forced_stop_drops_the_server_at_once() {
    let host = virtual_host().service(Actor::new("actor", &Log::default()).service()).build().unwrap();
    let (handle, start) = (host.handle(), Instant::now());
    let server = async move {
        sleep(SECOND).await;
        handle.force_shutdown();
        pending::<Served>().await
    };
    let report = host.run_until(server).await.unwrap();
    assert!(report.server_cut_off && report.forced_by.is_some());
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test]
async fn server_that_panics_leaves_the_services_to_be_stopped() {
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
    until("the end", || handle.status().phase == HostPhase::Stopped).await;
    assert!(start.elapsed() < SECOND * 5, "it does not wait for a server that is gone");
    assert_eq!(log.count("stop actor"), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_it_at_any_point_stops_the_services_without_waiting_for_a_server() {
    // While it starts, serves, drains, and stops.
    for wait in [500, 1_500, 2_500, 6_500] {
        let log = Log::default();
        let actor =
            Actor::new("actor", &log).start(Act::after(SECOND, Act::Succeed)).stop(Act::after(SECOND, Act::Succeed));
        let host = virtual_host().drain_timeout(SECOND * 4).service(actor.service()).build().unwrap();
        let (handle, asks) = (host.handle(), host.handle());
        let server = async move {
            sleep(SECOND).await;
            asks.request_shutdown();
            pending::<Served>().await
        };
        assert!(timeout(MS * wait, host.run_until(server)).await.is_err());
        let start = Instant::now();
        soon("the end", until("the end", || handle.status().phase == HostPhase::Stopped)).await;
        let most = if wait == 500 { SECOND * 5 } else { SECOND };
        assert!(start.elapsed() <= most + MS, "after {wait} ms it takes {:?}", start.elapsed());
        assert_eq!(log.count("start actor"), 1);
        assert_eq!(log.count("stop actor"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn stop_while_it_starts_is_no_error_and_the_server_never_runs() {
    let log = Log::default();
    let actor = Actor::new("actor", &log).start(Act::UntilTold);
    let host = virtual_host().service(actor.service()).build().unwrap();
    let handle = host.handle();
    let stop = async {
        sleep(SECOND).await;
        handle.request_shutdown();
    };
    let server = async { panic!("it never runs") as Served };
    let (report, ()) = tokio::join!(host.run_until(server), stop);
    assert_eq!(report.unwrap().exit_code(), 0);
    assert_eq!(log.lines(), ["start actor", "stop actor"]);
}

#[tokio::test(start_paused = true)]
async fn readiness_has_fallen_when_draining_fires() {
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
    timeout(PATIENCE, host.run_until(server)).await.unwrap().unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn hosts_that_come_one_after_the_other_leave_one_thread_behind_in_all() {
    // The last of them waits for a further signal, so it alone has a thread.
    let watching = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |task: &std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.filter(|task| name(task.as_ref().unwrap()).trim() == "onelane-host").count()
    };
    let before = watching();
    for _ in 0..50 {
        let host = ServiceHost::builder().build().unwrap();
        host.run_until(async { Served::Ok(()) }).await.unwrap();
    }
    // Other tests have hosts of their own at the same time.
    until("they end", || watching() < before + 25).await;
}
