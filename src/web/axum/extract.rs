//! [`Guarded`] as an extractor.

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::body::link;
use crate::web::{GuardSource, Guarded, Refusal};

/// Waits for a turn. If the request carries a [`ClientLink`](crate::web::ClientLink), it stops waiting when its client
/// has gone.
impl<S, G> FromRequestParts<S> for Guarded<G>
where
    S: Sync,
    G: GuardSource,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let guard = G::guard();
        if let Ok(permit) = guard.clone().try_acquire_owned() {
            return Ok(Self::new(permit));
        }
        let acquire = guard.acquire_owned();
        let permit = match link(&parts.extensions) {
            None => acquire.await?,
            Some(link) => {
                let permit = tokio::select! {
                    permit = acquire => permit?,
                    () = link.gone() => return Err(Refusal::client_gone()),
                };
                if link.is_gone() {
                    return Err(Refusal::client_gone());
                }
                permit
            }
        };
        Ok(Self::new(permit))
    }
}
