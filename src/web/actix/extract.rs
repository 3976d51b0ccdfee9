//! [`Guarded`] as an extractor.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};

use crate::debug::impl_debug;
use crate::guard::futures::AcquireOwned;
use crate::web::{GuardSource, Guarded, Refusal};

/// Waits for a permit.
impl<G: GuardSource> FromRequest for Guarded<G> {
    type Error = Refusal;
    type Future = GuardedFuture<G>;

    fn from_request(_: &HttpRequest, _: &mut Payload) -> GuardedFuture<G> {
        GuardedFuture { acquire: G::guard().acquire_owned(), source: PhantomData }
    }
}

/// Waits for the permit of a [`Guarded`].
pub struct GuardedFuture<G> {
    acquire: AcquireOwned,
    source: PhantomData<fn() -> G>,
}

impl<G: GuardSource> Future for GuardedFuture<G> {
    type Output = Result<Guarded<G>, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.acquire).poll(cx).map_ok(Guarded::new).map_err(|error| G::refuse(error.into()))
    }
}

impl_debug!([G] GuardedFuture<G> |this| { acquire: this.acquire });
