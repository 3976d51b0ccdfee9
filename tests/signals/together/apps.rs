//! The same service in axum and in actix-web.

use std::convert::Infallible;
use std::process::exit;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use actix_web::{App, HttpResponse};
use axum::Router;
use axum::body::{Body, Bytes};
use futures::{Stream, StreamExt};
use onelane::background::{Every, HostHandle, ServiceHost, periodic};
use onelane::offload::stream_blocking;
use onelane::web::actix::{self, GuardMiddleware};
use onelane::web::axum::{self as web_axum, GuardLayer};
use onelane::{BlockingPool, CpuPool, EndpointGuard, ProcessPool, SingleFlight};
use support::runtimes::multi_thread;
use tokio::time::sleep;

static GUARDED: EndpointGuard = EndpointGuard::new("guarded");
static PAGE: SingleFlight<u8, u8> = SingleFlight::builder("page").detached().build();
static BLOCKING: LazyLock<BlockingPool> = LazyLock::new(|| BlockingPool::builder("blocking").max_running(4).build());
static CPU: LazyLock<CpuPool> = LazyLock::new(|| CpuPool::builder("cpu").build());
static PROCESS: LazyLock<ProcessPool> = LazyLock::new(|| ProcessPool::new("process"));

/// Returns how long the work takes. A worker process has the environment of its server, and no statics.
fn work() -> Duration {
    let program = std::env::var(super::PROGRAM).unwrap();
    Duration::from_millis(program.split(' ').nth(2).unwrap().parse().unwrap())
}

#[allow(clippy::print_stdout, reason = "the parent reads stdout")]
fn say(what: &str) {
    println!("{what}");
}

async fn guarded() -> &'static str {
    say("work begins");
    sleep(work()).await;
    say("work ends");
    "done"
}

async fn flight() -> &'static str {
    let run = PAGE.run(1, || async {
        guarded().await;
        Ok(1)
    });
    run.await.map_or("failed", |_| "done")
}

fn blocking() -> &'static str {
    say("work begins");
    thread::sleep(work());
    say("work ends");
    "done"
}

/// Returns a stream from an iterator that blocks.
fn chunks() -> impl Stream<Item = Result<Bytes, Infallible>> {
    let began = Instant::now();
    let mut is_done = false;
    say("work begins");
    let parts = std::iter::from_fn(move || {
        if is_done {
            say("work ends");
            return None;
        }
        thread::sleep(Duration::from_millis(5));
        is_done = began.elapsed() >= work();
        Some(Bytes::from_static(if is_done { b"done" } else { b"more" }))
    });
    stream_blocking(parts).filter_map(|part| async { part.ok().map(Ok) })
}

async fn watch(host: HostHandle) {
    let watches = async {
        while onelane::detached::running().is_empty() {
            if GUARDED.stats().waiting > 0 {
                say("a request waits");
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_millis(1)).await;
        }
        say("work is detached");
    };
    tokio::spawn(watches);
    host.draining().cancelled().await;
    say("draining");
}

async fn serve(framework: &str, host: ServiceHost) -> onelane::background::ShutdownReport {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    say(&format!("listening on http://{}", listener.local_addr().unwrap()));
    if framework == "axum" {
        use ::axum::routing::get;
        let app = Router::new()
            .route("/guarded", get(guarded).layer(GuardLayer::new(&GUARDED)))
            .route("/flight", get(flight))
            .route("/blocking", get(web_axum::blocking_handler(blocking).on(&BLOCKING)))
            .route("/cpu", get(web_axum::cpu_handler(blocking).on(&CPU)))
            .route("/process", get(web_axum::process_handler(&PROCESS, |()| blocking())))
            .route("/stream", get(async || Body::from_stream(chunks())));
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        return web_axum::serve(host, listener, app).await.unwrap();
    }
    let app = || {
        use actix_web::web::{get, resource};
        App::new()
            .service(resource("/guarded").wrap(GuardMiddleware::new(&GUARDED)).route(get().to(guarded)))
            .route("/flight", get().to(flight))
            .route("/blocking", get().to(actix::blocking_handler(blocking).on(&BLOCKING)))
            .route("/cpu", get().to(actix::cpu_handler(blocking).on(&CPU)))
            .route("/process", get().to(actix::process_handler(&PROCESS, |()| blocking())))
            .route("/stream", get().to(async || HttpResponse::Ok().streaming(chunks())))
    };
    actix::serve(host, move |drain| drain.http_server(app).workers(2).listen(listener)).await.unwrap()
}

/// Serves until a signal, prints what the report names, and exits with its code.
#[allow(clippy::exit, reason = "the parent reads the exit code")]
pub(super) fn run(framework: &str, case: &str, drain: Duration) {
    let mut host = ServiceHost::builder()
        .drain_timeout(drain)
        .shutdown_timeout(drain * 4)
        .manage(&GUARDED)
        .manage(&PAGE)
        .manage(BLOCKING.clone())
        .manage(CPU.clone())
        .manage(PROCESS.clone());
    if case == "periodic" {
        let tick = periodic("periodic", Every::fixed_delay(Duration::from_millis(50)), |_| async {
            guarded().await;
            Ok(())
        });
        host = host.service(tick.stop_timeout(drain));
    }
    let host = host.build().unwrap();
    // Not dropped: threads that are blocked by the work can't be waited for.
    let runtime = multi_thread(2);
    let report = runtime.block_on(async {
        tokio::spawn(watch(host.handle()));
        serve(framework, host).await
    });
    for work in report.unfinished() {
        say(&format!("unfinished: {} {}.", work.count(), work.name()));
    }
    for service in report.services().iter().filter(|service| !service.is_clean()) {
        say(&format!("unfinished: service {}.", service.name()));
    }
    exit(report.exit_code().into());
}
