//! Work after the response, in actix-web: the client has its answer first, and a shutdown waits for the work.
//!
//! Run it: `cargo run --example actix_background_tasks`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS`
//! (default 2000) set the port and the length of each task. Try it:
//!
//! ```text
//! curl -iX POST localhost:3000/sign-up   # 201 at once; then the server prints "mail sent" and "log written"
//! curl -iX POST localhost:3000/fails     # 400, and only "log written": no mail after an error
//! curl localhost:3000/running            # the work that runs without its caller, by name
//! ```
//!
//! Press Ctrl-C right after the first line: the server ends when both tasks have ended, with exit code 0.

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::time::Duration;
use std::{env, thread};

use actix_web::web::{Json, get, post};
use actix_web::{App, HttpResponse};
use onelane::background::{BoxError, ShutdownReport};
use onelane::web::actix::serve;
use onelane::web::{BackgroundTask, BackgroundTasks, Refusal, RunOn};
use onelane::{ServiceHost, detached};
use tokio::time::sleep;

async fn sign_up(tasks: BackgroundTasks) -> Result<HttpResponse, Refusal> {
    add_tasks(&tasks)?;
    println!("response 201");
    Ok(HttpResponse::Created().finish())
}

async fn fails(tasks: BackgroundTasks) -> Result<HttpResponse, Refusal> {
    add_tasks(&tasks)?;
    println!("response 400");
    Ok(HttpResponse::BadRequest().finish())
}

/// Adds a mail that is sent after a success, and a line in a log, whose writer blocks its thread.
fn add_tasks(tasks: &BackgroundTasks) -> Result<(), Refusal> {
    let mail = BackgroundTask::new("mail", async {
        sleep(hold()).await;
        println!("mail sent");
    });
    tasks.add_task(mail.run_on(RunOn::Success).timeout(Duration::from_secs(30)))?;
    tasks.add_blocking("log", || {
        thread::sleep(hold());
        println!("log written");
    })?;
    Ok(())
}

async fn running() -> Json<Vec<String>> {
    Json(detached::running().iter().map(|work| format!("{} {}", work.count(), work.name())).collect())
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

#[actix_web::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let app = || {
        App::new()
            .route("/sign-up", post().to(sign_up))
            .route("/fails", post().to(fails))
            .route("/running", get().to(running))
    };
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let server = serve(ServiceHost::default(), move |drain| {
        let server = drain.http_server(app).bind(format!("127.0.0.1:{port}"))?;
        println!("listening on http://{}", server.addrs()[0]);
        Ok(server)
    });
    Ok(server.await?)
}
