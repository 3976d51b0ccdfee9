//! axum: a server that loses no request when it stops, the guard layer and extractor, errors as responses, work after the
//! response, handlers on a pool, and the probes of a service host.
//!
//! ```no_run
//! use axum::{Router, routing::post};
//! use onelane::background::{BoxError, ShutdownReport};
//! use onelane::web::axum::{GuardLayer, serve};
//! use onelane::{EndpointGuard, ServiceHost};
//! use tokio::net::TcpListener;
//!
//! static REPORT: EndpointGuard = EndpointGuard::new("report");
//!
//! #[tokio::main]
//! async fn main() -> Result<ShutdownReport, BoxError> {
//!     let app = Router::new()
//!         .route("/report", post(|| async { "one request at a time here" }))
//!         .layer(GuardLayer::new(&REPORT));
//!     let listener = TcpListener::bind("127.0.0.1:3000").await?;
//!     Ok(serve(ServiceHost::default(), listener, app).await?)
//! }
//! ```
//!
//! # Without a host
//!
//! A program may call `axum::serve` itself. A [`WatchedListener`] then notices when clients disconnect. Handlers that
//! continue without their clients run on the server's runtime. Wait for them after the server has stopped and before
//! `main` returns:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use axum::Router;
//! # use onelane::EndpointGuard;
//! # use onelane::web::ClientLink;
//! # use onelane::web::axum::WatchedListener;
//! # use tokio::{net::TcpListener, signal, time::timeout};
//! # static REPORT: EndpointGuard = EndpointGuard::new("report");
//! # async fn serve(listener: TcpListener, app: Router) -> std::io::Result<()> {
//! let listener = WatchedListener::from(listener);
//! axum::serve(listener, app.into_make_service_with_connect_info::<ClientLink>())
//!     .with_graceful_shutdown(async {
//!         signal::ctrl_c().await.expect("the handler can be installed");
//!         REPORT.close(); // waiting requests get status 503; without this line they are served first
//!     })
//!     .await?;
//! let _in_time = timeout(Duration::from_secs(30), REPORT.drained()).await;
//! # Ok(())
//! # }
//! ```

mod body;
mod extract;
#[cfg(feature = "offload")]
mod handler;
mod handshake;
#[cfg(unix)]
mod listener;
#[cfg(unix)]
mod make_service;
#[cfg(feature = "background")]
mod probes;
#[cfg(feature = "process")]
mod process_handler;
mod response;
#[cfg(all(feature = "background", unix))]
mod serve;
#[cfg(feature = "watch")]
mod watch;
#[cfg(feature = "ws")]
mod websocket;

pub use self::body::{AxumBody, FlightLayer, GuardLayer};
#[cfg(feature = "offload")]
pub use self::handler::blocking_handler;
#[cfg(feature = "cpu")]
pub use self::handler::cpu_handler;
pub use self::handshake::{HandshakeListener, HandshakeStream};
#[cfg(unix)]
pub use self::listener::{WatchedListener, WatchedStream};
#[cfg(unix)]
pub use self::make_service::MakeLinkedService;
#[cfg(feature = "background")]
pub use self::probes::probes;
#[cfg(feature = "process")]
pub use self::process_handler::process_handler;
#[cfg(all(feature = "background", unix))]
pub use self::serve::{Serve, ServedListener, Server, WatchedIo, serve};
#[cfg(feature = "watch")]
pub use self::watch::{WatchLayer, WatchService};
#[cfg(feature = "ws")]
pub use self::websocket::{DrainingSocket, websocket};
