//! Background services, in actix-web: one outlives the last request, another one panics and is restarted.
//!
//! Run it: `cargo run --example actix_background_service`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS`
//! (default 2000) set the port and the length of waits. `FAIL_START=reason` makes a service, and so the server, fail to
//! start. Try it:
//!
//! ```text
//! curl localhost:3000/              # {"value":"hello world [false] [heartbeat]"}
//! curl -X POST localhost:3000/fail  # "flaky" panics and is restarted; its third panic ends the server, exit code 1
//! curl localhost:3000/status
//! curl localhost:3000/slow          # Ctrl-C meanwhile: it gets its response, exit code 0; Ctrl-C twice: exit code 130
//! ```

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::rt::time::sleep;
use actix_web::web::{Data, Json, get, post};
use actix_web::{App, Responder};

use futures_util::FutureExt;
use onelane::background::{
    BackgroundService, Backoff, BoxError, HostHandle, Intensity, RunContext, ServiceHost, ServiceResult,
    ShutdownReport, StartContext, StopContext, lifespan, service_fn,
};
use onelane::web::actix::serve;
use serde_json::json;

struct Heartbeat;

impl BackgroundService for Heartbeat {
    fn name(&self) -> &str {
        "heartbeat"
    }

    async fn start(&self, _cx: &StartContext) -> ServiceResult {
        println!("Start background service");
        Ok(())
    }

    async fn run(&self, cx: RunContext) -> ServiceResult {
        while cx.sleep(hold() / 2).await {
            println!("Run background service...");
        }
        Ok(())
    }

    async fn stop(&self, _cx: &StopContext) -> ServiceResult {
        println!("Clean up background service");
        Ok(())
    }
}

static FAIL: AtomicBool = AtomicBool::new(false);

async fn flaky(cx: RunContext) -> ServiceResult {
    while cx.sleep(hold() / 20).await {
        assert!(!FAIL.swap(false, Ordering::Relaxed), "it was asked to fail");
    }
    Ok(())
}

async fn hello(host: Data<HostHandle>) -> impl Responder {
    let status = host.status();
    let heartbeat = status.service("heartbeat").expect("the host has a service of this name");
    Json(json!({ "value": format!("hello world [{}] [{}]", heartbeat.is_ended(), heartbeat.name()) }))
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

#[actix_web::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let connect = |_| async { env::var("FAIL_START").map_or(Ok(()), |reason| Err(reason.into())) };
    let twice_a_minute = Intensity::new(2, Duration::from_secs(60));
    let host = ServiceHost::builder()
        .service(Heartbeat)
        .service(lifespan("database", connect, |_| async { Ok(()) }).after("heartbeat"))
        .service(service_fn("flaky", flaky).backoff(Backoff::new(hold() / 2)).intensity(twice_a_minute))
        .build()?;
    let handle = host.handle();
    let app = move || {
        let app =
            App::new().app_data(Data::new(handle.clone())).route("/", get().to(hello)).route("/", post().to(hello));
        app.route("/status", get().to(async |host: Data<HostHandle>| Json(host.status())))
            .route("/fail", post().to(async || Json(FAIL.swap(true, Ordering::Relaxed))))
            .route("/slow", get().to(|| sleep(hold()).map(|()| "done\n")))
    };
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let server = serve(host, move |drain| {
        let server = drain.http_server(app).bind(format!("127.0.0.1:{port}"))?;
        println!("listening on http://{}", server.addrs()[0]);
        Ok(server)
    });
    Ok(server.await?)
}
