//! A request arrives: guards in front of routes, for axum, for tower services such as tonic's and hyper's, and for
//! actix-web.

#[cfg(feature = "actix-web")]
pub mod actix;
#[cfg(feature = "axum")]
pub mod axum;
mod body_hold;
#[cfg(feature = "tower")]
mod client_link;
mod guarded;
mod options;
mod refusal;
#[cfg(feature = "tower")]
pub mod tower;

#[cfg(feature = "tower")]
pub use self::client_link::ClientLink;
pub use self::guarded::{GuardSource, Guarded};
pub use self::options::{GuardOptions, Hold, OnDisconnect};
pub use self::refusal::{Refusal, RefusalReason};
