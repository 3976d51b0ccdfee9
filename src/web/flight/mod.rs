//! Single flight for whole responses: what may be shared, and among whom. No framework: [`web::tower`](crate::web::tower),
//! [`web::axum`](crate::web::axum) and [`web::actix`](crate::web::actix) have the layers.
//!
//! | file | what it is |
//! |---|---|
//! | `options` | what the user chooses |
//! | `key` | which requests are the same |
//! | `shareable` | which answers are for everyone |
//! | `bypass` | which requests had answers lately that were not |

mod bypass;
mod key;
mod options;
mod shareable;

pub(crate) use self::bypass::Bypass;
pub(crate) use self::key::{FlightKey, RequestHead};
pub use self::options::FlightOptions;
pub(crate) use self::shareable::{AnswerHead, Audience, audience};

/// Tells in RFC 9211's terms that this answer is another request's.
pub(crate) const COLLAPSED: &str = "onelane; fwd=miss; collapsed";
/// This request was served by itself, and others may have got its answer.
pub(crate) const LED: &str = "onelane; fwd=miss";
/// This request, or its answer, is not for sharing.
pub(crate) const ALONE: &str = "onelane; fwd=bypass";
