//! A request arrives: guards in front of routes, for axum, for tower services such as tonic's and hyper's, and for
//! actix-web.
//!
//! | I want | use |
//! |---|---|
//! | one request at a time on axum routes | [`axum::GuardLayer`] |
//! | the same on any other tower service | [`tower::GuardLayer`] |
//! | the same in actix-web | [`actix::GuardMiddleware`] |
//! | a turn for a part of a handler | [`EndpointGuard`](crate::EndpointGuard) in the handler, with `?` |
//! | the same, as an argument | [`Guarded`] |
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
//! | [`Timeout`](crate::AcquireError::Timeout): no turn within `max_wait` | 503 | `urn:onelane:timeout` | computed |
//! | [`GrantExpired`](crate::AcquireError::GrantExpired) | 503 | `urn:onelane:grant-expired` | 1 |
//! | [`Closed`](crate::AcquireError::Closed) | 503 | `urn:onelane:closed` | |
//! | [`WouldDeadlock`](crate::AcquireError::WouldDeadlock): a mistake in the service | 500 | `urn:onelane:would-deadlock` | |
//! | [`BlockingInAsync`](crate::AcquireError::BlockingInAsync): a mistake in the service | 500 | `urn:onelane:blocking-in-async` | |
//! | its body broke off while it waited | 400 | `urn:onelane:body-unreadable` | |
//! | its client left while it waited (nobody reads it; nginx's status, for logs) | 499 | `urn:onelane:client-gone` | |
//!
//! `Retry-After` is the time in which all who wait now will have been served, mean hold × (waiting + 1) ÷ permits,
//! rounded up to whole seconds, from 1 to 3,600. Until a hold has been measured it is 1.
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
//! A handler whose client leaves while it *runs* goes on to its end, holding its turn; see [`OnDisconnect`].

#[cfg(feature = "actix-web")]
pub mod actix;
#[cfg(feature = "axum")]
pub mod axum;
mod body_hold;
#[cfg(feature = "tower")]
mod client_link;
mod flight;
mod gate;
#[cfg(any(feature = "axum", feature = "actix-web"))]
mod guarded;
mod lane_key;
mod options;
mod refusal;
#[cfg(feature = "tower")]
pub mod tower;

#[cfg(feature = "tower")]
pub use self::client_link::ClientLink;
pub use self::flight::FlightOptions;
#[cfg(any(feature = "axum", feature = "actix-web"))]
pub use self::guarded::{GuardSource, Guarded};
pub use self::lane_key::{KeyKind, LaneKey};
pub use self::options::{GuardOptions, Hold, OnDisconnect};
pub use self::refusal::{Refusal, RefusalReason};
