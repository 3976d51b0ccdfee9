//! [`FlightLayer`], which lets requests that ask for the same at the same time share one answer.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::bodies::{AnyBody, BodyKind, RequestBody, ResponseBody};
use crate::guard::{FlightStats, SingleFlight};
use crate::sync::{Mutex, lock};
use crate::web::flight::{ALONE, AnswerHead, Audience, Bypass, COLLAPSED, FlightKey, LED, RequestHead, audience};
use crate::web::{FlightOptions, Refusal};

/// Lets requests that ask for the same at the same time share one answer: one of them is served, and all get what it got.
///
/// In axum, use [`web::axum::FlightLayer`](crate::web::axum::FlightLayer), which is the same for axum's body type.
pub type FlightLayer = FlightLayerFor<AnyBody>;

/// [`FlightLayer`], for one kind of bodies.
pub struct FlightLayerFor<K> {
    flights: Arc<Flights>,
    kind: PhantomData<fn() -> K>,
}

/// A service whose answers are shared. Made by [`FlightLayer`].
#[derive(Clone)]
pub struct FlightService<S, K = AnyBody> {
    inner: S,
    flights: Arc<Flights>,
    kind: PhantomData<fn() -> K>,
}

/// A request that may share its answer. Made by [`FlightService`].
///
/// Dropped, it gives up its share: the others get the answer all the same, and if there are none, the service is dropped.
pub struct FlightFuture<R, E>(Pin<Box<dyn Future<Output = Result<R, E>> + Send>>);

/// What one layer and all services behind it share.
struct Flights {
    flight: SingleFlight<FlightKey, Landing>,
    options: FlightOptions,
    /// What else requests are known by. `None`: served alone.
    key_of: Option<Box<KeyOf>>,
    bypass: Bypass,
}

type KeyOf = dyn Fn(&Parts) -> Option<Vec<u8>> + Send + Sync;

/// What a run comes to.
#[derive(Clone)]
enum Landing {
    Shared(Arc<Answer>),
    /// It is for the request only that it was made for.
    Own,
    /// The same, but the next one may be for everyone. An error of the service is one too.
    OwnThisTime,
    /// Its body broke off.
    Broken,
}

/// An answer that everyone may have.
struct Answer {
    status: StatusCode,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
}

/// Where the request that begins a run finds its answer, if nobody else may have it.
type Own<R, E> = Arc<Mutex<Option<Result<Response<R>, E>>>>;

impl<K> FlightLayerFor<K> {
    /// Shares the answers of services, with the default [options](FlightOptions). `name` appears in [`stats`](Self::stats).
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self::with_options(name, FlightOptions::new())
    }

    /// Shares the answers of services.
    #[must_use]
    pub fn with_options(name: &'static str, options: FlightOptions) -> Self {
        Self::of(name, options, None)
    }

    /// Shares the answers of services among requests for which `key_of` returns the same, beside method, host, path, query
    /// and [key headers](FlightOptions::key_header). Those for which it returns `None` are served alone.
    ///
    /// For users that were authenticated before, and are known by an extension of the request.
    pub fn keyed<Key: Into<Vec<u8>>>(
        name: &'static str,
        options: FlightOptions,
        key_of: impl Fn(&Parts) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        Self::of(name, options, Some(Box::new(move |head| key_of(head).map(Into::into))))
    }

    fn of(name: &'static str, options: FlightOptions, key_of: Option<Box<KeyOf>>) -> Self {
        let flight = options.flight(name);
        Self { flights: Arc::new(Flights { flight, options, key_of, bypass: Bypass::new() }), kind: PhantomData }
    }

    /// How many runs there were, and how many requests shared them. Takes no lock.
    #[must_use]
    pub fn stats(&self) -> FlightStats {
        self.flights.flight.stats()
    }
}

impl<S, K> Layer<S> for FlightLayerFor<K> {
    type Service = FlightService<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        FlightService { inner, flights: Arc::clone(&self.flights), kind: PhantomData }
    }
}

impl<S, K, B, R> Service<Request<B>> for FlightService<S, K>
where
    K: RequestBody<B> + ResponseBody<R>,
    B: Body + Send + 'static,
    S: Service<Request<K::Request>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Send,
    <K as RequestBody<B>>::Request: Send + 'static,
{
    type Response = Response<<K as ResponseBody<R>>::Response>;
    type Error = S::Error;
    type Future = FlightFuture<Self::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that was polled ready serves this request.
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        let flights = Arc::clone(&self.flights);
        let (head, body) = request.into_parts();
        let key = if has_body(&body) { None } else { flights.key::<K>(&head) };
        let request = K::untouched(Request::from_parts(head, body));
        FlightFuture(Box::pin(async move {
            let Some(key) = key else { return inner.call(request).await.map(|alone| answer_alone::<K, R>(alone)) };
            flights.fly::<K, S, _, R>(key, inner, request).await
        }))
    }
}

impl Flights {
    /// `None` if the request is to be served alone.
    fn key<K: BodyKind>(&self, head: &Parts) -> Option<FlightKey> {
        let extra = match &self.key_of {
            Some(key_of) => Some(key_of(head)?),
            None => None,
        };
        let key = FlightKey::of(&Head::<K>(head, PhantomData), extra.as_deref(), &self.options)?;
        (!self.bypass.remembers(&key)).then_some(key)
    }

    async fn fly<K, S, B, R>(
        &self,
        key: FlightKey,
        inner: S,
        request: Request<B>,
    ) -> Result<Response<<K as ResponseBody<R>>::Response>, S::Error>
    where
        K: ResponseBody<R>,
        S: Service<Request<B>, Response = Response<R>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Send + 'static,
        B: Send + 'static,
        R: Body + Send + 'static,
        R::Data: Send,
        R::Error: Send,
    {
        let own: Own<R, S::Error> = Own::default();
        let mut unserved = Some((inner, request));
        let lead = || {
            let (mut inner, request) = unserved.take().expect("a run is begun once");
            let sent: Vec<HeaderName> = request.headers().keys().cloned().collect();
            let served = inner.call(request);
            let (own, options) = (Arc::clone(&own), self.options.clone());
            async move { Ok(land(served.await, &own, &options, &sent).await) }
        };
        let landing = self.flight.run(key.clone(), lead).await;
        let refusal = match (landing, unserved) {
            (Ok(Landing::Shared(answer)), unserved) => {
                return Ok(answer.response(if unserved.is_some() { COLLAPSED } else { LED }).map(K::whole));
            }
            (Ok(Landing::Broken), None) => Refusal::answer_broken(),
            (Ok(landing), unserved) => {
                if matches!(landing, Landing::Own) {
                    self.bypass.remember(&key);
                }
                let result = match unserved {
                    Some((mut inner, request)) => inner.call(request).await,
                    None => lock(&own).take().expect("whoever began the run finds its result here"),
                };
                return result.map(|alone| answer_alone::<K, R>(alone));
            }
            (Err(error), _) => error.into(),
        };
        Ok(self.options.refuse(refusal).into_http(K::whole))
    }
}

/// HTTP/2 has bodies that no header tells of.
fn has_body(body: &impl Body) -> bool {
    !body.is_end_stream() && body.size_hint().exact() != Some(0)
}

/// Decides who may have an answer, and reads it if all may.
async fn land<R, E>(
    result: Result<Response<R>, E>,
    own: &Own<R, E>,
    options: &FlightOptions,
    sent: &[HeaderName],
) -> Landing
where
    R: Body,
{
    let keep = |result, landing| {
        *lock(own) = Some(result);
        landing
    };
    let response = match result {
        Ok(response) => response,
        Err(error) => return keep(Err(error), Landing::OwnThisTime),
    };
    let size = response.body().size_hint().exact();
    match audience(&response, size, options, |name| sent.iter().any(|sent| name.eq_ignore_ascii_case(sent.as_str()))) {
        Audience::Everyone => {}
        Audience::One => return keep(Ok(response), Landing::Own),
        Audience::OneThisTime => return keep(Ok(response), Landing::OwnThisTime),
    }
    let (head, body) = response.into_parts();
    match read(body, size.unwrap_or_default()).await {
        Some(body) => {
            let http::response::Parts { status, version, headers, .. } = head;
            Landing::Shared(Arc::new(Answer { status, version, headers, body }))
        }
        None => Landing::Broken,
    }
}

/// A body of that size, or `None` if it breaks off.
async fn read<R: Body>(body: R, size: u64) -> Option<Bytes> {
    let mut body = pin!(body);
    let mut pieces = Vec::with_capacity(1);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if let Ok(mut data) = frame.ok()?.into_data() {
            let length = data.remaining();
            // Not copied if it is `Bytes` already.
            pieces.push(data.copy_to_bytes(length));
        }
    }
    let whole = if pieces.len() == 1 { pieces.remove(0) } else { Bytes::from(pieces.concat()) };
    (whole.len() as u64 == size).then_some(whole)
}

impl Answer {
    fn response(&self, cache_status: &'static str) -> Response<Bytes> {
        let mut response = Response::new(self.body.clone());
        *response.status_mut() = self.status;
        *response.version_mut() = self.version;
        *response.headers_mut() = self.headers.clone();
        tell(&mut response, cache_status);
        response
    }
}

fn answer_alone<K, R>(mut response: Response<R>) -> Response<<K as ResponseBody<R>>::Response>
where
    K: ResponseBody<R>,
{
    tell(&mut response, ALONE);
    response.map(K::plain)
}

/// As the last member of the list, as RFC 9211 has it for the hop nearest to the client.
fn tell<B>(response: &mut Response<B>, cache_status: &'static str) {
    response.headers_mut().append("cache-status", HeaderValue::from_static(cache_status));
}

/// A request's head, and how its framework knows its target.
struct Head<'a, K>(&'a Parts, PhantomData<K>);

impl<K: BodyKind> RequestHead for Head<'_, K> {
    fn method(&self) -> &str {
        self.0.method.as_str()
    }

    fn authority(&self) -> Option<&[u8]> {
        K::uri(self.0).authority().map(|authority| authority.as_str().as_bytes())
    }

    /// A rewritten target says more than the client did, a nested router's less: both count. HTTP/1 names no scheme: what
    /// came with TLS and what came without can't be told apart then.
    fn targets(&self) -> impl Iterator<Item = &[u8]> {
        [K::uri(self.0), &self.0.uri].into_iter().flat_map(|uri| {
            [uri.scheme_str().unwrap_or("http"), uri.path(), uri.query().unwrap_or_default()].map(str::as_bytes)
        })
    }

    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0.headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

impl<B> AnswerHead for Response<B> {
    fn status(&self) -> u16 {
        self.status().as_u16()
    }

    fn header(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers().get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

impl<R, E> Future for FlightFuture<R, E> {
    type Output = Result<R, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<K> Clone for FlightLayerFor<K> {
    fn clone(&self) -> Self {
        Self { flights: Arc::clone(&self.flights), kind: PhantomData }
    }
}

impl<K> fmt::Debug for FlightLayerFor<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlightLayer").field("flights", &self.flights).finish()
    }
}

impl<S: fmt::Debug, K> fmt::Debug for FlightService<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlightService").field("inner", &self.inner).field("flights", &self.flights).finish()
    }
}

impl<R, E> fmt::Debug for FlightFuture<R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlightFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("flight", &self.flight).field("options", &self.options).finish_non_exhaustive()
    }
}
