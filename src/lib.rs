//! Concurrency tools for tokio web services, for axum, actix-web and anything built on tower. A guard admits one caller
//! to an endpoint, or N, or one per user, in FIFO order, with an optional bound on the queue, and turns a refusal into
//! a response. A single flight lets concurrent callers of a key share one run. Pools move blocking and CPU work off the
//! async threads, under a limit. A service host runs the background services of a server. Each of these tools defines
//! what happens when a client disconnects, a handler panics or the server stops.
//!
//! ```text
//!            request
//!               │
//!   web      GuardLayer · GuardMiddleware · Guarded          a route, or an argument of its handler
//!            FlightLayer · FlightMiddleware ───────── share the response of a running request
//!               │                                     ╲
//!   guard    EndpointGuard, KeyedGuard ── queue         ╲── refusal: 503 or 429, Retry-After, problem+json
//!               │              ╲
//!               │               ╲── the client disconnects: the request leaves the queue, its handler never runs
//!            your handler, holding a Permit
//!               │              ╲
//!               │               ╲── the client disconnects: the handler still runs to its end
//!   offload  run_blocking, run_cpu ── queue ── a thread       blocking calls, computations
//!            ProcessPool ── queue ── a process                code that may crash, hang or take all memory
//!               │
//!            response
//!
//!   background  ServiceHost: services start ─▶ the server runs until a signal ─▶ services stop, and report
//! ```
//!
//! A server does not notice every client that disconnects: see [`web`].
//!
//! ```
//! use onelane::EndpointGuard;
//!
//! static REPORT: EndpointGuard = EndpointGuard::new("report");
//!
//! async fn report() -> Result<String, onelane::AcquireError> {
//!     let _permit = REPORT.acquire().await?; // one caller at a time from here …
//!     Ok("the report".to_owned())
//! } // … to here
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! assert_eq!(report().await, Ok("the report".to_owned()));
//! assert_eq!(REPORT.stats().granted, 1);
//! # }
//! ```
//!
//! # Modules, in the order in which a request meets them
//!
//! | module | what it does |
//! |---|---|
//! | [`web`] | layers, middlewares, extractors, handlers on a pool, and the responses of refusals |
//! | [`guard`] | decides if a request runs now, waits, shares a run, or is refused |
//! | [`backend`] | extends a guard to all processes of a host, or all machines of a cluster |
//! | [`offload`] | moves blocking work off the runtime under a limit, and calls back into async code |
//! | [`background`] | runs services that start before the first request and stop after the last |
//! | [`watch`] | reports a blocked worker, and the route or task that blocks the worker |
//!
//! # Features
//!
//! `guard`, `offload`, `background`, `watch`, `cpu` and `process-constructor` are on by default. Features are additive.
//!
//! | feature | what it adds |
//! |---|---|
//! | `guard` | [`guard`]: guards for an endpoint or for each key, and single flights |
//! | `offload` | [`offload`]: pools for blocking work, streams from blocking iterators, the capacity limiter |
//! | `background` | [`background`]: services that start before the server and stop after it (implies `watch`) |
//! | `watch` | [`watch`]: reports of blocked workers |
//! | `backtrace` | [stacks](watch::WatchBuilder::capture_stacks) in these reports (Linux with glibc; implies `watch`) |
//! | `cpu` | [`run_cpu`] and [`CpuPool`]: computations on threads of their own (implies `offload`) |
//! | `process` | [`ProcessPool`]: computations in other processes, which may crash (Linux; implies `cpu`) |
//! | `process-constructor` | with `process`: workers need no call of [`worker_guard`](offload::process::worker_guard) |
//! | `landlock` | [`Sandbox`](offload::process::Sandbox): workers that can't open files (Linux; implies `process`) |
//! | `tower` | [`web::tower`]: layers for any tower service, such as those of tonic and hyper (implies `guard`) |
//! | `axum` | [`web::axum`]: layers for axum's routes, the extractor, errors as responses (implies `tower`) |
//! | `ws` | [`websocket`](web::axum::websocket()): WebSockets that end with their host (implies `axum` and `background`) |
//! | `actix-web` | [`web::actix`]: middlewares, the extractor, errors as responses (implies `guard`) |
//! | `actix-ws` | [`websocket`](web::actix::websocket()) for actix-web (implies `actix-web` and `background`) |
//! | `cron` | [`Every::cron`](background::Every::cron): cron expressions, in any time zone (implies `background`) |
//! | `probe-listener` | [probes on a separate port](background::ServiceHostBuilder::probe_listener) (implies `background`) |
//! | `host` | [`backend::Host`]: guards over all processes of a host, on Linux (implies `guard`) |
//! | `redis` | [`backend::Redis`]: guards over all processes that share a Redis or Valkey (implies `guard`) |
//! | `tokio-postgres` | [`backend::Postgres`]: guards over all processes that share a database (implies `guard`) |
//! | `serde` | `Serialize` for statistics, statuses and reports, and for what these contain (implied by the adapters) |
//! | `full` | all of the above |
//!
//! With `offload`, the features `axum` and `actix-web` include handlers that run on a pool, with `cpu` also
//! `cpu_handler`, and with `process` also `process_handler`. With `background`, they include probe routes. With
//! `watch`, they and `tower` include the layers that label requests for the reports.
//!
//! # More
//!
//! - [Coming from FastAPI](docs::from_fastapi): what you write there, and what you write here.
//! - [Guarantees](docs::guarantees): what a drop, a panic and a shutdown do, type by type.
//! - [Events](docs::events): what the crate reports to `tracing`, with levels and fields.
//! - [Stability](docs::stability): what new versions may change, supported Rust versions, types of other crates.
//! - [Architecture](docs::architecture): a tour of the source, and its glossary.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    any(not(feature = "full"), not(target_os = "linux")),
    allow(
        dead_code,
        rustdoc::broken_intra_doc_links,
        unnameable_types,
        unreachable_pub,
        unused_imports,
        unused_macros,
        reason = "each feature and system uses only a part of the shared modules, and links may lead to missing items"
    )
)]

#[cfg(feature = "guard")]
pub mod backend;
#[cfg(feature = "background")]
pub mod background;
#[cfg(any(feature = "guard", feature = "offload"))]
mod caller_trace;
#[cfg(any(feature = "guard", feature = "offload"))]
mod config_error;
#[cfg(any(feature = "guard", feature = "offload"))]
mod counter;
#[cfg(any(feature = "guard", feature = "offload", feature = "background", feature = "watch"))]
mod debug;
#[cfg(any(feature = "guard", feature = "offload", feature = "background"))]
pub mod detached;
#[cfg(doc)]
pub mod docs;
#[cfg(any(feature = "guard", feature = "background"))]
mod error_chain;
#[cfg(feature = "guard")]
pub mod guard;
#[cfg(any(feature = "guard", feature = "offload", feature = "background"))]
mod managed;
#[cfg(feature = "guard")]
mod name;
#[cfg(feature = "offload")]
pub mod offload;
#[cfg(any(feature = "guard", feature = "offload", feature = "background"))]
mod own_runtime;
#[cfg(any(feature = "guard", feature = "offload", feature = "background", feature = "watch"))]
mod panic;
#[cfg(any(feature = "guard", feature = "offload"))]
mod park;
#[cfg(any(feature = "guard", feature = "background", feature = "process"))]
mod random;
#[cfg(any(feature = "guard", feature = "offload", feature = "background", feature = "watch"))]
mod rounded;
#[cfg(any(feature = "guard", feature = "offload"))]
mod scope;
#[cfg(all(test, not(loom), any(feature = "guard", feature = "offload")))]
mod scope_tests;
#[cfg(any(feature = "guard", feature = "offload"))]
mod semaphore;
#[cfg(any(feature = "guard", feature = "offload"))]
mod shared;
#[cfg(any(feature = "guard", feature = "offload", feature = "background"))]
mod sync;
#[cfg(any(feature = "guard", feature = "offload", feature = "background", feature = "watch"))]
mod trace;
#[cfg(any(feature = "guard", feature = "offload", feature = "background"))]
mod wake;
#[cfg(any(feature = "guard", feature = "offload"))]
mod waker_slot;
#[cfg(feature = "watch")]
pub mod watch;
#[cfg(any(feature = "tower", feature = "actix-web"))]
pub mod web;

#[cfg(feature = "background")]
#[doc(inline)]
pub use background::{BackgroundService, ServiceHost};
#[cfg(any(feature = "guard", feature = "offload"))]
pub use config_error::ConfigError;
#[cfg(feature = "guard")]
#[doc(inline)]
pub use guard::{
    AcquireError, EndpointGuard, FlightError, KeyedGuard, KeyedPermit, Order, OwnedKeyedPermit, OwnedPermit, Permit,
    Queue, SingleFlight,
};
#[cfg(any(feature = "guard", feature = "offload", feature = "background"))]
pub use managed::{Managed, ManagedSnapshot};
#[cfg(feature = "process")]
#[doc(inline)]
pub use offload::process::{ProcessError, ProcessPool};
#[cfg(feature = "offload")]
#[doc(inline)]
pub use offload::{BlockingPool, CapacityLimiter, OffloadError, run_blocking, stream_blocking};
#[cfg(feature = "cpu")]
#[doc(inline)]
pub use offload::{CpuPool, run_cpu};
#[cfg(any(feature = "offload", feature = "background"))]
pub use panic::Panic;

/// The README's examples are compiled and run with the doctests.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../README.md")]
struct Readme;
