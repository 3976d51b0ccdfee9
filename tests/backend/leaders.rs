//! Services that run in one process at a time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use onelane::EndpointGuard;
use onelane::backend::{Lease, LockDomain, OnLost, WhenUnavailable};
use onelane::background::{
    Backoff, BuildError, Every, ExitKind, RunContext, Service, ServiceHost, ServiceResult, ServiceState, ServiceStatus,
    TickContext, blocking_fn, lifespan, periodic, service_fn,
};
use support::http::eventually;
use tokio::time::{sleep, timeout};

use super::in_memory::{Flaw, InMemory, Store};
use super::{MS, PATIENCE, domain, guard};

const LEASE: Duration = Duration::from_millis(300);

/// Counts the runs of a service, and checks that the service never runs twice at once.
#[derive(Clone, Debug, Default)]
struct Runs {
    total: Arc<AtomicUsize>,
    is_running: Arc<AtomicBool>,
}

struct Run(Arc<AtomicBool>);

impl Runs {
    fn begin(&self) -> Run {
        self.total.fetch_add(1, Ordering::SeqCst);
        assert!(!self.is_running.swap(true, Ordering::SeqCst), "the service runs twice at once");
        Run(Arc::clone(&self.is_running))
    }

    fn total(&self) -> usize {
        self.total.load(Ordering::SeqCst)
    }

    /// A service that runs until it is asked to stop.
    fn service(&self) -> Service {
        self.service_named("leader")
    }

    fn service_named(&self, name: &str) -> Service {
        let this = self.clone();
        service_fn(name, move |cx: RunContext| {
            let run = this.begin();
            async move {
                cx.stopping().await;
                drop(run);
                Ok(())
            }
        })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

async fn connected(store: &Arc<Store>, settings: impl FnOnce(LockDomain) -> LockDomain) -> &'static LockDomain {
    let locks = domain(settings);
    locks.connect(InMemory::new(store, LEASE)).await.unwrap();
    locks
}

/// Starts a host with the service.
async fn start(service: Service) -> ServiceHost {
    let host = ServiceHost::builder().service(service).build().unwrap();
    host.start().await.unwrap();
    host
}

/// Starts a host that stands for another process.
async fn process(store: &Arc<Store>, service: Service) -> ServiceHost {
    start(service.guard(guard(connected(store, |domain| domain).await))).await
}

fn service(host: &ServiceHost) -> ServiceStatus {
    host.status().service("leader").unwrap().clone()
}

fn service_state(host: &ServiceHost) -> ServiceState {
    service(host).state().clone()
}

fn leads(host: &ServiceHost) -> bool {
    matches!(service(host).state(), ServiceState::Running { .. })
}

fn stands_by(host: &ServiceHost) -> bool {
    matches!(service(host).state(), ServiceState::Standby { .. })
}

fn is_lost(host: &ServiceHost) -> bool {
    matches!(service(host).last_exit().map(|exit| exit.kind()), Some(ExitKind::LeaseLost))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_leads_and_the_next_one_takes_over() {
    let (store, runs) = (Arc::default(), Runs::default());
    let mut hosts = Vec::new();
    for _ in 0..3 {
        hosts.push(process(&store, runs.service()).await);
    }
    for left in (1..=3).rev() {
        eventually("one process leads", || hosts.iter().filter(|host| leads(host)).count() == 1).await;
        assert_eq!(hosts.iter().filter(|host| stands_by(host)).count(), left - 1);
        assert!(hosts.iter().all(|host| host.status().is_ready()));
        let leader = hosts.remove(hosts.iter().position(leads).unwrap());
        assert!(leader.shutdown().await.unwrap().is_clean());
    }
    assert_eq!((runs.total(), store.held()), (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_that_stands_by_stops_at_once_and_has_not_called_its_service() {
    let (store, calls) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
    let holder = guard(connected(&store, |domain| domain).await);
    let permit = holder.acquire().await.unwrap();
    let (up, down) = (Arc::clone(&calls), Arc::clone(&calls));
    let count = |calls: &Arc<AtomicUsize>| calls.fetch_add(1, Ordering::SeqCst);
    let service = lifespan(
        "leader",
        move |_| {
            count(&up);
            async { Ok(()) }
        },
        move |_| {
            count(&down);
            async { Ok(()) }
        },
    );
    let host = process(&store, service).await;
    assert!(stands_by(&host));
    let report = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    drop(permit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_process_takes_over_when_the_leader_fails() {
    let (store, runs) = (Arc::default(), Runs::default());
    let failing = service_fn("leader", |_| async { Err("it fails".into()) });
    let backoff = Backoff::new(Duration::from_secs(60));
    let first = process(&store, failing.backoff(backoff)).await;
    eventually("the first process fails", || matches!(service(&first).state(), ServiceState::BackingOff { .. })).await;
    let second = process(&store, runs.service()).await;
    eventually("the second process leads", || leads(&second)).await;
    assert!(!first.shutdown().await.unwrap().is_clean());
    assert!(second.shutdown().await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_loses_its_lease_is_dropped_and_stands_by_again() {
    let (store, runs) = (Arc::<Store>::default(), Runs::default());
    let this = runs.clone();
    // The service ignores the request to stop.
    let stubborn = service_fn("leader", move |_| {
        let run = this.begin();
        async move {
            std::future::pending::<()>().await;
            drop(run);
            Ok(())
        }
    });
    let host = process(&store, stubborn.stop_timeout(Duration::from_secs(600))).await;
    eventually("the process leads", || leads(&host)).await;
    store.fail(true);
    eventually("the lease is lost", || is_lost(&host) && stands_by(&host)).await;
    assert!(!runs.is_running.load(Ordering::SeqCst));
    let is_reported = || match service(&host).state() {
        ServiceState::Standby { reason: Some(reason), .. } => reason.contains("the test wants an error"),
        _ => false,
    };
    eventually("the status says why", is_reported).await;
    assert!(service(&host).last_failure().is_some() && host.status().is_ready());
    store.fail(false);
    eventually("the process leads again", || leads(&host)).await;
    assert_eq!((service(&host).restarts(), service(&host).generation()), (0, 2));
    drop(host);
}

/// The thread that declares leases lost is late, as it may be after a pause of the whole process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_whose_lease_has_expired_does_not_continue_although_the_loss_is_not_declared() {
    let (store, late) = (Arc::<Store>::default(), Arc::new(AtomicUsize::new(0)));
    let this = Arc::clone(&late);
    let work = move || {
        let late = Arc::clone(&this);
        async move {
            loop {
                sleep(MS).await;
                if Lease::current().is_none_or(|lease| lease.is_lost()) {
                    late.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    };
    let service = service_fn("leader", move |cx: RunContext| {
        cx.spawn(work());
        let work = work();
        async move {
            work.await;
            Ok(())
        }
    });
    let locks = domain(|domain| domain);
    locks.connect(InMemory { flaw: Flaw::BlocksRenewals, ..InMemory::new(&store, LEASE) }).await.unwrap();
    let host = start(service.guard(guard(locks))).await;
    eventually("the lease is lost", || is_lost(&host)).await;
    // The lease may expire between the poll and the check.
    assert!(late.load(Ordering::SeqCst) <= 2, "{late:?}");
    assert!(host.shutdown().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_is_only_notified_completes_its_work() {
    let (store, ended) = (Arc::<Store>::default(), Arc::new(AtomicBool::new(false)));
    let this = Arc::clone(&ended);
    let service = service_fn("leader", move |cx: RunContext| {
        let ended = Arc::clone(&this);
        async move {
            cx.stopping().await;
            sleep(50 * MS).await;
            assert!(Lease::current().unwrap().is_lost());
            ended.store(true, Ordering::SeqCst);
            Ok(())
        }
    });
    let locks = connected(&store, |domain| domain.on_lost(OnLost::Notify)).await;
    let host = start(service.guard(guard(locks))).await;
    eventually("the process leads", || leads(&host)).await;
    store.fail(true);
    eventually("the lease is lost", || is_lost(&host)).await;
    assert!(ended.load(Ordering::SeqCst));
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_periodic_service_take_place_once_and_get_growing_tokens() {
    let (store, tokens) = (Arc::default(), Arc::new(Mutex::new(Vec::new())));
    let mut hosts = Vec::new();
    for _ in 0..3 {
        let tokens = Arc::clone(&tokens);
        let call = move |_| {
            tokens.lock().unwrap().push(Lease::current().unwrap().fence());
            async { ServiceResult::Ok(()) }
        };
        hosts.push(process(&store, periodic("leader", Every::fixed_rate(20 * MS), call)).await);
    }
    for most in [10, 20] {
        eventually("calls take place", || tokens.lock().unwrap().len() >= most).await;
        let leader = hosts.iter().position(leads).unwrap();
        assert!(hosts.remove(leader).shutdown().await.unwrap().is_clean());
        eventually("the next process leads", || hosts.iter().any(leads)).await;
    }
    drop(hosts);
    let tokens = tokens.lock().unwrap();
    assert!(tokens.is_sorted() && tokens.first() != tokens.last(), "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cron_job_of_three_replicas_is_called_once() {
    let (store, due) = (Arc::default(), Arc::new(Mutex::new(Vec::new())));
    let mut hosts = Vec::new();
    for _ in 0..3 {
        let due = Arc::clone(&due);
        let call = move |cx: TickContext| {
            due.lock().unwrap().push(cx.due());
            async { ServiceResult::Ok(()) }
        };
        hosts.push(process(&store, periodic("leader", Every::cron("* * * * * *").unwrap(), call)).await);
    }
    eventually("three seconds pass", || due.lock().unwrap().len() >= 3).await;
    join_all(hosts.into_iter().map(|host| async move { host.shutdown().await.unwrap() })).await;
    let mut due = due.lock().unwrap().clone();
    let calls = due.len();
    due.dedup();
    assert_eq!(due.len(), calls, "a job is called twice: {due:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocking_leader_knows_its_lease_and_is_asked_to_stop_when_the_lease_is_lost() {
    let (store, fences) = (Arc::<Store>::default(), Arc::new(Mutex::new(Vec::new())));
    let this = Arc::clone(&fences);
    let service = blocking_fn("leader", move |cx| {
        this.lock().unwrap().push(Lease::current().unwrap().fence());
        while !cx.wait_stopping(PATIENCE) {}
        Ok(())
    });
    let host = process(&store, service).await;
    eventually("the process leads", || leads(&host)).await;
    store.fail(true);
    eventually("the lease is lost", || is_lost(&host)).await;
    store.fail(false);
    eventually("the process leads again", || fences.lock().unwrap().len() == 2).await;
    assert!(host.shutdown().await.unwrap().is_clean());
    assert!(fences.lock().unwrap().is_sorted_by(|one, next| one < next));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thread_that_is_left_behind_keeps_the_permit() {
    let store = Arc::<Store>::default();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let service = blocking_fn("leader", move |_| {
        let _ = blocked.lock().unwrap().recv();
        Ok(())
    });
    let host = process(&store, service.stop_timeout(10 * MS)).await;
    eventually("the process leads", || leads(&host)).await;
    let report = host.shutdown().await;
    assert!(!report.unwrap().is_clean());
    sleep(LEASE * 2).await;
    assert_eq!(store.held(), 1, "another process must not run the service beside the thread");
    drop(release);
    eventually("the permit is released", || store.held() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thread_that_is_left_behind_by_a_running_host_releases_the_permit_when_it_ends() {
    let store = Arc::<Store>::default();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let service = blocking_fn("leader", move |_| {
        let _ = blocked.lock().unwrap().recv();
        Ok(())
    });
    let host = process(&store, service.heartbeat(20 * MS).stop_timeout(10 * MS).degradable()).await;
    eventually("the host gives up", || matches!(service_state(&host), ServiceState::Failed)).await;
    sleep(LEASE * 2).await;
    assert_eq!(store.held(), 1, "another process must not run the service beside the thread");
    drop(release);
    eventually("the permit is released", || store.held() == 0).await;
    drop(host);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_stands_by_although_the_error_of_its_store_panics() {
    let (store, runs) = (Arc::<Store>::default(), Runs::default());
    let locks = domain(|domain| domain);
    let flaw = Flaw::PanicsInErrors;
    locks.connect(InMemory { flaw, ..InMemory::new(&store, LEASE) }).await.unwrap();
    store.fail(true);
    let host = start(runs.service().guard(guard(locks))).await;
    let says_why = || matches!(service_state(&host), ServiceState::Standby { reason: Some(_), .. });
    eventually("the status says that the attempt failed", says_why).await;
    store.fail(false);
    eventually("the process leads", || leads(&host)).await;
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_waits_for_a_domain_that_is_connected_later() {
    let (store, runs) = (Arc::<Store>::default(), Runs::default());
    let locks = domain(|domain| domain);
    let host = start(runs.service().guard(guard(locks))).await;
    let says_why = || match service(&host).state() {
        ServiceState::Standby { reason: Some(reason), .. } => reason.contains("connect"),
        _ => false,
    };
    eventually("the status says why", says_why).await;
    locks.connect(InMemory::new(&store, LEASE)).await.unwrap();
    eventually("the process leads", || leads(&host)).await;
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn domain_disconnects_after_the_leader_has_stopped() {
    let (store, runs) = (Arc::<Store>::default(), Runs::default());
    let locks = domain(|domain| domain);
    let host = ServiceHost::builder()
        .service(locks.connect(InMemory::new(&store, LEASE)))
        .service(runs.service().guard(guard(locks)))
        .build()
        .unwrap();
    host.start().await.unwrap();
    eventually("the process leads", || leads(&host)).await;
    assert!(host.shutdown().await.unwrap().is_clean());
    assert_eq!(store.held(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_depend_on_a_standby_start() {
    let (store, runs) = (Arc::default(), Runs::default());
    let holder = guard(connected(&store, |domain| domain).await);
    let _permit = holder.acquire().await.unwrap();
    let leader = runs.service().guard(guard(connected(&store, |domain| domain).await));
    let host = ServiceHost::builder()
        .service(leader)
        .service(Runs::default().service_named("after").after("leader"))
        .service(Runs::default().service_named("with").restart_with("leader"))
        .build()
        .unwrap();
    timeout(PATIENCE, host.start()).await.unwrap().unwrap();
    let running = |name| matches!(host.status().service(name).unwrap().state(), ServiceState::Running { .. });
    assert!(stands_by(&host) && running("after") && running("with"));
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_with_a_local_guard_run_one_after_the_other() {
    static GUARD: EndpointGuard = EndpointGuard::new("imports");
    let (runs, ended) = (Runs::default(), Arc::new(AtomicUsize::new(0)));
    let mut builder = ServiceHost::builder();
    for name in ["first", "second", "third"] {
        let (runs, ended) = (runs.clone(), Arc::clone(&ended));
        let service = service_fn(name, move |_| {
            let (run, ended) = (runs.begin(), Arc::clone(&ended));
            async move {
                assert!(Lease::current().is_none());
                sleep(20 * MS).await;
                drop(run);
                ended.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        });
        builder = builder.service(service.guard(&GUARD));
    }
    let host = builder.build().unwrap();
    host.start().await.unwrap();
    eventually("all have run", || ended.load(Ordering::SeqCst) == 3).await;
    assert!(host.shutdown().await.unwrap().is_clean());
}

#[test]
fn guards_that_cannot_admit_one_process_at_a_time_are_rejected() {
    static MANAGED: EndpointGuard = EndpointGuard::new("imports");
    let limited = guard(domain(|domain| domain.max_hold(LEASE)));
    let local = guard(domain(|domain| domain.when_unavailable(WhenUnavailable::FailLocal)));
    let service = || Runs::default().service();
    let hosts = [
        ("remove `manage`", ServiceHost::builder().manage(&MANAGED).service(service().guard(&MANAGED))),
        ("max_hold", ServiceHost::builder().service(service().guard(limited))),
        ("FailLocal", ServiceHost::builder().service(service().guard(local))),
    ];
    for (problem, host) in hosts {
        let error = host.build().unwrap_err();
        assert!(matches!(error, BuildError::InvalidOption { option: "guard", .. }), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    }
}

/// The service that connects the domain has 2 seconds to stop, and waits for the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_takes_long_to_stop_ends_before_its_domain() {
    let store = Arc::<Store>::default();
    let locks = domain(|domain| domain);
    let slow = service_fn("leader", |cx: RunContext| async move {
        cx.stopping().await;
        sleep(Duration::from_millis(2_500)).await;
        Ok(())
    });
    let host = ServiceHost::builder()
        .service(slow.guard(guard(locks)))
        .service(locks.connect(InMemory::new(&store, LEASE)))
        .build()
        .unwrap();
    host.start().await.unwrap();
    eventually("the process leads", || leads(&host)).await;
    let report = host.shutdown().await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}
