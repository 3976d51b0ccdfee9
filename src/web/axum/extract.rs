//! [`Guarded`] as an extractor.

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::body::link;
use crate::guard::{OwnedPermit, SharedGuard};
use crate::web::{ClientLink, GuardSource, Guarded, Refusal};

/// Waits for a permit. If the request carries a [`ClientLink`](crate::web::ClientLink), it stops waiting when its
/// client disconnects.
impl<S, G> FromRequestParts<S> for Guarded<G>
where
    S: Sync,
    G: GuardSource,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        acquire(G::guard(), link(&parts.extensions)).await.map(Self::new).map_err(G::refuse)
    }
}

async fn acquire(guard: SharedGuard, link: Option<ClientLink>) -> Result<OwnedPermit, Refusal> {
    if let Ok(permit) = guard.clone().try_acquire_owned() {
        return Ok(permit);
    }
    let acquire = guard.acquire_owned();
    let Some(link) = link else { return Ok(acquire.await?) };
    let permit = tokio::select! {
        permit = acquire => permit?,
        () = link.gone() => return Err(Refusal::client_gone()),
    };
    if link.is_gone() { Err(Refusal::client_gone()) } else { Ok(permit) }
}
