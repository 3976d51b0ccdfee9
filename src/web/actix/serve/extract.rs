//! [`BackgroundTasks`] as an extractor.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpMessage, HttpRequest};

use crate::web::response_note::ResponseNote;
use crate::web::{BackgroundTasks, Refusal};

/// Refuses the request with status 500 if the app is served without [`serve`](super::serve()).
impl FromRequest for BackgroundTasks {
    type Error = Refusal;
    type Future = Ready<Result<Self, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let extensions = request.extensions();
        ready(extensions.get().and_then(ResponseNote::argument).ok_or_else(Refusal::no_background_tasks))
    }
}
