//! Tests of services that are restarted together.

use onelane::background::{Backoff, HostError, HostPhase, Intensity, Restart, RunContext, ServiceState, service_fn};
use tokio::time::{Instant, sleep};

use crate::host::actor::{Act, Actor, Log, SECOND, virtual_host};

fn second() -> Backoff {
    Backoff::new(SECOND).jitter(0.0)
}

#[tokio::test(start_paused = true)]
async fn followers_restart_with_their_leader_without_counting_as_failed() {
    let (log, start) = (Log::default(), Instant::now());
    let leader = Actor::new("leader", &log).runs([Act::after(SECOND * 5, Act::Fail), Act::UntilStopped]);
    let host = virtual_host()
        .service(leader.service().backoff(second()))
        .service(Actor::new("follower", &log).service().restart_with("leader").intensity(Intensity::new(0, SECOND)))
        .service(Actor::new("of follower", &log).service().restart_with("follower"))
        .service(Actor::new("other", &log).service().after("leader"))
        .build()
        .unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 20).await;
    assert_eq!(log.times(start, "start leader"), [0, 6_000]);
    assert_eq!(log.times(start, "stop follower"), [5_000]);
    assert_eq!(log.times(start, "start follower"), [0, 6_000]);
    assert_eq!(log.times(start, "start other"), [0]);
    let status = host.status();
    let follower = status.service("follower").unwrap();
    assert_eq!((follower.generation(), follower.restarts()), (2, 0));
    assert!(status.is_ready());
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test(start_paused = true)]
async fn follower_stopped_with_its_leader_during_its_start_has_not_failed() {
    let (log, start) = (Log::default(), Instant::now());
    let leader = Actor::new("leader", &log).runs([Act::after(SECOND * 5, Act::Fail), Act::UntilStopped]);
    let follower = Actor::new("follower", &log).start(Act::after(SECOND * 8, Act::Succeed));
    let host = virtual_host()
        .service(leader.service().backoff(second()))
        .service(follower.service().restart_with("leader").stop_timeout(SECOND))
        .build()
        .unwrap();
    host.start().await.unwrap();
    assert_eq!(start.elapsed(), SECOND * 14);
    assert_eq!(log.times(start, "start follower"), [0, 6_000]);
    assert_eq!(log.times(start, "dropped start follower"), [6_000]);
    assert!(host.status().is_ready());
}

#[tokio::test(start_paused = true)]
async fn giving_up_on_the_leader_gives_up_on_its_followers() {
    let log = Log::default();
    let fails = Actor::new("leader", &log).run(Act::after(SECOND, Act::Fail)).service();
    let host = virtual_host()
        .service(fails.restart(Restart::Never).degradable())
        .service(Actor::new("follower", &log).service().restart_with("leader").degradable())
        .service(Actor::new("of follower", &log).service().restart_with("follower").degradable())
        .service(Actor::new("other", &log).service().after("leader"))
        .build()
        .unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 10).await;
    let states = ["leader", "follower", "of follower", "other"].map(|name| {
        let status = host.status();
        status.service(name).unwrap().state().to_string()
    });
    assert_eq!(states, ["failed", "failed", "failed", "running"]);
    assert_eq!((log.count("stop follower"), log.count("stop of follower")), (1, 1));
    assert!(host.status().is_ready());
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn giving_up_on_the_leader_of_a_critical_follower_stops_the_host() {
    let log = Log::default();
    let fails = Actor::new("leader", &log).run(Act::after(SECOND, Act::Fail)).service();
    let host = virtual_host()
        .service(fails.restart(Restart::Never).degradable())
        .service(Actor::new("follower", &log).service().restart_with("leader"))
        .build()
        .unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 10).await;
    assert_eq!(host.status().phase(), HostPhase::Stopped);
    let error = host.shutdown().await.unwrap_err();
    let HostError::GaveUp { service, reason, .. } = &error else { panic!("{error:?}") };
    assert_eq!((&**service, reason.dependency()), ("follower", Some("leader")));
    let text = "the host gave up on the service \"follower\": the host gave up on its dependency \"leader\": \
                failed: leader fails to run";
    assert_eq!(error.to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn own_failure_does_not_blame_a_dependency_that_failed_before() {
    let log = Log::default();
    let fails =
        |name: &str, at| Actor::new(name, &log).run(Act::after(at, Act::Fail)).service().restart(Restart::Never);
    let host = virtual_host()
        .service(fails("extra", SECOND).degradable())
        .service(fails("actor", SECOND * 2).after("extra"))
        .build()
        .unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 10).await;
    let error = host.shutdown().await.unwrap_err();
    assert_eq!(error.to_string(), "the host gave up on the service \"actor\": failed: actor fails to run");
}

#[tokio::test(start_paused = true)]
async fn completed_leader_does_not_hold_its_follower_back() {
    let (log, start) = (Log::default(), Instant::now());
    let host = virtual_host()
        .service(Actor::new("done", &log).run(Act::Succeed).service())
        .service(
            Actor::new("actor", &log)
                .runs([Act::after(SECOND, Act::Fail), Act::UntilStopped])
                .service()
                .restart_with("done")
                .backoff(second()),
        )
        .build()
        .unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 10).await;
    assert_eq!(log.times(start, "run actor"), [0, 2_000]);
    assert!(host.status().is_ready());
}

#[tokio::test(start_paused = true)]
async fn follower_waits_until_its_leader_is_ready_again() {
    let (log, start) = (Log::default(), Instant::now());
    let leader = service_fn("leader", |cx: RunContext| async move {
        if cx.generation() == 1 {
            cx.ready();
            cx.sleep(SECOND).await;
            return Err("once".into());
        }
        cx.sleep(SECOND * 7).await;
        cx.ready();
        cx.stopping().await;
        Ok(())
    });
    let follower = Actor::new("follower", &log).service().restart_with("leader");
    let host = virtual_host().service(leader.manual_ready().backoff(second())).service(follower).build().unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 5).await;
    let status = host.status();
    let state = status.service("follower").unwrap().state();
    assert!(
        matches!(state, ServiceState::BackingOff { failures: 0, delay: std::time::Duration::ZERO, .. }),
        "{state:?}"
    );
    sleep(SECOND * 10).await;
    assert_eq!(log.times(start, "run follower"), [0, 9_000]);
}

#[tokio::test(start_paused = true)]
async fn waiting_follower_is_stopped_with_the_host() {
    let log = Log::default();
    let host = virtual_host()
        .service(
            Actor::new("leader", &log).run(Act::after(SECOND, Act::Fail)).service().backoff(Backoff::new(SECOND * 30)),
        )
        .service(Actor::new("follower", &log).service().restart_with("leader"))
        .build()
        .unwrap();
    host.start().await.unwrap();
    sleep(SECOND * 3).await;
    let report = host.shutdown().await.unwrap();
    assert!(report.took() < SECOND);
    assert_eq!(log.count("start follower"), 1);
    assert_eq!(*host.status().service("follower").unwrap().state(), ServiceState::Stopped);
}
