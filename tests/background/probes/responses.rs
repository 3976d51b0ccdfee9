//! Tests of the responses of [`HostStatus::probe`](onelane::background::HostStatus::probe), without a server.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use onelane::background::{
    Backoff, HostHandle, ProbeAnswer, Restart, Service, ServiceHost, ServiceState, Supervision, service_fn,
};
use tokio::sync::Notify;

use crate::probes::{PATHS, builder, gate, gated, open, steady, walk_through_the_phases};
use support::client::eventually;

fn probe(handle: &HostHandle, path: &str) -> ProbeAnswer {
    handle.status().probe(path).unwrap()
}

fn statuses(handle: &HostHandle) -> [u16; 3] {
    PATHS.map(|path| probe(handle, path).status())
}

/// Returns the lines of a verbose response.
fn lines(handle: &HostHandle, path: &str) -> Vec<String> {
    let body = probe(handle, path).into_body();
    assert!(body.ends_with('\n'), "{body:?}");
    body.lines().map(str::to_owned).collect()
}

/// Starts a host with these services, and waits until its verbose response contains `text`.
async fn started(services: impl IntoIterator<Item = Service>, text: &str) -> ServiceHost {
    // A panic that prints a backtrace blocks its worker, which a watch would add to the responses.
    let builder = builder().without_watch();
    let host = services.into_iter().fold(builder, |builder, service| builder.service(service)).build().unwrap();
    host.start().await.unwrap();
    let handle = host.handle();
    eventually(text, || probe(&handle, "/readyz?verbose").body().contains(text)).await;
    host
}

#[tokio::test]
async fn each_phase_has_its_statuses() {
    let checks = Cell::new(0);
    let host = Cell::new(None);
    let check = async |phase, expected| {
        let handle: HostHandle = host.take().unwrap();
        assert_eq!(statuses(&handle), expected, "{phase}");
        host.set(Some(handle));
        checks.set(checks.get() + 1);
    };
    walk_through_the_phases(builder(), check, async |handle| host.set(Some(handle))).await;
    assert_eq!(checks.get(), 6);
}

#[tokio::test]
async fn short_responses_name_no_service() {
    let host = started([steady("secret")], "+").await;
    let handle = host.handle();
    assert_eq!(PATHS.map(|path| probe(&handle, path).into_body()), ["ok"; 3]);
    let _ = host.shutdown().await.unwrap();
    assert_eq!(PATHS.map(|path| probe(&handle, path).into_body()), ["ok", "readyz check failed", "ok"]);
}

#[tokio::test]
async fn host_whose_start_failed_counts_as_never_started() {
    let failing = service_fn("failing", |_| async { Ok(()) });
    let failing = Service::new(FailsToStart(failing.name().to_owned()));
    let host = builder().service(failing).service(steady("other")).build().unwrap();
    host.start().await.unwrap_err();
    let handle = host.handle();
    assert_eq!(statuses(&handle), [200, 503, 503]);
    let lines = lines(&handle, "/startupz?verbose&exclude=failing");
    assert_eq!(lines.last().unwrap(), "startupz check failed: the host is stopped");
}

struct FailsToStart(String);

impl onelane::background::BackgroundService for FailsToStart {
    fn name(&self) -> &str {
        &self.0
    }

    async fn start(&self, _: &onelane::background::StartContext) -> onelane::background::ServiceResult {
        Err("no connection to postgres://user:password@db".into())
    }

    async fn run(&self, _: onelane::background::RunContext) -> onelane::background::ServiceResult {
        Ok(())
    }
}

#[tokio::test]
async fn critical_service_determines_readiness_and_nothing_else() {
    let next_step = Arc::new(Notify::new());
    let service = {
        let next_step = Arc::clone(&next_step);
        service_fn("pool", move |cx| {
            let next_step = Arc::clone(&next_step);
            async move {
                cx.not_ready("no connection");
                next_step.notified().await;
                cx.degraded("slow");
                next_step.notified().await;
                cx.ready();
                next_step.notified().await;
                cx.degraded("slow again");
                cx.stopping().await;
                Ok(())
            }
        })
    };
    let host = started([service, steady("other")], "no connection").await;
    let handle = host.handle();
    assert_eq!(statuses(&handle), [200, 503, 200]);
    let expected = ["[-]pool failed: not ready: no connection", "[+]other ok", "readyz check failed"];
    assert_eq!(lines(&handle, "/readyz?verbose"), expected);

    // Becoming degraded does not change readiness: the service is still not ready.
    next_step.notify_one();
    eventually("the host is ready", || {
        next_step.notify_one();
        statuses(&handle) == [200, 200, 200]
    })
    .await;
    eventually("the service is degraded", || {
        next_step.notify_one();
        lines(&handle, "/readyz?verbose")[0] != "[+]pool ok"
    })
    .await;
    assert_eq!(statuses(&handle), [200, 200, 200]);
    let expected = ["[+]pool ok (degraded: slow again)", "[+]other ok", "readyz check passed"];
    assert_eq!(lines(&handle, "/readyz?verbose"), expected);
}

#[tokio::test]
async fn manual_ready_service_is_not_ready_before_it_reports_so() {
    let host = started([steady("manual").manual_ready()], "manual").await;
    assert_eq!(statuses(&host.handle()), [200, 503, 200]);
    assert_eq!(lines(&host.handle(), "/readyz?verbose"), ["[-]manual failed: not ready", "readyz check failed"]);
}

#[tokio::test]
async fn degradable_services_are_shown_but_do_not_fail_the_check() {
    let unready = service_fn("unready", |cx| async move {
        cx.not_ready("warming up");
        cx.stopping().await;
        Ok(())
    });
    let failing = service_fn("failing", |_| async { Err("password=hunter2".into()) });
    let retried = service_fn("retried", |_| async { Err("password=hunter2".into()) });
    let panics = service_fn("panics", |_| async { panic!("password=hunter2") });
    let services = [
        unready.degradable(),
        failing.degradable().restart(Restart::Never),
        retried.degradable().backoff(Backoff::new(Duration::from_secs(30)).jitter(0.0)),
        panics.degradable().restart(Restart::Never),
    ];
    let host = started(services, "warming up").await;
    let handle = host.handle();
    let is_in = |name, state: fn(&ServiceState) -> bool| state(handle.status().service(name).unwrap().state());
    eventually("all services have failed", || {
        let is_failed = |state: &ServiceState| *state == ServiceState::Failed;
        let backs_off = |state: &ServiceState| matches!(state, ServiceState::BackingOff { .. });
        is_in("failing", is_failed) && is_in("panics", is_failed) && is_in("retried", backs_off)
    })
    .await;
    assert_eq!(statuses(&handle), [200, 200, 200]);
    let expected = [
        "[-]unready failed: not ready: warming up (degradable)",
        "[-]failing failed: gave up, reason withheld (degradable)",
        "[-]retried failed: backing off for 30s after 1 failures (degradable)",
        "[-]panics failed: gave up, reason withheld (degradable)",
        "readyz check passed",
    ];
    assert_eq!(lines(&handle, "/readyz?verbose"), expected);
}

#[tokio::test]
async fn service_that_failed_by_missing_heartbeats_is_shown_with_its_reason() {
    let silent = steady("silent").heartbeat(Duration::from_millis(5)).restart(Restart::Never).degradable();
    let host = started([silent], "gave up").await;
    let line = "[-]silent failed: gave up, timed out: no heartbeat for 5ms (degradable)";
    assert_eq!(lines(&host.handle(), "/readyz?verbose"), [line, "readyz check passed"]);
}

#[tokio::test]
async fn completed_service_is_ready() {
    let host = started([service_fn("migration", |_| async { Ok(()) })], "completed").await;
    assert_eq!(statuses(&host.handle()), [200, 200, 200]);
    assert_eq!(lines(&host.handle(), "/readyz?verbose"), ["[+]migration ok (completed)", "readyz check passed"]);
}

#[tokio::test]
async fn excluded_services_do_not_fail_the_check_and_unknown_names_are_reported() {
    let names = ["a pool", "b&c", "d"];
    let unready = |name: &str| steady(name).manual_ready();
    let host = started([unready("a pool"), unready("b&c"), steady("d")], "d ok").await;
    let handle = host.handle();
    assert!(names.iter().all(|name| handle.status().service(name).is_some()));

    for (query, expected) in [
        ("exclude=b%26c", 503),
        ("exclude=a+pool", 503),
        ("exclude=a+pool&exclude=b%26c", 200),
        ("exclude=a%20pool&exclude=b%26c&exclude=d", 200),
        ("exclude=a%20pool,b%26c", 503),
        ("verbose=false&exclude=b%26c&exclude=a pool", 200),
        ("exclude", 503),
    ] {
        assert_eq!(probe(&handle, &format!("/readyz?{query}")).status(), expected, "{query}");
    }
    let lines_of = lines(&handle, "/readyz?verbose&exclude=zz%22&exclude=d&exclude=a+pool&exclude=%0Aq&exclude=%zz");
    let expected = [
        "[+]a pool excluded: not ready",
        "[-]b&c failed: not ready",
        "[+]d excluded: ok",
        r#"warn: some health checks cannot be excluded: no matches for "\nq","%zz","zz\"""#,
        "readyz check failed",
    ];
    assert_eq!(lines_of, expected);
    // `/livez` checks no service, so there is none to exclude.
    let warning = r#"warn: some health checks cannot be excluded: no matches for "d""#;
    assert_eq!(lines(&handle, "/livez?verbose&exclude=d"), [warning, "livez check passed"]);

    let _ = host.shutdown().await.unwrap();
    assert_eq!(
        probe(&handle, "/readyz?exclude=a+pool&exclude=b%26c&exclude=d").status(),
        503,
        "the host itself is not ready"
    );
    let last = lines(&handle, "/readyz?verbose").pop().unwrap();
    assert_eq!(last, "readyz check failed: the host is stopped");
}

#[tokio::test]
async fn startup_check_can_exclude_a_slow_service() {
    let [may_start, may_stop] = [gate(), gate()];
    let failing = Service::new(FailsToStart("failing".into())).degradable().restart(Restart::Never);
    let slow = gated("slow", &may_start, &may_stop);
    let host = builder().service(slow).service(steady("quick")).service(failing).build().unwrap();
    let handle = host.handle();
    let before = ["[-]slow failed: registered", "[-]quick failed: registered"];
    assert_eq!(lines(&handle, "/startupz?verbose")[..2], before);
    assert_eq!(lines(&handle, "/startupz?verbose").pop().unwrap(), "startupz check failed: the host was not started");
    assert_eq!(probe(&handle, "/startupz?exclude=slow&exclude=quick&exclude=failing").status(), 503);

    let start = async {
        host.start().await.unwrap();
    };
    let check = async {
        let shows = |text: &str| probe(&handle, "/startupz?verbose").body().contains(text);
        eventually("the quick service has started", || shows("[+]quick ok") && shows("gave up")).await;
        let expected = [
            "[-]slow failed: starting",
            "[+]quick ok",
            "[-]failing failed: gave up, reason withheld (degradable)",
            "startupz check failed: the host is starting",
        ];
        assert_eq!(lines(&handle, "/startupz?verbose"), expected);
        assert_eq!(probe(&handle, "/startupz?exclude=quick").status(), 503);
        assert_eq!(probe(&handle, "/startupz?exclude=slow").status(), 200);
        assert_eq!(probe(&handle, "/readyz?exclude=slow").status(), 503, "the start has not finished");
        open(&may_start);
    };
    tokio::join!(start, check);
    let expected = [
        "[+]slow ok",
        "[+]quick ok",
        "[-]failing failed: gave up, reason withheld (degradable)",
        "startupz check passed",
    ];
    assert_eq!(lines(&handle, "/startupz?verbose"), expected);
    open(&may_stop);
}

#[tokio::test]
async fn names_and_reasons_cannot_forge_lines() {
    let forged = service_fn("name\n[+]forged", |cx| async move {
        cx.not_ready("reason\r\nreadyz check passed");
        cx.stopping().await;
        Ok(())
    });
    let host = started([forged], "reason").await;
    let line = r"[-]name\n[+]forged failed: not ready: reason\r\nreadyz check passed";
    assert_eq!(lines(&host.handle(), "/readyz?verbose"), [line, "readyz check failed"]);
    let line = r"[+]name\n[+]forged excluded: not ready: reason\r\nreadyz check passed";
    let excluding = "/readyz?verbose&exclude=name%0a[%2B]forged";
    assert_eq!(lines(&host.handle(), excluding), [line, "readyz check passed"]);
}

#[tokio::test]
async fn other_paths_are_not_probes() {
    let status = builder().build().unwrap().status();
    for path in ["", "/", "livez", "/livez/", "/livez/x", "/LIVEZ", "/healthz", "?verbose", "//livez"] {
        assert_eq!(status.probe(path), None, "{path}");
    }
    for path in ["/livez", "/livez?", "/livez?a=b?c", "/livez?verbose?"] {
        assert!(status.probe(path).unwrap().is_ok(), "{path}");
    }
}

#[tokio::test]
async fn host_without_services_is_ready_once_running() {
    for supervision in [Supervision::OwnThread, Supervision::ServerRuntime] {
        let host = builder().supervision(supervision).build().unwrap();
        assert_eq!(statuses(&host.handle()), [200, 503, 503]);
        host.start().await.unwrap();
        assert_eq!(statuses(&host.handle()), [200, 200, 200]);
    }
}

#[test]
fn host_is_not_ready_after_its_supervisor_was_dropped() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let host = builder().service(steady("service")).supervision(Supervision::ServerRuntime).build().unwrap();
    runtime.block_on(host.start()).unwrap();
    let handle = host.handle();
    assert_eq!(statuses(&handle), [200, 200, 200]);
    drop(runtime);
    assert_eq!(statuses(&handle), [200, 503, 200]);
    assert!(handle.draining().is_cancelled(), "whatever waits for draining is woken");
}

/// The jitter would otherwise give the delay nine digits.
#[tokio::test]
async fn durations_have_no_more_digits_than_people_read() {
    let failing = service_fn("failing", |_| async { Err("broken".into()) }).degradable();
    let host = started([failing.backoff(Backoff::new(Duration::from_nanos(60_123_456_789)))], "backing off").await;
    let line = lines(&host.handle(), "/readyz?verbose").swap_remove(0);
    let delay = line.split_once("backing off for ").unwrap().1.split_once("s after").unwrap().0;
    let (whole, digits) = delay.split_once('.').unwrap_or((delay, ""));
    assert!(whole.parse::<u64>().is_ok() && digits.len() <= 3, "{line}");
    let exit = host.status().service("failing").unwrap().state().to_string();
    assert!(line.contains(&exit), "{line}: {exit}");
    let _ = host.shutdown().await.unwrap();
}
