//! A handler that blocks, in axum: it runs on a pool of threads, and the server responds to other requests meanwhile.
//!
//! Run it: `cargo run --example hello_blocking`, or on another port: `PORT=3001 cargo run --example hello_blocking`.
//! Try it:
//!
//! ```text
//! curl localhost:3000/users/7 & curl localhost:3000/; wait  # hello, and one second later: user 7
//! ```

#![allow(clippy::print_stdout, reason = "the example prints its address on stdout")]

use std::{env, thread, time::Duration};

use axum::{Router, extract::Path, routing::get};
use onelane::background::{BoxError, ServiceHost, ShutdownReport};
use onelane::web::axum::{blocking_handler, serve};
use tokio::net::TcpListener;

/// Stands for a query with a database driver that blocks, so it is not `async`.
fn user(Path(id): Path<u64>) -> String {
    thread::sleep(Duration::from_secs(1));
    format!("user {id}\n")
}

/// The runtime has one thread, and no handler blocks it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ShutdownReport, BoxError> {
    let app = Router::new().route("/", get(async || "hello\n")).route("/users/{id}", get(blocking_handler(user)));
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(ServiceHost::default(), listener, app).await?)
}
