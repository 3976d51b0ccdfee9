//! [`ResponseFlight`], the part of a flight layer that is the same for every framework.

use std::sync::Arc;

use super::audience::{Audience, ResponseHead, audience};
use super::bypass::Bypass;
use super::{FlightHead, FlightKey, FlightOptions};
use crate::debug::impl_debug;
use crate::guard::{FlightStats, SingleFlight};
use crate::sync::{Mutex, lock};
use crate::web::request_head::HeadView;
use crate::web::{Refusal, RequestHead};

/// The `Cache-Status` (RFC 9211) of a response that was made for another request.
pub(crate) const COLLAPSED: &str = "onelane; fwd=miss; collapsed";
/// The `Cache-Status` of a response that was made for this request, and that other requests may also have received.
pub(crate) const LED: &str = "onelane; fwd=miss";
/// The `Cache-Status` of a response that is for this request only.
pub(crate) const BYPASSED: &str = "onelane; fwd=bypass";

/// The state that one layer and all services behind it share.
///
/// `R` is a request as the user's `key_of` sees it, `A` a response that several requests can get,
/// and that is cheap to clone.
pub(crate) struct ResponseFlight<R, A> {
    name: &'static str,
    flight: SingleFlight<FlightKey, RunResponse<A>>,
    options: FlightOptions,
    key_of: Option<Arc<KeyOf<R>>>,
    bypass: Bypass,
}

/// Returns the part of the key that the user adds, or `None` if the request must be served alone.
pub(crate) type KeyOf<R> = dyn Fn(&R) -> Option<Vec<u8>> + Send + Sync;

/// The outcome of a run.
#[derive(Clone)]
pub(crate) enum RunResponse<A> {
    Shared(A),
    /// The response is only for the leader, and so are the key's next responses.
    LeaderOnly,
    /// The response is only for the leader, but the key's next response may be shareable.
    LeaderOnlyThisTime,
    /// The body of the response ended early, or the leader's worker stopped.
    Broken,
}

/// The way to respond to a request. `U` is an unserved request, `S` the response of a service, and `L` the part of a
/// leader's request that the framework needs for the response.
pub(crate) enum FlightReply<A, U, S, L> {
    /// Send the response that was made for another request, as [`COLLAPSED`].
    Collapsed(A, U),
    /// Send the response that was made for this request, as [`LED`].
    Led(A, L),
    /// Serve the request alone, as [`BYPASSED`].
    ServeAlone(U),
    /// Send the response that was made for this request and that no other request may get, as [`BYPASSED`].
    Own(S),
    /// Refuse the request. The request is `None` if it led the run: it was dropped with its service.
    Refused(Refusal, Option<U>),
}

/// Decides which requests get the response that a leader's service returns.
pub(crate) struct Leader<S, L> {
    options: FlightOptions,
    kept: Arc<Mutex<Option<Kept<S, L>>>>,
}

/// The part of a run's result that only its leader gets.
enum Kept<S, L> {
    Response(S),
    Request(L),
}

impl<R, A: Clone + Send + Sync + 'static> ResponseFlight<R, A> {
    pub(crate) fn new(name: &'static str, key_of: Option<Arc<KeyOf<R>>>) -> Arc<Self> {
        Self::build(name, key_of, FlightOptions::new())
    }

    #[track_caller]
    pub(crate) fn with_options(&self, options: FlightOptions) -> Arc<Self> {
        Self::build(self.name, self.key_of.clone(), options)
    }

    #[track_caller]
    fn build(name: &'static str, key_of: Option<Arc<KeyOf<R>>>, options: FlightOptions) -> Arc<Self> {
        Arc::new(Self { name, flight: options.flight(name), options, key_of, bypass: Bypass::new() })
    }

    pub(crate) fn stats(&self) -> FlightStats {
        self.flight.stats()
    }

    /// Returns the key of a request, or `None` if the request must be served alone.
    pub(crate) fn key(&self, request: &R, head: &impl FlightHead) -> Option<FlightKey> {
        let extra = match &self.key_of {
            Some(key_of) => Some(key_of(request)?),
            None => None,
        };
        let key = FlightKey::new(head, extra.as_deref(), &self.options)?;
        (!self.bypass.remembers(&key)).then_some(key)
    }

    /// Joins the current run of `key`, or starts one: then `serve` serves the request and passes the response to
    /// [`Leader::settle`].
    pub(crate) async fn run<U, S, L, F>(
        &self,
        key: FlightKey,
        request: U,
        copy_head: impl FnOnce(&U) -> Box<dyn HeadView + Send>,
        serve: impl FnOnce(U, Leader<S, L>) -> F,
    ) -> FlightReply<A, U, S, L>
    where
        F: Future<Output = RunResponse<A>> + Send + 'static,
    {
        let kept = Arc::new(Mutex::new(None));
        // The request may be consumed before it is refused.
        let head = self.options.keeps_head().then(|| copy_head(&request));
        let mut unserved = Some(request);
        let lead = || {
            let request = unserved.take().expect("a request leads at most one run");
            let served = serve(request, Leader { options: self.options.clone(), kept: Arc::clone(&kept) });
            async move { Ok(served.await) }
        };
        let result = self.flight.run(key.clone(), lead).await;
        if matches!(result, Ok(RunResponse::LeaderOnly)) {
            self.bypass.remember(&key);
        }
        let kept = lock(&kept).take();
        match (result, unserved, kept) {
            (Ok(RunResponse::Shared(response)), Some(request), _) => FlightReply::Collapsed(response, request),
            (Ok(RunResponse::Shared(response)), None, Some(Kept::Request(request))) => {
                FlightReply::Led(response, request)
            }
            (Ok(_), Some(request), _) => FlightReply::ServeAlone(request),
            (Ok(_), None, Some(Kept::Response(response))) => FlightReply::Own(response),
            (Ok(_), None, _) => FlightReply::Refused(self.refuse(Refusal::answer_broken(), head.as_deref()), None),
            (Err(error), unserved, _) => FlightReply::Refused(self.refuse(error.into(), head.as_deref()), unserved),
        }
    }
}

impl<R, A> ResponseFlight<R, A> {
    fn refuse(&self, refusal: Refusal, head: Option<&(dyn HeadView + Send)>) -> Refusal {
        match head {
            Some(head) => self.options.refuse(refusal, &RequestHead::new(head)),
            None => refusal,
        }
    }
}

impl<Res, E, L> Leader<Result<Res, E>, L> {
    /// Decides which requests get the response, and reads it if all of them do. An error is for the leader only.
    ///
    /// `sent` has the names of the request's headers. `read` reads a body of the given size and returns `None` if the
    /// body ends early.
    pub(crate) async fn settle<A, F>(
        self,
        result: Result<Res, E>,
        sent: Vec<impl AsRef<str>>,
        read: impl FnOnce(Res, u64) -> F,
    ) -> RunResponse<A>
    where
        Res: ResponseHead,
        F: Future<Output = Option<(A, L)>>,
    {
        let response = match result {
            Ok(response) => response,
            Err(error) => return self.keep(Kept::Response(Err(error)), RunResponse::LeaderOnlyThisTime),
        };
        let was_sent = |name: &str| sent.iter().any(|sent| name.eq_ignore_ascii_case(sent.as_ref()));
        let size = match audience(&response, &self.options, was_sent) {
            Audience::Everyone { size } => size,
            Audience::LeaderOnly => return self.keep(Kept::Response(Ok(response)), RunResponse::LeaderOnly),
            Audience::LeaderOnlyThisTime => {
                return self.keep(Kept::Response(Ok(response)), RunResponse::LeaderOnlyThisTime);
            }
        };
        match read(response, size).await {
            Some((shared, request)) => self.keep(Kept::Request(request), RunResponse::Shared(shared)),
            None => RunResponse::Broken,
        }
    }

    fn keep<A>(&self, kept: Kept<Result<Res, E>, L>, response: RunResponse<A>) -> RunResponse<A> {
        *lock(&self.kept) = Some(kept);
        response
    }
}

impl_debug!([R, A] ResponseFlight<R, A> |this| { flight: this.flight, options: this.options, .. });
