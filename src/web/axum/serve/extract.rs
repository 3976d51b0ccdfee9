//! [`BackgroundTasks`] as an extractor.

use axum::extract::FromRequestParts;
use http::request::Parts;

use crate::web::response_note::ResponseNote;
use crate::web::{BackgroundTasks, Refusal};

/// Refuses the request with status 500 if the app is served without [`serve`](super::serve()).
impl<S: Sync> FromRequestParts<S> for BackgroundTasks {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get().and_then(ResponseNote::argument).ok_or_else(Refusal::no_background_tasks)
    }
}
