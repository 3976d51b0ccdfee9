//! Server-sent events and WebSockets that end politely on SIGTERM, in axum.
//!
//! Run it: `cargo run --example axum_streams`. `PORT` (default 3000; 0 picks a free port) and `HOLD_MS` (default 2000)
//! set the port and the time between events. Try each line, and press Ctrl-C in the server's terminal meanwhile:
//!
//! ```text
//! curl -N localhost:3000/events      # the response ends in order; an `EventSource` connects again, to another server
//! websocat ws://localhost:3000/echo  # sends lines back, until a close frame with the code 1001, "going away"
//! ```
//!
//! The server waits for both, and its exit code is 0.

#![allow(clippy::print_stdout, reason = "the example shows the order of events on stdout")]

use std::convert::Infallible;
use std::env;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::Response;
use axum::response::sse::{Event, Sse};
use axum::routing::any;
use futures::{Stream, StreamExt, stream};
use onelane::ServiceHost;
use onelane::background::{BoxError, HostHandle, ShutdownReport};
use onelane::web::axum::{serve, websocket};
use tokio::net::TcpListener;
use tokio::time::sleep;

async fn events(State(host): State<HostHandle>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    println!("events begin");
    let ticks = stream::iter(1..).then(|n| async move {
        sleep(hold()).await;
        Ok(Event::default().data(n.to_string()))
    });
    Sse::new(host.until_draining(ticks))
}

async fn echo(State(host): State<HostHandle>, upgrade: WebSocketUpgrade) -> Response {
    websocket(&host, upgrade, |mut socket| async move {
        println!("socket opens");
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
                break;
            }
        }
        println!("socket closes");
    })
}

fn hold() -> Duration {
    Duration::from_millis(env::var("HOLD_MS").ok().and_then(|millis| millis.parse().ok()).unwrap_or(2000))
}

#[tokio::main]
async fn main() -> Result<ShutdownReport, BoxError> {
    let host = ServiceHost::default();
    let app = Router::new().route("/events", any(events)).route("/echo", any(echo)).with_state(host.handle());
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(serve(host, listener, app).await?)
}
