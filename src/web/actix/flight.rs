//! [`FlightMiddleware`], which lets concurrent requests for the same thing share one response.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::future::{Ready, pending, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use actix_web::body::{MessageBody, to_bytes_limited};
use actix_web::dev::{ResponseHead, Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::rt::{self, task::JoinHandle};
use actix_web::web::Bytes;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse};

use super::body::GuardBody;
use super::head::HeadCopy;
use super::response::response;
use super::worker::can_spawn;
use crate::caller_trace::CallerTrace;
use crate::debug::impl_debug;
use crate::detached;
use crate::guard::FlightStats;
use crate::managed::{Managed, ManagedSnapshot};
use crate::panic::{catch, discard};
use crate::scope::CallerScopes;
use crate::web::flight::{BYPASSED, COLLAPSED, ClientWatch, FlightReply, LED, Leader, ResponseFlight, RunResponse};
use crate::web::noted_handler::NotedHandler;
use crate::web::response_note::ResponseNote;
use crate::web::{FlightOptions, Refusal};

/// Lets concurrent requests for the same thing share one response: one of them is served, and all of them get its
/// response.
///
/// Create it outside of the closure that creates the app, and clone it there. Then requests share responses across
/// workers.
///
/// ```
/// use actix_web::{App, web};
/// use onelane::web::actix::FlightMiddleware;
///
/// let flights = FlightMiddleware::new("report");
/// let app = move || {
///     App::new().service(
///         web::resource("/report")
///             .wrap(flights.clone())
///             .route(web::get().to(|| async { "computed once, however many clients ask meanwhile" })),
///     )
/// };
/// # drop(app());
/// ```
///
/// The response to a handler's error is shared like any other. An error of an inner middleware goes only to the request
/// that caused it, and the other requests join the next run. If the handler panics or takes longer than `max_wait`, the
/// response to the request that it was called for contains a request with the same head, but without extensions and app
/// data: middlewares around this one that read them from the response find nothing. Over HTTP/2 a GET request may have
/// a body that no header announces: don't put this middleware in front of handlers that read such a body.
///
/// The handler runs on the worker of the request that it was called for, in a separate task and in the `tracing` span
/// of that request, so that it can continue when that request's client disconnects. If all clients disconnect, that
/// task is aborted at the handler's next `.await`. A request that arrives before then starts another run alongside it.
#[derive(Clone, Debug)]
pub struct FlightMiddleware {
    flight: Arc<ResponseFlight<ServiceRequest, Arc<SharedResponse>>>,
}

/// A service whose responses are shared. Created by [`FlightMiddleware`].
pub struct FlightService<S> {
    inner: Rc<S>,
    flight: Arc<ResponseFlight<ServiceRequest, Arc<SharedResponse>>>,
}

/// The response future of a [`FlightService`].
///
/// If this future is dropped, the other requests still get the shared response. If there are no other requests, the
/// handler is dropped.
pub struct FlightFuture<B>(Pin<Box<dyn Future<Output = ResponseResult<B>>>>);

type ResponseResult<B> = Result<ServiceResponse<GuardBody<B>>, Error>;

/// A response that several requests can get.
struct SharedResponse {
    head: ResponseHead,
    body: Bytes,
}

impl FlightMiddleware {
    /// Creates a middleware. `name` appears in [`stats`](Self::stats) and in the status of a
    /// [`ServiceHost`](crate::ServiceHost).
    ///
    /// The name may come from a configuration. Each distinct name is kept until the process exits.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self { flight: ResponseFlight::new(name.into(), None) }
    }

    /// Creates a middleware that adds the result of `key_of` to the key, in addition to method, host, path, query and
    /// [key headers](FlightOptions::key_header). Requests for which `key_of` returns `None` are served alone.
    ///
    /// Use this constructor if an earlier middleware has authenticated the user and stored the user in an extension of
    /// the request.
    #[must_use]
    pub fn keyed<Key: Into<Vec<u8>>>(
        name: impl Into<Cow<'static, str>>,
        key_of: impl Fn(&ServiceRequest) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        let key_of = Arc::new(move |request: &ServiceRequest| key_of(request).map(Into::into));
        Self { flight: ResponseFlight::new(name.into(), Some(key_of)) }
    }

    /// Sets the [options](FlightOptions). Call this method before you clone the middleware, since it
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

    /// Closes the middleware: a request that would start or join a run gets a 503.
    ///
    /// Runs in progress continue for their requests. Requests that are served alone, such as a POST, are served as
    /// before. A closed middleware cannot be reopened. A [`ServiceHost`](crate::ServiceHost) that
    /// [manages](crate::background::ServiceHostBuilder::manage) the middleware closes and drains it while it stops.
    pub fn close(&self) {
        self.flight.flight().close();
    }

    /// Returns `true` if the middleware was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.flight.flight().is_closed()
    }

    /// Waits until the middleware is closed and no run is left, including [detached](FlightOptions::detached) ones.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn drained(&self) {
        self.flight.flight().drained().await;
    }
}

impl Managed for FlightMiddleware {
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

impl<S, B> Transform<S, ServiceRequest> for FlightMiddleware
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<GuardBody<B>>;
    type Error = Error;
    type Transform = FlightService<S>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        ready(Ok(FlightService { inner: Rc::new(inner), flight: Arc::clone(&self.flight) }))
    }
}

impl<S, B> Service<ServiceRequest> for FlightService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<GuardBody<B>>;
    type Error = Error;
    type Future = FlightFuture<B>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> FlightFuture<B> {
        let inner = Rc::clone(&self.inner);
        let flight = Arc::clone(&self.flight);
        FlightFuture(Box::pin(async move {
            if flight.surrounds(request.extensions().get()) {
                return Ok(inner.call(request).await?.map_body(|_, body| GuardBody::plain(body)));
            }
            // Elsewhere, such as in a test on a bare tokio runtime, no task could run the handler.
            let Some(key) = flight.key(&request, &request).filter(|_| can_spawn()) else {
                return inner.call(request).await.map(bypassed);
            };
            let led = OnceCell::new();
            let serve = |request: ServiceRequest, leader| {
                let outer = request.extensions_mut().remove();
                request.extensions_mut().insert(flight.mark(outer));
                let head = Rc::clone(led.get_or_init(|| Rc::new(HeadCopy::new(request.request()))));
                serve(Rc::clone(&inner), request, head, leader, flight.detached_name())
            };
            match flight.run(key, request, Unwatched, serve).await {
                FlightReply::Collapsed(response, request) => Ok(request.into_response(response.to_response(COLLAPSED))),
                FlightReply::Led(response, request) => Ok(ServiceResponse::new(request, response.to_response(LED))),
                FlightReply::ServeAlone(request) => inner.call(request).await.map(bypassed),
                FlightReply::Own(result) => result.map(bypassed),
                FlightReply::Refused(refusal, request) => {
                    let request = match (request, led.get()) {
                        (Some(request), _) => request.into_parts().0,
                        // The request was dropped with its handler, or is still being served for others.
                        (None, Some(head)) => head.to_request(),
                        (None, None) => unreachable!("only a request that leads a run is consumed"),
                    };
                    let response = response(refusal).map_body(|_, body| GuardBody::refusal(body));
                    Ok(ServiceResponse::new(request, response))
                }
            }
        }))
    }
}

/// The leader's `HttpRequest` is kept for its response. (It cannot be cloned while the request is served: actix-web
/// routes it in place.)
type LeaderOf<B> = Leader<Result<ServiceResponse<B>, Error>, HttpRequest>;

/// A client whose disconnect drops the future of its request. Over HTTP/2, actix-web does not report the disconnect.
struct Unwatched;

impl ClientWatch for Unwatched {
    fn refusal(&self) -> Option<Refusal> {
        None
    }

    async fn gone(&self) -> Refusal {
        pending().await
    }
}

/// Spawns the handler on this worker, which the handler cannot leave. The returned future can be polled on any thread.
fn serve<S, B>(
    inner: Rc<S>,
    request: ServiceRequest,
    head: Rc<HeadCopy>,
    leader: LeaderOf<B>,
    detached_name: Option<&'static str>,
) -> impl Future<Output = RunResponse<Arc<SharedResponse>>> + Send + 'static
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let run = Arc::new(OnceLock::new());
    let handler = async move {
        leader.gather().await;
        let note = request.extensions().get::<ResponseNote>().cloned().unwrap_or_default();
        let served =
            NotedHandler::new(inner.call(request), note, |response: &ServiceResponse<B>| response.status().as_u16())
                .await;
        leader.settle(served, head.headers(), read).await
    };
    let task =
        rt::spawn(InsideRun { run: Arc::clone(&run), trace: CallerTrace::capture(), handler: Some(Box::pin(handler)) });
    let task = AbortOnDrop { task, detached_name };
    async move {
        // This future is first polled inside the run, before the task is polled.
        run.get_or_init(CallerScopes::capture);
        task.await
    }
}

/// A handler that runs inside the scopes of its run: a nested request for the same key is refused instead of waiting
/// for its own run. It runs and is dropped in the span and with the subscriber of the request that leads the run.
struct InsideRun<F> {
    run: Arc<OnceLock<CallerScopes>>,
    trace: CallerTrace,
    /// `None` once the handler has been dropped.
    handler: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for InsideRun<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { run, trace, handler } = &mut *self;
        let _scopes = run.get().map(CallerScopes::enter);
        let polled = handler.as_mut().expect("a handler is not polled after it was dropped");
        trace.enter(|| polled.as_mut().poll(cx))
    }
}

impl<F> Drop for InsideRun<F> {
    fn drop(&mut self) {
        let Self { trace, handler, .. } = self;
        // The destructors of the handler and the subscriber are user code.
        let _ = catch(|| trace.enter(|| discard(handler.take())));
    }
}

/// Waits for a task, which may be on another thread, and aborts the task when dropped.
struct AbortOnDrop {
    task: JoinHandle<RunResponse<Arc<SharedResponse>>>,
    /// The name under which the process knows the task, if the task may continue without clients.
    detached_name: Option<&'static str>,
}

impl Future for AbortOnDrop {
    type Output = RunResponse<Arc<SharedResponse>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.task).poll(cx).map(|result| match result.map_err(|error| error.try_into_panic()) {
            Ok(response) => response,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The task was cancelled: its worker has ended. The run, which ends here, counts as finished.
            Err(Err(_)) => {
                self.detached_name.into_iter().for_each(|name| detached::record_cut(name, 1));
                RunResponse::Broken
            }
        })
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads a response whose body has `size` bytes. Returns `None` if the body ends early.
async fn read<B: MessageBody>(response: ServiceResponse<B>, size: u64) -> Option<(Arc<SharedResponse>, HttpRequest)> {
    let (request, response) = response.into_parts();
    let (head, body) = response.into_parts();
    let body = to_bytes_limited(body, usize::try_from(size).unwrap_or(usize::MAX)).await.ok()?.ok()?;
    (body.len() as u64 == size).then(|| (Arc::new(SharedResponse { head: head.head().clone(), body }), request))
}

impl SharedResponse {
    fn to_response<B: MessageBody>(&self, cache_status: &'static str) -> HttpResponse<GuardBody<B>> {
        let mut response = HttpResponse::new(self.head.status).set_body(GuardBody::whole(self.body.clone()));
        // Copies the whole head, because the reason phrase and the connection type are stored nowhere else.
        *response.head_mut() = self.head.clone();
        append_cache_status(response.headers_mut(), cache_status);
        response
    }
}

fn bypassed<B: MessageBody>(mut response: ServiceResponse<B>) -> ServiceResponse<GuardBody<B>> {
    append_cache_status(response.headers_mut(), BYPASSED);
    response.map_body(|_, body| GuardBody::plain(body))
}

/// Appends the last member of the list, which RFC 9211 assigns to the hop nearest to the client.
fn append_cache_status(headers: &mut HeaderMap, cache_status: &'static str) {
    headers.append(HeaderName::from_static("cache-status"), HeaderValue::from_static(cache_status));
}

impl<B> Future for FlightFuture<B> {
    type Output = ResponseResult<B>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl_debug!([S] FlightService<S> |this| { flight: this.flight, .. });

impl_debug!([B] FlightFuture<B> |_| { .. });
