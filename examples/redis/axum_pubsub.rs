//! A consumer of a Redis stream in an axum server: its callbacks may block, and a shutdown does not interrupt them.
//!
//! Run it: `redis-server --save ''`, and `cargo run --example axum_pubsub`. `REDIS_URL` (default redis://127.0.0.1),
//! `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default 2000) set the address of Redis, the port and how
//! long a callback blocks. Try it:
//!
//! ```text
//! for work in quick blocking quick blocking; do redis-cli XADD orders '*' work $work; done
//! curl localhost:3000/           # responds at once, although a callback blocks
//! curl localhost:3000/stats
//! redis-cli XPENDING orders app  # 0 after Ctrl-C: orders in progress were finished, the others wait for a restart
//! ```

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, thread};

use axum::{Json, Router, routing::get};
use onelane::background::{
    BlockingContext, BlockingService, BoxError, Intensity, Service, ServiceHost, ServiceResult, ShutdownReport,
};
use onelane::web::axum::Server;
use redis::streams::{StreamId, StreamReadOptions};
use redis::{Client, TypedCommands};
use serde_json::{Value, json};
use tokio::net::TcpListener;

static BEGUN: AtomicUsize = AtomicUsize::new(0);
static HANDLED: AtomicUsize = AtomicUsize::new(0);
static ACKED: AtomicUsize = AtomicUsize::new(0);

struct Subscriber(Client);

impl BlockingService for Subscriber {
    fn name(&self) -> &str {
        "subscriber"
    }

    /// Fails while Redis is not available, and is restarted until it is.
    fn run(&self, cx: BlockingContext) -> ServiceResult {
        let mut redis = self.0.get_connection_with_timeout(Duration::from_secs(1))?;
        redis.set_read_timeout(Some(Duration::from_secs(1)))?; // a thread that waits cannot be cancelled
        let group = redis.xgroup_create_mkstream("orders", "app", "0");
        group.or_else(|error| if error.code() == Some("BUSYGROUP") { Ok(()) } else { Err(error) })?;
        // Takes one order at a time, directly before its callback runs. Orders left over by a crash come first.
        let options = StreamReadOptions::default().group("app", "worker").count(1).block(100);
        let mut after = "0";
        while !cx.is_stopping() {
            let reply = redis.xread_options(&["orders"], &[after], &options)?;
            match reply.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids).next() {
                Some(order) => {
                    callback(&order);
                    // Acknowledged last: after a crash before this line, the order is handled twice rather than never.
                    ACKED.fetch_add(redis.xack("orders", "app", &[&order.id])?, Ordering::Relaxed);
                }
                None => after = ">",
            }
        }
        Ok(())
    }
}

fn callback(order: &StreamId) {
    let work: String = order.get("work").unwrap_or_default();
    println!("begin {} {work}", order.id);
    BEGUN.fetch_add(1, Ordering::Relaxed);
    if work == "blocking" {
        thread::sleep(hold());
    }
    HANDLED.fetch_add(1, Ordering::Relaxed);
    println!("end {} {work}", order.id);
}

async fn stats() -> Json<Value> {
    let [acked, handled, begun] = [&ACKED, &HANDLED, &BEGUN].map(|count| count.load(Ordering::Relaxed));
    Json(json!({ "handled": handled, "acked": acked, "in_flight": begun - handled }))
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

/// The runtime has one thread, so a callback that blocked it would stop the server.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ShutdownReport, BoxError> {
    let redis = Client::open(env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1".into()))?;
    let subscriber = Service::blocking(Subscriber(redis)).intensity(Intensity::unlimited());
    let host = ServiceHost::builder().service(subscriber.stop_timeout(hold() + Duration::from_secs(3))).build()?;
    let handle = host.handle();
    let app = Router::new().route("/", get(|| async { "hello world" })).route("/stats", get(stats));
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let server = async move {
        let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
        println!("listening on http://{}", listener.local_addr()?);
        Server::new(&handle, listener, app).await
    };
    Ok(host.run_until(server).await?)
}
