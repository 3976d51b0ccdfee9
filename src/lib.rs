//! Concurrency tools for tokio web services: what FastAPI users have at hand, for axum, actix-web and everything built on
//! tower, and stricter. A guard lets one caller at a time into an endpoint, or N, or one for each user, in the order they
//! came, with a bounded queue and a polite refusal. A single flight lets all who ask for the same thing share one run. They
//! stay right when clients leave, handlers panic and servers stop. Work that blocks or computes leaves the async threads,
//! bounded, in order, and without a trace of callers that have left. A service host runs what a server needs beside its
//! requests, from before the first to after the last.
//!
//! ```text
//!            request
//!               │
//!   web      GuardLayer · GuardMiddleware · Guarded          a route, or an argument of its handler
//!            FlightLayer · FlightMiddleware ───────── the answer of a run that is going on already
//!               │                                     ╲
//!   guard    EndpointGuard, KeyedGuard ── queue         ╲── refusal: 503 or 429, Retry-After, problem+json
//!               │              ╲
//!               │               ╲── client leaves: its place is given up, its handler never runs
//!            your handler, holding a Permit
//!               │              ╲
//!               │               ╲── client leaves: the handler runs to its end all the same
//!   offload  run_blocking, run_cpu ── queue ── a thread       what blocks, what computes
//!               │
//!            response
//!
//!   background  ServiceHost: services start ─▶ server runs until a signal ─▶ services stop, and tell how they ended
//! ```
//!
//! (A server does not notice every client that leaves: see [`web`].)
//!
//! ```
//! use onelane::EndpointGuard;
//!
//! static REPORT: EndpointGuard = EndpointGuard::new("report");
//!
//! async fn report() -> Result<String, onelane::AcquireError> {
//!     let _permit = REPORT.acquire().await?; // one at a time from here …
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
//! # Folders, in the order in which a request meets them
//!
//! | module | what it does |
//! |---|---|
//! | [`web`] | a request arrives: layers, middlewares, extractors, handlers on a pool, and what a refusal looks like |
//! | [`guard`] | may it run now, wait, share a run that is going on, or is it refused? |
//! | [`offload`] | work that would block the runtime leaves it, so much at once, and the ways back |
//! | [`background`] | beside requests: services that start before the first of them and stop after the last |
//!
//! # Features
//!
//! `rayon` alone is on by default, and each only adds.
//!
//! | feature | what it adds |
//! |---|---|
//! | `rayon` | [`run_cpu`] and [`CpuPool`]: work that computes, on a rayon pool of its own |
//! | `tower` | [`web::tower`]: a layer for any tower service, such as tonic's and hyper's |
//! | `axum` | [`web::axum`]: the layer for axum's routes, the extractor, errors as responses (implies `tower`) |
//! | `actix-web` | [`web::actix`]: the middleware, the extractor, errors as responses |
//! | `croner` | [`background::Every::cron`]: periodic services by cron expressions, in any time zone |
//! | `hyper` | [`probe_listener`](background::ServiceHostBuilder::probe_listener): the probes of a service host on a port of their own |
//! | `serde` | [`GuardStats`](guard::GuardStats), [`LimiterStatistics`](offload::LimiterStatistics) and [`PoolStatistics`](offload::PoolStatistics) can be serialized (implied by the adapters) |
//! | `full` | all of them |
//!
//! # More
//!
//! - [Coming from FastAPI](docs::from_fastapi): what you write there, and what you write here.
//! - [Guarantees](docs::guarantees): what a drop, a panic and a shutdown do, type by type.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(feature = "full"), allow(rustdoc::broken_intra_doc_links, reason = "links lead to what features add"))]

#[cfg(not(loom))]
pub mod background;
#[cfg_attr(loom, allow(dead_code, reason = "the models contain the semaphore, but not the guards"))]
mod counter;
#[cfg(all(doc, not(loom)))]
pub mod docs;
#[cfg(not(loom))]
pub mod guard;
/// What the models check: the cores, without the guards around them.
#[cfg(loom)]
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "the models have the cores without the guards around them"
)]
mod guard {
    pub(crate) mod flight {
        pub(crate) mod outcome;
        pub(crate) mod run_entry;
        pub(crate) mod shard;
        mod shard_driver;
    }
    pub(crate) mod keyed {
        pub(crate) mod key_entry;
        pub(crate) mod shard;
    }
    pub(crate) mod key_map;
}
#[cfg(not(loom))]
pub mod offload;
#[cfg_attr(
    loom,
    allow(dead_code, unused_imports, unreachable_pub, reason = "the models contain the semaphore, but not the guards")
)]
mod semaphore;
/// What the models check: tasks and workers, without pools and runtimes around them.
#[cfg(loom)]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "the models have the cores without what is around them")]
mod offload {
    pub(crate) mod error;
    pub(crate) mod workers;
    pub(crate) mod limiter {
        use crate::semaphore::TokenSemaphore;

        /// Its ordinary tokens.
        #[derive(Debug)]
        pub(crate) struct CapacityLimiter(pub(crate) TokenSemaphore);

        impl CapacityLimiter {
            pub(crate) fn semaphore(&self) -> &TokenSemaphore {
                &self.0
            }
        }
    }
    pub(crate) mod stream {
        pub(crate) mod buffer;
    }
    pub(crate) mod task;
}
#[cfg_attr(loom, allow(dead_code, unreachable_pub, reason = "the models have the cores without what is around them"))]
mod panic;
#[cfg(not(loom))]
mod park;
#[cfg_attr(loom, allow(dead_code, reason = "the models contain the semaphore, but not the guards"))]
mod sync;
#[cfg(not(loom))]
mod trace;
mod waker_slot;
#[cfg(all(not(loom), any(feature = "tower", feature = "actix-web")))]
pub mod web;

#[cfg(not(loom))]
#[doc(inline)]
pub use background::{BackgroundService, ServiceHost};
#[cfg(not(loom))]
#[doc(inline)]
pub use guard::{
    AcquireError, EndpointGuard, FlightError, KeyedGuard, KeyedPermit, Order, OwnedKeyedPermit, OwnedPermit, Permit,
    Queue, SingleFlight,
};
#[cfg(not(loom))]
#[doc(inline)]
pub use offload::{BlockingPool, CapacityLimiter, OffloadError, run_blocking, stream_blocking};
#[cfg(all(not(loom), feature = "rayon"))]
#[doc(inline)]
pub use offload::{CpuPool, run_cpu};

/// The README's examples are compiled and run with the doctests.
#[cfg(all(doctest, feature = "axum"))]
#[doc = include_str!("../README.md")]
struct Readme;
