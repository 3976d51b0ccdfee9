//! Single flight for whole responses, without any framework. The layers and middlewares are in
//! [`web::tower`](crate::web::tower), [`web::axum`](crate::web::axum) and [`web::actix`](crate::web::actix).
//!
//! | step of a request | file |
//! |---|---|
//! | its key determines which requests are the same | `key` |
//! | it is served alone if the key's recent responses were not shareable | `bypass` |
//! | it leads or follows a run, and gets a response or a refusal, or joins the next run | `response_flight` |
//! | while it waits, its client is watched | `caller` |
//! | if it leads, it is marked, so that it does not enter the same flight twice | `mark` |
//! | the leader's response, and its `Vary`, determine which requests may share it | `audience`, `vary` |
//! | the user's configuration | `options` |

mod audience;
mod bypass;
mod caller;
mod key;
mod mark;
mod options;
mod response_flight;
mod vary;

pub(crate) use self::audience::ResponseHead;
pub(crate) use self::caller::{Caller, ClientWatch};
pub(crate) use self::key::{FlightHead, FlightKey};
pub(crate) use self::mark::FlightMark;
pub use self::options::FlightOptions;
#[cfg(feature = "actix-web")]
pub(crate) use self::response_flight::RunResponse;
pub(crate) use self::response_flight::{BYPASSED, COLLAPSED, FlightReply, LED, Leader, ResponseFlight};
pub(crate) use self::vary::Fields;
