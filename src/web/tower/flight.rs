//! [`FlightLayer`], which lets concurrent requests for the same thing share one response.

use std::borrow::Cow;
use std::fmt;
use std::future::{pending, poll_fn};
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::bodies::{AnyBody, BodyKind, RequestBody, ResponseBody};
use super::head::copy_head;
use crate::debug::impl_debug;
use crate::guard::FlightStats;
use crate::managed::{Managed, ManagedSnapshot};
use crate::web::flight::{
    BYPASSED, COLLAPSED, Caller, ClientWatch, Fields, FlightHead, FlightReply, LED, Leader, ResponseFlight,
    ResponseHead,
};
use crate::web::noted_handler::NotedHandler;
use crate::web::request_head::HeadView;
use crate::web::response_note::ResponseNote;
use crate::web::{ClientLink, FlightOptions, Refusal};

/// Lets concurrent requests for the same thing share one response: one of them is served, and all of them get its
/// response.
///
/// In axum, use [`web::axum::FlightLayer`](crate::web::axum::FlightLayer), which is the same layer for axum's body
/// type and for axum's `ConnectInfo<ClientLink>`.
pub type FlightLayer = FlightLayerFor<AnyBody>;

/// [`FlightLayer`] for one kind of body.
pub struct FlightLayerFor<K> {
    flight: Arc<ResponseFlight<Parts, Arc<SharedResponse>>>,
    kind: PhantomData<fn() -> K>,
}

/// A service whose responses are shared. Created by [`FlightLayer`].
#[derive(Clone)]
pub struct FlightService<S, K = AnyBody> {
    inner: S,
    flight: Arc<ResponseFlight<Parts, Arc<SharedResponse>>>,
    kind: PhantomData<fn() -> K>,
}

/// The response future of a [`FlightService`].
///
/// If this future is dropped, the other requests still get the shared response. If there are no other requests, the
/// service's future is dropped.
pub struct FlightFuture<R, E>(Pin<Box<dyn Future<Output = Result<R, E>> + Send>>);

/// A response that several requests can get.
struct SharedResponse {
    status: StatusCode,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
}

impl<K> FlightLayerFor<K> {
    /// Creates a layer. `name` appears in [`stats`](Self::stats) and in the status of a
    /// [`ServiceHost`](crate::ServiceHost).
    ///
    /// The name may come from a configuration. Each distinct name is kept until the process exits.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self { flight: ResponseFlight::new(name.into(), None), kind: PhantomData }
    }

    /// Creates a layer that adds the result of `key_of` to the key, in addition to method, host, path, query and
    /// [key headers](FlightOptions::key_header). Requests for which `key_of` returns `None` are served alone.
    ///
    /// Use this constructor if an earlier layer has authenticated the user and stored the user in an extension of the
    /// request.
    pub fn keyed<Key: Into<Vec<u8>>>(
        name: impl Into<Cow<'static, str>>,
        key_of: impl Fn(&Parts) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        let key_of = Arc::new(move |head: &Parts| key_of(head).map(Into::into));
        Self { flight: ResponseFlight::new(name.into(), Some(key_of)), kind: PhantomData }
    }

    /// Sets the [options](FlightOptions). Call this method before you clone the layer, since it
    /// resets the statistics.
    ///
    /// # Panics
    ///
    /// Panics if an option is out of range: the name of a header, or a `max_wait` of zero.
    #[must_use]
    #[track_caller]
    pub fn options(mut self, options: FlightOptions) -> Self {
        self.flight = self.flight.with_options(options);
        self
    }

    /// Returns a snapshot of the counters: how many runs were started, how many requests shared them, and more. Takes
    /// no lock.
    #[must_use]
    pub fn stats(&self) -> FlightStats {
        self.flight.flight().stats()
    }

    /// Closes the layer: a request that would start or join a run gets a 503.
    ///
    /// Runs in progress continue for their requests. Requests that are served alone, such as a POST, are served as
    /// before. A closed layer cannot be reopened. A [`ServiceHost`](crate::ServiceHost) that
    /// [manages](crate::background::ServiceHostBuilder::manage) the layer closes and drains it while it stops.
    pub fn close(&self) {
        self.flight.flight().close();
    }

    /// Returns `true` if the layer was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.flight.flight().is_closed()
    }

    /// Waits until the layer is closed and no run is left, including [detached](FlightOptions::detached) ones.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn drained(&self) {
        self.flight.flight().drained().await;
    }
}

impl<K: 'static> Managed for FlightLayerFor<K> {
    fn name(&self) -> &str {
        self.flight.flight().name()
    }

    fn close(&self) {
        self.close();
    }

    fn drained(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.drained())
    }

    fn snapshot(&self) -> ManagedSnapshot {
        self.flight.flight().snapshot()
    }
}

impl<S, K> Layer<S> for FlightLayerFor<K> {
    type Service = FlightService<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        FlightService { inner, flight: Arc::clone(&self.flight), kind: PhantomData }
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

    /// Always ready. The inner service is polled for readiness only when it is about to serve a request: a request that
    /// waits for a response must not reserve the capacity that the served request needs.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (inner, flight) = (self.inner.clone(), Arc::clone(&self.flight));
        let (head, body) = request.into_parts();
        let is_inside = flight.surrounds(head.extensions.get());
        let is_shareable = !is_inside && !has_body(&body);
        let key = if is_shareable { flight.key(&head, &HeadOf::<K>(&head, PhantomData)) } else { None };
        let request = K::untouched(Request::from_parts(head, body));
        FlightFuture(Box::pin(async move {
            let Some(key) = key else {
                let response = serve_alone(inner, request).await;
                return if is_inside {
                    response.map(|response| response.map(K::plain))
                } else {
                    response.map(bypassed::<K, R>)
                };
            };
            let client = K::link(request.extensions());
            let serve = |(inner, mut request): (S, Request<_>), leader: LeaderOf<R, S::Error>| {
                let sent = request.headers().clone();
                let extensions = request.extensions_mut();
                // The run may outlive the leader's client.
                K::unlink(extensions);
                let mark = flight.mark(extensions.remove());
                extensions.insert(mark);
                let note = extensions.get::<ResponseNote>().cloned().unwrap_or_default();
                async move {
                    leader.gather().await;
                    let served = NotedHandler::new(serve_alone(inner, request), note, |response: &Response<R>| {
                        response.status().as_u16()
                    })
                    .await;
                    leader.settle(served, &sent, read).await
                }
            };
            match flight.run(key, (inner, request), client, serve).await {
                FlightReply::Collapsed(response, _) => Ok(response.to_response(COLLAPSED).map(K::whole)),
                FlightReply::Led(response, ()) => Ok(response.to_response(LED).map(K::whole)),
                FlightReply::ServeAlone((inner, request)) => serve_alone(inner, request).await.map(bypassed::<K, R>),
                FlightReply::Own(result) => result.map(bypassed::<K, R>),
                FlightReply::Refused(refusal, _) => Ok(refusal.into_http(K::whole)),
            }
        }))
    }
}

type LeaderOf<R, E> = Leader<Result<Response<R>, E>, ()>;

/// Calls the service once it is ready.
async fn serve_alone<S: Service<Request<B>>, B>(mut inner: S, request: Request<B>) -> Result<S::Response, S::Error> {
    poll_fn(|cx| inner.poll_ready(cx)).await?;
    inner.call(request).await
}

/// Returns `true` if a request has a body. In HTTP/2, no header announces it.
fn has_body(body: &impl Body) -> bool {
    !body.is_end_stream() && body.size_hint().exact() != Some(0)
}

/// Reads a response whose body has `size` bytes. Returns `None` if the body ends early.
async fn read<R: Body>(response: Response<R>, size: u64) -> Option<(Arc<SharedResponse>, ())> {
    let (head, body) = response.into_parts();
    let mut body = pin!(body);
    let mut pieces = Vec::with_capacity(1);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if let Ok(mut data) = frame.ok()?.into_data() {
            let length = data.remaining();
            // Copies nothing if the data is `Bytes` already.
            pieces.push(data.copy_to_bytes(length));
        }
    }
    let body = if pieces.len() == 1 { pieces.remove(0) } else { Bytes::from(pieces.concat()) };
    let http::response::Parts { status, version, headers, .. } = head;
    (body.len() as u64 == size).then(|| (Arc::new(SharedResponse { status, version, headers, body }), ()))
}

impl SharedResponse {
    fn to_response(&self, cache_status: &'static str) -> Response<Bytes> {
        let mut response = Response::new(self.body.clone());
        *response.status_mut() = self.status;
        *response.version_mut() = self.version;
        *response.headers_mut() = self.headers.clone();
        append_cache_status(&mut response, cache_status);
        response
    }
}

fn bypassed<K, R>(mut response: Response<R>) -> Response<<K as ResponseBody<R>>::Response>
where
    K: ResponseBody<R>,
{
    append_cache_status(&mut response, BYPASSED);
    response.map(K::plain)
}

/// Appends the last member of the list, which RFC 9211 assigns to the hop nearest to the client.
fn append_cache_status<B>(response: &mut Response<B>, cache_status: &'static str) {
    response.headers_mut().append("cache-status", HeaderValue::from_static(cache_status));
}

/// The head of a request whose body is of kind `K`.
struct HeadOf<'a, K>(&'a Parts, PhantomData<K>);

impl<K: BodyKind> FlightHead for HeadOf<'_, K> {
    fn method(&self) -> &str {
        self.0.method.as_str()
    }

    fn authority(&self) -> Option<&[u8]> {
        K::uri(self.0).authority().map(|authority| authority.as_str().as_bytes())
    }

    /// Both URIs are part of the key: a rewritten URI contains more than the client's, and the URI of a nested router
    /// contains less. HTTP/1 targets have no scheme, so requests with and without TLS cannot be distinguished there.
    fn targets(&self) -> impl Iterator<Item = &[u8]> {
        [K::uri(self.0), &self.0.uri].into_iter().flat_map(|uri| {
            [uri.scheme_str().unwrap_or("http"), uri.path(), uri.query().unwrap_or_default()].map(str::as_bytes)
        })
    }

    fn fields(&self) -> &impl Fields {
        &self.0.headers
    }
}

impl Fields for HeaderMap {
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

impl<S, B> Caller for (S, Request<B>) {
    fn fields(&self) -> &impl Fields {
        self.1.headers()
    }

    fn copy_head(&self) -> Box<dyn HeadView + Send + Sync> {
        Box::new(copy_head(&self.1))
    }
}

/// Without a link, only the server notices that the client has disconnected, and drops the future.
impl ClientWatch for Option<ClientLink> {
    fn refusal(&self) -> Option<Refusal> {
        self.as_ref().is_some_and(ClientLink::is_gone).then(Refusal::client_gone)
    }

    async fn gone(&self) -> Refusal {
        match self {
            Some(link) => link.gone().await,
            None => pending().await,
        }
        Refusal::client_gone()
    }
}

impl<B: Body> ResponseHead for Response<B> {
    fn status(&self) -> u16 {
        self.status().as_u16()
    }

    fn fields(&self) -> &impl Fields {
        self.headers()
    }

    fn body_size(&self) -> Option<u64> {
        self.body().size_hint().exact()
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
        Self { flight: Arc::clone(&self.flight), kind: PhantomData }
    }
}

impl_debug!([K] FlightLayerFor<K> |this| { flight: this.flight });

impl_debug!([S: fmt::Debug, K] FlightService<S, K> |this| { inner: this.inner, flight: this.flight });

impl_debug!([R, E] FlightFuture<R, E> |_| { .. });
