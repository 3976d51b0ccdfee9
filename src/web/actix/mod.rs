//! actix-web: the guard middleware and extractor, errors as responses, handlers on a pool, and servers that start and
//! stop with a service host.
//!
//! ```no_run
//! use actix_web::{App, HttpServer, web};
//! use onelane::EndpointGuard;
//! use onelane::web::actix::GuardMiddleware;
//!
//! static REPORT: EndpointGuard = EndpointGuard::new("report");
//!
//! #[actix_web::main]
//! async fn main() -> std::io::Result<()> {
//!     let app = || {
//!         App::new().service(
//!             web::resource("/report")
//!                 .wrap(GuardMiddleware::new(&REPORT))
//!                 .route(web::post().to(|| async { "one request at a time here" })),
//!         )
//!     };
//!     // A client that closes its connection then counts as disconnected, even while its request waits.
//!     HttpServer::new(app).h1_allow_half_closed(false).bind("127.0.0.1:3000")?.run().await
//! }
//! ```
//!
//! # Clients that disconnect
//!
//! By default actix-web assumes that a client that closes its connection has only finished sending: it continues to
//! serve that client, including its requests in the queue. Only a reset connection counts as disconnected. Set
//! `HttpServer::h1_allow_half_closed(false)`, and a request leaves the queue as soon as its client disconnects.
//!
//! There is one exception: a waiting request with more unread body than actix-web's buffers hold (64 KiB and more)
//! stays in the queue, because actix-web checks its connection again only when the body is read.
//!
//! # Shutdown
//!
//! A handler or a [`run_to_completion`](crate::EndpointGuard::run_to_completion) that continues without its client runs
//! on the worker that started it, and ends with that worker. A server that [`serve`](serve()) runs waits for them. Any
//! other server must be stopped after them:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use actix_web::rt::{signal, spawn, time::timeout};
//! # use actix_web::{App, HttpServer};
//! # use onelane::EndpointGuard;
//! # static REPORT: EndpointGuard = EndpointGuard::new("report");
//! # #[actix_web::main]
//! # async fn main() -> std::io::Result<()> {
//! let server = HttpServer::new(App::new).disable_signals().bind("127.0.0.1:3000")?.run();
//! let handle = server.handle();
//! let server = spawn(server);
//!
//! signal::ctrl_c().await?;
//! REPORT.close(); // waiting and new requests get status 503
//! let _in_time = timeout(Duration::from_secs(30), REPORT.drained()).await;
//! handle.stop(true).await;
//! server.await.expect("the server does not panic")
//! # }
//! ```

mod body;
mod extract;
mod flight;
mod future;
#[cfg(feature = "offload")]
mod handler;
mod head;
mod middleware;
#[cfg(feature = "offload")]
mod pool_response;
#[cfg(feature = "background")]
mod probes;
#[cfg(feature = "process")]
mod process_handler;
mod response;
#[cfg(all(feature = "background", unix))]
mod serve;
#[cfg(feature = "offload")]
mod trace;
#[cfg(feature = "watch")]
mod watch;
#[cfg(feature = "actix-ws")]
mod websocket;
mod worker;

pub use self::body::GuardBody;
pub use self::extract::GuardedFuture;
pub use self::flight::{FlightFuture, FlightMiddleware, FlightService};
pub use self::future::GuardFuture;
#[cfg(feature = "cpu")]
pub use self::handler::cpu_handler;
#[cfg(feature = "offload")]
pub use self::handler::{PoolHandlerFuture, blocking_handler};
pub use self::middleware::{GuardMiddleware, GuardService};
#[cfg(feature = "offload")]
pub use self::pool_response::{IntoPoolResponse, OnWorker, PoolResponse};
#[cfg(feature = "background")]
pub use self::probes::probes;
#[cfg(feature = "process")]
pub use self::process_handler::{ProcessHandlerFuture, process_handler};
#[cfg(all(feature = "background", unix))]
pub use self::serve::{
    Drain, Serve, ServedApp, ServedBody, ServedFactory, ServedFuture, ServedHttpServer, Server, serve,
};
#[cfg(feature = "watch")]
pub use self::watch::{WatchMiddleware, WatchService};
#[cfg(feature = "actix-ws")]
pub use self::websocket::{DrainingSocket, websocket};
