//! Each phase of a stop has its share of the time, whatever the total and whatever the other phases do.

use std::future::pending;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures::executor::block_on;
use onelane::background::{CleanUp, ExitKind, Placement, Service, ServiceHost, ServiceReport, ShutdownReport};
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout};

use crate::host::actor::{Act, Actor, Log, SECOND, SLACK, threaded_host, virtual_host};
use support::runtimes::{current_thread, multi_thread};
use support::waiting::{Gate, MS, PATIENCE, spin_until, until};

type Served = Result<(), std::io::Error>;

/// Totals from a test's to the default, in milliseconds.
const TOTALS: [u32; 7] = [100, 1_000, 2_000, 6_000, 9_000, 12_000, 25_000];

async fn stop_under_a_server_that_hangs(host: ServiceHost) -> ShutdownReport {
    let handle = host.handle();
    host.run_until(async move {
        handle.request_shutdown();
        pending::<Served>().await
    })
    .await
    .unwrap()
}

fn took_no_damage(service: &ServiceReport) -> bool {
    matches!(service.exit().unwrap().kind(), ExitKind::Stopped) && service.is_clean()
}

#[tokio::test(start_paused = true)]
async fn server_that_does_not_end_leaves_the_services_their_time() {
    for total in TOTALS.map(|total| MS * total) {
        let log = Log::default();
        // Takes a tenth of the total to end, and again for its `stop`.
        let part = (total / 10).min(SECOND);
        let host = virtual_host()
            .shutdown_timeout(total)
            .service(Ends(part, Actor::new("pool", &log).stop(Act::after(part, Act::Succeed))).service())
            .build()
            .unwrap();
        let start = Instant::now();
        let report = stop_under_a_server_that_hangs(host).await;
        assert!(report.server_cut_off(), "{total:?}");
        assert!(took_no_damage(report.service("pool").unwrap()), "{total:?}: {report:?}");
        assert!(start.elapsed() <= total, "{total:?}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn drain_timeout_is_kept_where_the_total_allows_it() {
    for (total, drain, cut_off) in [(25, 10, 10_000), (60, 40, 40_000), (25, 1, 1_000)] {
        let log = Log::default();
        let host = virtual_host()
            .drain_timeout(SECOND * drain)
            .shutdown_timeout(SECOND * total)
            .service(Actor::new("pool", &log).service())
            .build()
            .unwrap();
        let start = Instant::now();
        let _ = stop_under_a_server_that_hangs(host).await;
        assert_eq!(log.times(start, "stop pool"), [cut_off], "{total} {drain}");
    }
}

/// A service that takes this long to end after it was asked to stop.
struct Ends(Duration, Actor);

impl Ends {
    fn service(self) -> Service {
        Service::new(self)
    }
}

impl onelane::background::BackgroundService for Ends {
    fn name(&self) -> &str {
        onelane::background::BackgroundService::name(&self.1)
    }

    async fn run(&self, cx: onelane::background::RunContext) -> onelane::background::ServiceResult {
        cx.stopping().await;
        tokio::time::sleep(self.0).await;
        Ok(())
    }

    async fn stop(&self, cx: &onelane::background::StopContext) -> onelane::background::ServiceResult {
        onelane::background::BackgroundService::stop(&self.1, cx).await
    }
}

#[tokio::test(start_paused = true)]
async fn stop_that_hangs_does_not_starve_the_dependencies() {
    for total in TOTALS.map(|total| MS * total) {
        for hangs in [Act::Ignore, Act::after(total, Act::Succeed)] {
            let (log, part) = (Log::default(), (total / 25).min(MS * 400));
            let consumer = Actor::new("consumer", &log).stop(hangs.clone()).service().after("pool");
            let host = virtual_host()
                .shutdown_timeout(total)
                .service(Ends(part, Actor::new("base", &log).stop(Act::after(part, Act::Succeed))).service())
                .service(
                    Ends(part, Actor::new("pool", &log).stop(Act::after(part, Act::Succeed))).service().after("base"),
                )
                .service(consumer.cleanup_timeout(SECOND * 600))
                .build()
                .unwrap();
            host.start().await.unwrap();
            let start = Instant::now();
            let report = host.shutdown().await.unwrap();
            for name in ["pool", "base"] {
                assert!(took_no_damage(report.service(name).unwrap()), "{total:?} {name}: {report:?}");
            }
            let consumer = report.service("consumer").unwrap();
            assert!(matches!(consumer.clean_up(), CleanUp::TimedOut), "{consumer:?}");
            assert!(matches!(consumer.exit().unwrap().kind(), ExitKind::Stopped), "{consumer:?}");
            assert!(start.elapsed() <= total);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn run_that_hangs_does_not_starve_the_dependencies() {
    for total in TOTALS.map(|total| MS * total) {
        let (log, part) = (Log::default(), (total / 25).min(MS * 400));
        let consumer = Actor::new("consumer", &log).run(Act::Ignore).service().after("pool");
        let host = virtual_host()
            .shutdown_timeout(total)
            .service(Ends(part, Actor::new("pool", &log).stop(Act::after(part, Act::Succeed))).service())
            .service(consumer.stop_timeout(SECOND * 600))
            .build()
            .unwrap();
        host.start().await.unwrap();
        let report = host.shutdown().await.unwrap();
        assert!(took_no_damage(report.service("pool").unwrap()), "{total:?}: {report:?}");
        assert!(matches!(report.service("consumer").unwrap().clean_up(), CleanUp::Done), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stop_that_blocks_its_thread_does_not_starve_the_dependencies() {
    for placement in [Placement::Shared, Placement::Thread, Placement::Blocking] {
        let (log, gate) = (Log::default(), Gate::default());
        let consumer = Actor::new("consumer", &log).stop(Act::Block(gate.wait())).at(placement).after("pool");
        let host = threaded_host()
            .shutdown_timeout(SECOND * 2)
            .service(Actor::new("pool", &log).service())
            .service(consumer.cleanup_timeout(SECOND * 600))
            .build()
            .unwrap();
        host.start().await.unwrap();
        until("the service runs", || log.count("run consumer") == 1).await;
        let report = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
        assert!(took_no_damage(report.service("pool").unwrap()), "{placement:?}: {report:?}");
        let consumer = report.service("consumer").unwrap();
        assert!(matches!(consumer.exit().unwrap().kind(), ExitKind::Stopped), "{placement:?}: {consumer:?}");
        assert!(matches!(consumer.clean_up(), CleanUp::TimedOut), "{placement:?}: {consumer:?}");
        gate.open();
    }
}

/// Returns a runtime with one thread for tasks, which a `stop` can block.
fn runtimes_of_one_thread() -> [Arc<Runtime>; 2] {
    let current = Arc::new(current_thread());
    let driver = Arc::clone(&current);
    // Ends with the test's process.
    thread::spawn(move || driver.block_on(pending::<()>()));
    [current, Arc::new(multi_thread(1))]
}

#[test]
fn stop_that_blocks_the_only_thread_is_not_blamed_on_the_dependencies() {
    for runtime in runtimes_of_one_thread() {
        let (log, gate) = (Log::default(), Gate::default());
        let consumer = Actor::new("consumer", &log).stop(Act::Block(gate.wait())).service().after("pool");
        let host = threaded_host()
            .shutdown_timeout(SECOND * 2)
            .service(Actor::new("pool", &log).service())
            .service(consumer.cleanup_timeout(SECOND * 600))
            .build()
            .unwrap();
        let context = runtime.enter();
        block_on(host.start()).unwrap();
        spin_until(|| log.count("run consumer") == 1);
        let start = std::time::Instant::now();
        let report = block_on(host.shutdown()).unwrap();
        assert!(start.elapsed() < SECOND * 2 + SLACK, "{:?}", start.elapsed());
        let consumer = report.service("consumer").unwrap();
        assert!(matches!(consumer.exit().unwrap().kind(), ExitKind::Stopped), "{consumer:?}");
        assert!(matches!(consumer.clean_up(), CleanUp::TimedOut), "{consumer:?}");
        // Nobody polled it, so it could not end. Its `stop` ran elsewhere.
        let pool = report.service("pool").unwrap();
        assert!(matches!(pool.clean_up(), CleanUp::Done), "{pool:?}");
        let exit = pool.exit().unwrap().kind();
        assert!(matches!(exit, ExitKind::Leaked), "{exit:?}");
        assert_eq!(exit.to_string(), "leaked: its thread is blocked, so it cannot be dropped");
        drop(context);
        gate.open();
    }
}

/// The supervisor may be a task of the same runtime, and is then woken by the task that goes on to block.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn end_of_run_is_known_while_stop_blocks_its_thread() {
    for builder in [threaded_host, virtual_host] {
        let (log, gate) = (Log::default(), Gate::default());
        let actor = Actor::new("actor", &log).stop(Act::Block(gate.wait())).service();
        let host = builder().service(actor.stop_timeout(MS * 50).cleanup_timeout(MS * 300)).build().unwrap();
        host.start().await.unwrap();
        until("the service runs", || log.count("run actor") == 1).await;
        let start = std::time::Instant::now();
        let report = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
        let service = report.service("actor").unwrap();
        assert!(matches!(service.exit().unwrap().kind(), ExitKind::Stopped), "{service:?}");
        assert!(matches!(service.clean_up(), CleanUp::TimedOut), "{service:?}");
        assert!(start.elapsed() < SECOND + SLACK, "{:?}", start.elapsed());
        gate.open();
    }
}

#[tokio::test(start_paused = true)]
async fn report_of_a_service_that_had_no_time_says_so() {
    let log = Log::default();
    let host = virtual_host().service(Actor::new("actor", &log).service()).build().unwrap();
    host.start().await.unwrap();
    host.handle().force_shutdown();
    let report = host.shutdown().await.unwrap();
    let exit = report.service("actor").unwrap().exit().unwrap().kind().clone();
    assert!(matches!(exit, ExitKind::CutShort(given) if given == Duration::ZERO), "{exit:?}");
    assert_eq!(exit.to_string(), "cut short: the host had no time left for it to stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn start_is_known_while_run_blocks_its_thread() {
    for builder in [threaded_host, virtual_host] {
        let (log, gate) = (Log::default(), Gate::default());
        let actor = Actor::new("actor", &log).run(Act::Block(gate.wait())).service();
        let host = builder().service(actor).build().unwrap();
        timeout(PATIENCE, host.start()).await.unwrap().unwrap();
        gate.open();
        let _ = timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap();
    }
}
