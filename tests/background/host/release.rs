//! What a host owns is dropped before `run_until` and `shutdown` return, and what isn't is reported.

use std::future::pending;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep as block;
use std::time::Instant as Clock;

use onelane::background::{
    BlockingContext, BlockingService, Placement, Restart, RunContext, Service, ServiceHost, ServiceHostBuilder,
    ServiceResult, blocking_fn, service_fn,
};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::host::actor::{Log, SECOND, SLACK, threaded_host, virtual_host};
use support::waiting::{Gate, MS, PATIENCE, Wait, until};

/// A resource whose destructor takes a while.
struct Slow(Log, &'static str);

impl Drop for Slow {
    fn drop(&mut self) {
        // A destructor cannot await.
        block(MS * 20);
        self.0.record(self.1);
    }
}

/// A resource whose destructor blocks until a gate opens.
struct Stuck(Wait);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.block();
    }
}

/// A resource whose destructor panics.
struct Panics;

impl Drop for Panics {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// Returns a service that owns `resource` and runs until it is asked to stop.
fn owner<T: Send + Sync + 'static>(name: &'static str, resource: T) -> Service {
    let resource = Arc::new(resource);
    service_fn(name, move |cx| {
        let resource = Arc::clone(&resource);
        async move {
            cx.stopping().await;
            drop(resource);
            Ok(())
        }
    })
}

struct BlockingOwner(Slow);

impl BlockingService for BlockingOwner {
    fn name(&self) -> &str {
        self.0.1
    }

    fn run(&self, cx: BlockingContext) -> ServiceResult {
        while !cx.wait_stopping(PATIENCE) {}
        Ok(())
    }
}

async fn shutdown(host: &ServiceHost) -> onelane::background::ShutdownReport {
    timeout(PATIENCE, host.shutdown()).await.unwrap().unwrap()
}

const BUILDERS: [fn() -> ServiceHostBuilder; 2] = [threaded_host, virtual_host];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_dropped_before_shutdown_returns_at_every_placement() {
    for builder in BUILDERS {
        let log = Log::default();
        let slow = |name| Slow(log.clone(), name);
        let host = builder()
            .service(owner("shared", slow("shared")))
            .service(owner("thread", slow("thread")).placement(Placement::Thread))
            .service(Service::blocking(BlockingOwner(slow("blocking"))))
            .build()
            .unwrap();
        host.start().await.unwrap();
        let report = shutdown(&host).await;
        let mut dropped = log.lines();
        dropped.sort();
        assert_eq!(dropped, ["blocking", "shared", "thread"]);
        assert!(report.is_clean() && report.services().iter().all(|service| service.is_dropped()), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_without_a_generation_are_dropped_before_run_until_returns() {
    for builder in BUILDERS {
        let log = Log::default();
        let held = |name, result: fn() -> ServiceResult| {
            let resource = Slow(log.clone(), name);
            service_fn(name, move |_: RunContext| {
                let _ = &resource;
                async move { result() }
            })
        };
        let failing = held("backing off", || Err("fails".into())).degradable();
        let host = builder()
            .service(held("completed", || Ok(())))
            .service(failing)
            .service(held("given up", || Err("fails".into())).degradable().restart(Restart::Never))
            .build()
            .unwrap();
        let handle = host.handle();
        let server = async {
            let ended = |name| handle.status().service(name).unwrap().last_exit().is_some();
            until("all have ended", || ["completed", "backing off", "given up"].into_iter().all(ended)).await;
            Ok::<(), std::io::Error>(())
        };
        let report = timeout(PATIENCE, host.run_until(server)).await.unwrap().unwrap();
        let mut dropped = log.lines();
        dropped.sort();
        assert_eq!(dropped, ["backing off", "completed", "given up"]);
        assert!(report.services().iter().all(|service| service.is_dropped()), "{report:?}");
    }
}

#[tokio::test]
async fn services_of_a_host_whose_start_fails_are_dropped_before_run_until_returns() {
    for builder in BUILDERS {
        let log = Log::default();
        let failing = onelane::background::lifespan("failing", async |_| Err("no connection".into()), async |_| Ok(()));
        let host = builder()
            .service(owner("started", Slow(log.clone(), "started")))
            .service(failing.after("started"))
            .service(owner("waiting", Slow(log.clone(), "waiting")).after("failing"))
            .build()
            .unwrap();
        host.run_until(pending::<Result<(), std::io::Error>>()).await.unwrap_err();
        let mut dropped = log.lines();
        dropped.sort();
        assert_eq!(dropped, ["started", "waiting"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_are_dropped_before_their_dependencies() {
    for builder in BUILDERS {
        let log = Log::default();
        let slow = |name| Slow(log.clone(), name);
        let host = builder()
            .service(owner("pool", slow("pool")))
            .service(owner("consumer", slow("consumer")).after("pool"))
            .service(owner("front", slow("front")).after("consumer"))
            .build()
            .unwrap();
        host.start().await.unwrap();
        let _ = shutdown(&host).await;
        assert_eq!(log.lines(), ["front", "consumer", "pool"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_on_the_runtime_of_a_thread_are_dropped_with_it() {
    for builder in BUILDERS {
        let log = Log::default();
        let records = log.clone();
        let service = service_fn("thread", move |cx| {
            let task = Slow(records.clone(), "task");
            async move {
                tokio::spawn(async move {
                    let _task = task;
                    pending::<()>().await;
                });
                tokio::task::yield_now().await;
                cx.ready();
                cx.stopping().await;
                Ok(())
            }
        });
        let host = builder().service(service.placement(Placement::Thread).manual_ready()).build().unwrap();
        host.start().await.unwrap();
        until("the task is spawned", || host.status().is_ready()).await;
        let _ = shutdown(&host).await;
        assert_eq!(log.lines(), ["task"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destructor_that_hangs_is_reported_and_delays_no_other() {
    let (log, gate) = (Log::default(), Gate::default());
    let host = threaded_host()
        .service(owner("pool", Slow(log.clone(), "pool")).cleanup_timeout(MS * 600))
        .service(owner("stuck", Stuck(gate.wait())).after("pool").cleanup_timeout(MS * 600))
        .build()
        .unwrap();
    host.start().await.unwrap();
    let start = Clock::now();
    let report = shutdown(&host).await;
    let took = start.elapsed();
    assert!(took >= MS * 600 && took < MS * 600 + SLACK, "{took:?}");
    assert_eq!(log.lines(), ["pool"], "a hanging destructor starves no other");
    let is_dropped = |name: &str| report.service(name).unwrap().is_dropped();
    assert_eq!((is_dropped("stuck"), is_dropped("pool")), (false, true));
    assert!(!report.is_clean() && report.exit_code() == 1);
    gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_destructors_do_not_delay_the_host_beyond_its_deadline() {
    let gate = Gate::default();
    let stuck = |name| owner(name, Stuck(gate.wait())).cleanup_timeout(PATIENCE);
    let host = threaded_host()
        .shutdown_timeout(MS * 400)
        .service(stuck("one"))
        .service(stuck("two").placement(Placement::Thread))
        .build()
        .unwrap();
    host.start().await.unwrap();
    let start = Clock::now();
    let report = shutdown(&host).await;
    assert!(start.elapsed() < MS * 400 + SLACK, "{:?}", start.elapsed());
    assert!(report.services().iter().all(|service| !service.is_dropped()));
    gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_that_was_leaked_is_not_waited_for_and_counts_as_not_dropped() {
    let gate = Gate::default();
    let wait = gate.wait();
    let service = blocking_fn("stuck", move |_| {
        wait.block();
        Ok(())
    });
    let host = threaded_host().service(service.stop_timeout(MS * 20)).build().unwrap();
    host.start().await.unwrap();
    until("the service runs", || gate.inside() == 1).await;
    let start = Clock::now();
    let report = shutdown(&host).await;
    assert!(start.elapsed() < SECOND + SLACK, "{:?}", start.elapsed());
    assert!(!report.service("stuck").unwrap().is_dropped());
    gate.open();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destructor_that_panics_counts_as_dropped() {
    for builder in BUILDERS {
        let host = builder().service(owner("panics", Panics)).build().unwrap();
        host.start().await.unwrap();
        assert!(shutdown(&host).await.is_clean());
    }
}

/// The runtime that is current in the destructor is the server's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destructor_may_use_the_runtime_of_the_server() {
    struct Spawns(Arc<AtomicBool>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            let is_done = Arc::clone(&self.0);
            tokio::spawn(async move { is_done.store(true, Ordering::Relaxed) });
        }
    }
    for builder in BUILDERS {
        let is_done = Arc::new(AtomicBool::new(false));
        let host = builder().service(owner("spawns", Spawns(Arc::clone(&is_done)))).build().unwrap();
        host.start().await.unwrap();
        let _ = shutdown(&host).await;
        until("the task ends", || is_done.load(Ordering::Relaxed)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_free_once_the_host_has_returned() {
    for builder in BUILDERS {
        for _ in 0..20 {
            let (own, probes) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
            let addresses = [own.local_addr().unwrap(), probes.local_addr().unwrap()];
            let host = builder().service(owner("port", own)).probe_listener(probes).build().unwrap();
            let report = host.run_until(async { Ok::<(), std::io::Error>(()) }).await.unwrap();
            assert!(report.is_clean());
            for address in addresses {
                assert!(TcpStream::connect(address).is_err(), "{address} still listens");
            }
        }
    }
}

/// The supervisor shares the runtime's threads for blocking work with everything else.
#[test]
fn services_are_dropped_in_time_while_all_blocking_threads_are_busy() {
    for builder in BUILDERS {
        let runtime =
            Builder::new_multi_thread().worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
        let (log, gate) = (Log::default(), Gate::default());
        let host = builder()
            .service(owner("first", Slow(log.clone(), "first")))
            .service(owner("stuck", Stuck(gate.wait())))
            .service(owner("last", Slow(log.clone(), "last")))
            .build()
            .unwrap();
        let busy = Gate::default();
        runtime.block_on(async {
            host.start().await.unwrap();
            drop(tokio::task::spawn_blocking(busy.block()));
            until("the blocking thread is busy", || busy.inside() == 1).await;
            host.handle().request_shutdown();
            until("the others are dropped", || log.lines().len() == 2).await;
            assert_eq!(gate.inside(), 1);
            gate.open();
            let report = shutdown(&host).await;
            assert!(report.is_clean() && report.took() < SECOND, "{report:?}");
        });
        busy.open();
    }
}
