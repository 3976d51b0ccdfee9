//! [`ResponseFlight`], the part of a flight layer that is the same for every framework.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use tokio::task::yield_now;

use super::audience::{Audience, ResponseHead, audience};
use super::bypass::Bypass;
use super::caller::{Caller, ClientWatch};
use super::mark::{FlightId, FlightMark};
use super::vary::{Fields, Variant};
use super::{FlightHead, FlightKey, FlightOptions};
use crate::debug::impl_debug;
use crate::guard::{CallerWait, FlightError, FlightErrorKind, SingleFlight};
use crate::name::intern;
use crate::sync::{Mutex, lock};
use crate::web::request_head::HeadView;
use crate::web::{Refusal, RequestHead};

/// The `Cache-Status` (RFC 9211) of a response that was made for another request.
pub(crate) const COLLAPSED: &str = "onelane; fwd=miss; collapsed";
/// The `Cache-Status` of a response that was made for this request, and that other requests may also have received.
pub(crate) const LED: &str = "onelane; fwd=miss";
/// The `Cache-Status` of a response that is for this request only.
pub(crate) const BYPASSED: &str = "onelane; fwd=bypass";

/// The largest number of consecutive runs that a request joins without getting a response. After that, the request is
/// served alone.
const MAX_RUNS: usize = 32;

/// The state that one layer and all services behind it share.
///
/// `R` is a request as the user's `key_of` sees it, `A` a response that several requests can get,
/// and that is cheap to clone.
pub(crate) struct ResponseFlight<R, A> {
    name: &'static str,
    id: FlightId,
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
    /// The response is for all requests that match the variant.
    Shared(A, Variant),
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
    /// `true` if this request could not share the response of an earlier run.
    joins_again: bool,
    kept: Arc<Mutex<Option<Kept<S, L>>>>,
}

/// The part of a run's result that only its leader gets.
enum Kept<S, L> {
    Response(S),
    Request(L),
}

/// The end of a caller's wait for one run.
enum WaitEnd<A> {
    Run(Result<RunResponse<A>, FlightError<Infallible>>),
    ClientGone(Refusal),
}

impl<R, A: Clone + Send + Sync + 'static> ResponseFlight<R, A> {
    pub(crate) fn new(name: Cow<'static, str>, key_of: Option<Arc<KeyOf<R>>>) -> Arc<Self> {
        Self::build(intern(name), key_of, FlightOptions::new())
    }

    #[track_caller]
    pub(crate) fn with_options(&self, options: FlightOptions) -> Arc<Self> {
        Self::build(self.name, self.key_of.clone(), options)
    }

    #[track_caller]
    fn build(name: &'static str, key_of: Option<Arc<KeyOf<R>>>, options: FlightOptions) -> Arc<Self> {
        let flight = options.flight(name);
        Arc::new(Self { name, id: FlightId::new(), flight, options, key_of, bypass: Bypass::new() })
    }

    /// Returns the name of the flight if its runs continue when all of their requests have left.
    #[cfg(feature = "actix-web")]
    pub(crate) fn detached_name(&self) -> Option<&'static str> {
        self.options.is_detached().then_some(self.name)
    }

    /// Returns the flight itself, to close and drain it, and for its statistics.
    pub(crate) fn flight(&self) -> &SingleFlight<FlightKey, RunResponse<A>> {
        &self.flight
    }

    /// Returns `true` if a request with this mark is already inside a run of this flight.
    pub(crate) fn surrounds(&self, mark: Option<&FlightMark>) -> bool {
        mark.is_some_and(|mark| mark.is_inside(self.id))
    }

    /// Returns the mark of a request that leads a run of this flight. `outer` is the mark that the request already has.
    pub(crate) fn mark(&self, outer: Option<FlightMark>) -> FlightMark {
        FlightMark::new(self.id, outer)
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
    /// [`Leader::settle`]. If the request may not share the response of the run, joins or starts the next run.
    ///
    /// The request leaves its run when `client` disconnects.
    pub(crate) async fn run<U, S, L, F>(
        &self,
        key: FlightKey,
        request: U,
        client: impl ClientWatch,
        serve: impl Fn(U, Leader<S, L>) -> F,
    ) -> FlightReply<A, U, S, L>
    where
        U: Caller,
        F: Future<Output = RunResponse<A>> + Send + 'static,
    {
        let kept = Arc::new(Mutex::new(None));
        // The request may be consumed before it is refused.
        let head = self.options.keeps_head().then(|| request.copy_head());
        let refused = |refusal, request| FlightReply::Refused(self.refuse(refusal, head.as_deref()), request);
        let mut unserved = Some(request);
        let mut wait = CallerWait::default();
        let mut gone = pin!(client.gone());
        for earlier_runs in 0..MAX_RUNS {
            let lead = || {
                let request = unserved.take().expect("a request leads at most one run");
                let (options, kept) = (self.options.clone(), Arc::clone(&kept));
                let served = serve(request, Leader { options, joins_again: earlier_runs > 0, kept });
                async move { Ok(served.await) }
            };
            let end = {
                let mut run = self.flight.run(key.clone(), lead).continuing(wait);
                let end = poll_fn(|cx| match Pin::new(&mut run).poll(cx) {
                    Poll::Ready(result) => Poll::Ready(WaitEnd::Run(result)),
                    Poll::Pending => gone.as_mut().poll(cx).map(WaitEnd::ClientGone),
                });
                let end = end.await;
                wait = run.take_wait();
                end
            };
            let response = match end {
                WaitEnd::Run(Ok(response)) => response,
                WaitEnd::Run(Err(error)) => return refused(error.into(), unserved),
                WaitEnd::ClientGone(refusal) => return refused(refusal, unserved),
            };
            let is_for_leader_only = matches!(response, RunResponse::LeaderOnly);
            if is_for_leader_only {
                self.bypass.remember(&key);
            }
            let Some(request) = unserved.take() else {
                return match (response, lock(&kept).take()) {
                    (RunResponse::Shared(response, _), Some(Kept::Request(request))) => {
                        FlightReply::Led(response, request)
                    }
                    (_, Some(Kept::Response(response))) => FlightReply::Own(response),
                    _ => refused(Refusal::answer_broken(), None),
                };
            };
            if let RunResponse::Shared(response, variant) = response
                && variant.is_of(request.fields())
            {
                return FlightReply::Collapsed(response, request);
            }
            // The client may have disconnected at the same moment.
            if let Some(refusal) = client.refusal() {
                return refused(refusal, Some(request));
            }
            if is_for_leader_only {
                return FlightReply::ServeAlone(request);
            }
            unserved = Some(request);
        }
        // Served alone, the requests that are left would all run at once.
        refused(FlightError::from_kind(FlightErrorKind::TooManyWaiters).into(), unserved)
    }
}

impl<R, A> ResponseFlight<R, A> {
    fn refuse(&self, refusal: Refusal, head: Option<&(dyn HeadView + Send + Sync)>) -> Refusal {
        match head {
            Some(head) => self.options.refuse(refusal, &RequestHead::new(head)),
            None => refusal,
        }
    }
}

impl<Res, E, L> Leader<Result<Res, E>, L> {
    /// Lets the other requests that could not share the earlier response join this run before a fast service ends it.
    /// Those requests were woken together with the leader of this run.
    pub(crate) async fn gather(&self) {
        if self.joins_again {
            yield_now().await;
        }
    }

    /// Decides which requests get the response, and reads it if all of them do. An error goes to the leader only.
    ///
    /// `sent` has the request's headers. `read` reads a body of the given size and returns `None` if the body ends
    /// early.
    pub(crate) async fn settle<A, F>(
        self,
        result: Result<Res, E>,
        sent: &impl Fields,
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
        let (size, variant) = match audience(&response, &self.options) {
            Audience::Everyone { size, vary } => (size, Variant::new(vary, sent)),
            Audience::LeaderOnly => return self.keep(Kept::Response(Ok(response)), RunResponse::LeaderOnly),
            Audience::LeaderOnlyThisTime => {
                return self.keep(Kept::Response(Ok(response)), RunResponse::LeaderOnlyThisTime);
            }
        };
        match read(response, size).await {
            Some((shared, request)) => self.keep(Kept::Request(request), RunResponse::Shared(shared, variant)),
            None => RunResponse::Broken,
        }
    }

    fn keep<A>(&self, kept: Kept<Result<Res, E>, L>, response: RunResponse<A>) -> RunResponse<A> {
        *lock(&self.kept) = Some(kept);
        response
    }
}

impl_debug!([R, A] ResponseFlight<R, A> |this| { flight: this.flight, options: this.options, .. });
