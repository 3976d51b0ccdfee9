//! Single flight for whole responses, without any framework. The layers and middlewares are in
//! [`web::tower`](crate::web::tower), [`web::axum`](crate::web::axum) and [`web::actix`](crate::web::actix).
//!
//! | step of a request | file |
//! |---|---|
//! | its key: which requests are the same | `key` |
//! | the key's responses were not shareable lately: the request is served alone | `bypass` |
//! | it leads a run, or follows one, and gets a response or a refusal | `response_flight` |
//! | the leader's response: which requests may get it | `audience` |
//! | what the user configured | `options` |

mod audience;
mod bypass;
mod key;
mod options;
mod response_flight;

pub(crate) use self::audience::ResponseHead;
pub(crate) use self::key::{FlightKey, RequestHead};
pub use self::options::FlightOptions;
#[cfg(feature = "actix-web")]
pub(crate) use self::response_flight::RunResponse;
pub(crate) use self::response_flight::{BYPASSED, COLLAPSED, FlightReply, KeyOf, LED, Leader, ResponseFlight};
