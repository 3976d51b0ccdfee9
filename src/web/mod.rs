//! A request arrives: guards in front of routes, for axum, for tower services such as tonic's and hyper's, and for
//! actix-web; and handlers that run on a pool.
//!
//! | I want | use |
//! |---|---|
//! | one request at a time on axum routes | [`axum::GuardLayer`] |
//! | the same on any other tower service | [`tower::GuardLayer`] |
//! | the same in actix-web | [`actix::GuardMiddleware`] |
//! | one at a time for each user, tenant, document | `keyed` of [`axum::GuardLayer`](tower::GuardLayerFor::keyed) and [`actix::GuardMiddleware`](actix::GuardMiddleware::keyed) |
//! | one answer for all who ask for the same at the same time | [`axum::FlightLayer`], [`tower::FlightLayer`], [`actix::FlightMiddleware`] |
//! | a turn for a part of a handler | [`EndpointGuard`](crate::EndpointGuard) in the handler, with `?` |
//! | the same, as an argument | [`Guarded`] |
//! | a handler that blocks, as FastAPI's `def` endpoints do | [`axum::blocking_handler`], [`actix::blocking_handler`] |
//! | a handler that computes | [`axum::cpu_handler`], [`actix::cpu_handler`] |
//! | `/livez`, `/readyz` and `/startupz` for who runs the process | [`axum::probes`], [`actix::probes`] |
//!
//! # Refusals
//!
//! A request that is not let in is answered, never an error of the service. The body is RFC 9457's
//! `application/problem+json`; [`GuardOptions::on_refusal`] changes any part.
//!
//! | reason | status | `type` | `Retry-After` |
//! |---|---|---|---|
//! | [`Busy`](crate::AcquireError::Busy): the guard has no queue | 503 | `urn:onelane:busy` | computed |
//! | [`QueueFull`](crate::AcquireError::QueueFull) | 503 | `urn:onelane:queue-full` | computed |
//! | [`TooManyKeys`](crate::AcquireError::TooManyKeys) | 503 | `urn:onelane:too-many-keys` | computed |
//! | [`Timeout`](crate::AcquireError::Timeout): no turn within `max_wait` | 503 | `urn:onelane:timeout` | computed |
//! | [`GrantExpired`](crate::AcquireError::GrantExpired) | 503 | `urn:onelane:grant-expired` | 1 |
//! | [`Closed`](crate::AcquireError::Closed) | 503 | `urn:onelane:closed` | |
//! | [`WouldDeadlock`](crate::AcquireError::WouldDeadlock): a mistake in the service | 500 | `urn:onelane:would-deadlock` | |
//! | [`BlockingInAsync`](crate::AcquireError::BlockingInAsync): a mistake in the service | 500 | `urn:onelane:blocking-in-async` | |
//! | it has no key ([`RequestKey::Refuse`]) | 400 | `urn:onelane:key-missing` | |
//! | the handler or the work that it shared panicked ([`Panicked`](crate::FlightError::Panicked)) | 500 | `urn:onelane:panicked` | |
//! | the handler's answer, made for sharing, broke off | 500 | `urn:onelane:answer-broken` | |
//! | [`TooManyWaiters`](crate::FlightError::TooManyWaiters) | 503 | `urn:onelane:too-many-waiters` | 1 |
//! | [`Timeout`](crate::FlightError::Timeout) of a flight | 503 | `urn:onelane:timeout` | 1 |
//! | [`Full`](crate::OffloadError::Full): the pool's threads and its queue are taken | 503 | `urn:onelane:pool-full` | 1 |
//! | [`QueueTimeout`](crate::OffloadError::QueueTimeout): no thread within `queue_timeout` | 503 | `urn:onelane:timeout` | 1 |
//! | [`Timeout`](crate::OffloadError::Timeout) of work that never began | 503 | `urn:onelane:timeout` | 1 |
//! | [`Timeout`](crate::OffloadError::Timeout) of work that goes on, or [stops](crate::offload::Cancelled) for it: the same again would take as long | 504 | `urn:onelane:took-too-long` | |
//! | [`Cancelled`](crate::OffloadError::Cancelled): the service has cancelled it | 503 | `urn:onelane:cancelled` | |
//! | [`Closed`](crate::OffloadError::Closed) of a pool | 503 | `urn:onelane:closed` | |
//! | [`RuntimeShutdown`](crate::OffloadError::RuntimeShutdown) | 503 | `urn:onelane:shutting-down` | |
//! | [`Panicked`](crate::OffloadError::Panicked): the handler or other work on a pool | 500 | `urn:onelane:panicked` | |
//! | [`NoThread`](crate::OffloadError::NoThread): the operating system has none left | 503 | `urn:onelane:no-thread` | 1 |
//! | [`NoRuntime`](crate::OffloadError::NoRuntime): a mistake in the service | 500 | `urn:onelane:no-runtime` | |
//! | its body broke off while it waited | 400 | `urn:onelane:body-unreadable` | |
//! | its client left while it waited (nobody reads it; nginx's status, for logs) | 499 | `urn:onelane:client-gone` | |
//!
//! Behind a keyed layer, `Busy`, `QueueFull` and `Timeout` are about one key: 429 where keys are clients, 409 where they are
//! resources ([`KeyKind`]). A handler that acquires a turn of a key by hand says so itself:
//! `.map_err(|error| Refusal::from(error).with_status(429))?`.
//!
//! An [`AcquireError`](crate::AcquireError), a [`FlightError`](crate::FlightError) or an
//! [`OffloadError`](crate::OffloadError) that a handler returns is answered in the same way, in axum and actix-web. What the
//! work of a flight failed with answers for itself, as [`FlightError`](crate::FlightError) says.
//!
//! `Retry-After` is the time in which all who wait now will have been served, mean hold × (waiting + 1) ÷ permits,
//! rounded up to whole seconds, from 1 to 3,600. Until a hold has been measured it is 1.
//!
//! # Shared answers
//!
//! A flight layer serves one of the requests that ask for the same at the same time, and gives all of them what it got: the
//! status, the headers and the body. Requests are the same if method, host, path, query and the
//! [named headers](FlightOptions::key_header) are.
//!
//! **What tells users apart must be in the key**, or one gets another's answer. What the layer does of itself:
//!
//! | served alone, beside all others | since |
//! |---|---|
//! | other methods than GET and HEAD; requests with a body | they may change something |
//! | requests with `Authorization`, `Proxy-Authorization`, `Cookie`, unless named or [ignored](FlightOptions::ignore_header) | their answer may be for one user (RFC 9111, section 3.5) |
//! | requests with `Range`, `If-…`, `Upgrade` | their answer is a part, or a comparison |
//!
//! | answer that goes to nobody else; the others are served alone | since |
//! |---|---|
//! | `Set-Cookie`, `Cache-Control: private` or `no-store` | it is for one user (RFC 9111, sections 3 and 5.2.2) |
//! | `Vary` by what is not in the key | it differs (RFC 9111, section 4.1) |
//! | 4xx other than 404, 405, 410; 511 | it is about who asked or how: one client's 401, 403 or 429 is nobody else's |
//! | streams, bodies over [`max_body`](FlightOptions::max_body), 206, announced trailers | it can't be handed out in one piece |
//! | errors of a service that are no response | they have no copies |
//!
//! For ten seconds after such an answer, requests with the same key don't wait for each other, unless it was about that one
//! request: an error, a 4xx, or `Vary` by a header that it had sent. Trailers that no `Trailer` header announced are left out
//! of a shared answer, and so are extensions.
//!
//! `Cache-Status` (RFC 9211) tells what happened: `onelane; fwd=miss` for the request that was served,
//! `onelane; fwd=miss; collapsed` for those that share its answer, `onelane; fwd=bypass` for one that was served alone.
//!
//! Each request that is served alone runs at once: a flight layer is no limit, put a
//! guard behind it where there must be one.
//!
//! Clients that leave change nothing for the others. If all leave, the handler is dropped, or finishes if
//! [`detached`](FlightOptions::detached). A handler with several clients runs in a task of its own, outside of the task-locals
//! of layers around this one, and outside of guards around this one: acquiring them again is not found out there. So put
//! the guard behind the flight layer, not around it.
//!
//! # Clients that leave
//!
//! A request whose client leaves while it *waits* gives up its place and never runs. Whether a server notices depends on
//! the framework:
//!
//! | | noticed | what to do |
//! |---|---|---|
//! | axum and hyper, HTTP/1 | once all of the request was read: while it waits, the layer reads the body, up to 64 KiB | for pipelined requests, and for bodies that are larger but fit into the kernel's buffers (some 100 kB), serve with a [`WatchedListener`](axum::WatchedListener); for larger ones raise [`read_ahead`](GuardOptions::read_ahead), or only a reset is seen |
//! | axum and hyper, HTTP/2 | at once | |
//! | actix-web | when the connection is reset | set `h1_allow_half_closed(false)`, and it is noticed when it is closed |
//!
//! Behind two guards, a request that waits at the second is a handler that runs for the first. If its client leaves, the
//! first lets it go on, and the second notices with a `WatchedListener` only.
//!
//! A handler behind a guard whose client leaves while it *runs* goes on to its end, holding its turn; see [`OnDisconnect`].
//!
//! For handlers on a pool the table holds, too, with this difference: their extractors have run before they wait, and nothing
//! is read ahead. So in axum, where a large body was read by no extractor, a [`WatchedListener`](axum::WatchedListener) is
//! needed. A function that has begun can't be stopped, but it can [see](crate::offload::TaskContext::current) that its client
//! has left. Behind a guard it keeps its turn to its end.

#[cfg(feature = "actix-web")]
pub mod actix;
mod admission;
#[cfg(feature = "axum")]
pub mod axum;
mod body_hold;
#[cfg(feature = "tower")]
mod client_link;
mod flight;
#[cfg(any(feature = "axum", feature = "actix-web"))]
mod guarded;
#[cfg(all(feature = "offload", any(feature = "axum", feature = "actix-web")))]
mod handler;
mod options;
mod refusal;
mod request_key;
#[cfg(feature = "tower")]
pub mod tower;

#[cfg(feature = "tower")]
pub use self::client_link::ClientLink;
pub use self::flight::FlightOptions;
#[cfg(any(feature = "axum", feature = "actix-web"))]
pub use self::guarded::{GuardSource, Guarded};
#[cfg(all(feature = "rayon", any(feature = "axum", feature = "actix-web")))]
pub use self::handler::cpu_handler_pool;
#[cfg(all(feature = "offload", any(feature = "axum", feature = "actix-web")))]
pub use self::handler::{HandlerFn, PoolArgument, PoolArguments, PoolHandler, handler_pool};
pub use self::options::{GuardOptions, Hold, OnDisconnect};
pub use self::refusal::{Refusal, RefusalReason};
pub use self::request_key::{KeyKind, RequestKey};
