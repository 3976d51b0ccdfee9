//! [`FlightMiddleware`], which lets requests that ask for the same at the same time share one answer.

use std::cell::RefCell;
use std::fmt;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use actix_web::Error;
use actix_web::body::{BodySize, MessageBody, to_bytes_limited};
use actix_web::dev::{ResponseHead, Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::rt::{self, task::JoinHandle};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};

use super::body::GuardBody;
use super::response::response;
use super::worker::can_spawn;
use crate::guard::scope::{Scope, ScopeId};
use crate::guard::{FlightStats, SingleFlight};
use crate::web::flight::{ALONE, Audience, Bypass, COLLAPSED, FlightKey, LED, audience};
use crate::web::{FlightOptions, Refusal};

/// Lets requests that ask for the same at the same time share one answer: one of them is served, and all get what it got.
///
/// Make it outside of the closure that makes the app, and clone it there: then requests share answers across workers.
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
///             .route(web::get().to(|| async { "computed once, however many ask meanwhile" })),
///     )
/// };
/// # drop(app());
/// ```
///
/// What a handler makes of an error is its answer, and shared; an error of a middleware behind this one goes to the request
/// that it is about, and the others are served alone. Over HTTP/2 a GET request may have a body that no header tells of:
/// don't put this in front of handlers that read one.
///
/// The handler runs on the worker of the request that it was called for, in a task of its own, so that it can go on when
/// that request's client leaves. If all clients leave, that task is aborted, at the handler's next `.await`; a request that
/// comes before that begins a run beside it.
#[derive(Clone, Debug)]
pub struct FlightMiddleware {
    flights: Arc<Flights>,
}

/// A service whose answers are shared. Made by [`FlightMiddleware`].
pub struct FlightService<S> {
    inner: Rc<S>,
    flights: Arc<Flights>,
}

/// A request that may share its answer. Made by [`FlightService`].
///
/// Dropped, it gives up its share: the others get the answer all the same, and if there are none, the handler is dropped.
pub struct FlightFuture<B>(Pin<Box<dyn Future<Output = Answered<B>>>>);

type Answered<B> = Result<ServiceResponse<GuardBody<B>>, Error>;

/// What one middleware and all services behind it share.
struct Flights {
    flight: SingleFlight<FlightKey, Landing>,
    options: FlightOptions,
    /// What else requests are known by. `None`: served alone.
    key_of: Option<Box<KeyOf>>,
    bypass: Bypass,
}

type KeyOf = dyn Fn(&ServiceRequest) -> Option<Vec<u8>> + Send + Sync;

/// What a run comes to.
#[derive(Clone)]
enum Landing {
    Shared(Arc<Answer>),
    /// It is for the request only that it was made for.
    Own,
    /// The same, but the next one may be for everyone. An error of the service is one too.
    OwnThisTime,
    /// Its body broke off, or its worker ended.
    Broken,
}

/// An answer that everyone may have.
struct Answer {
    head: ResponseHead,
    body: Bytes,
}

/// Where the request that begins a run finds what is left for it alone.
type Own<B> = Rc<RefCell<Option<Left<B>>>>;

enum Left<B> {
    /// Its answer, which nobody else may have.
    Answer(Result<ServiceResponse<B>, Error>),
    /// Itself, to be answered with what all have. (A copy of it may not exist while it is served: actix-web routes it in
    /// place.)
    Request(HttpRequest),
}

impl FlightMiddleware {
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
    #[must_use]
    pub fn keyed<Key: Into<Vec<u8>>>(
        name: &'static str,
        options: FlightOptions,
        key_of: impl Fn(&ServiceRequest) -> Option<Key> + Send + Sync + 'static,
    ) -> Self {
        Self::of(name, options, Some(Box::new(move |request| key_of(request).map(Into::into))))
    }

    fn of(name: &'static str, options: FlightOptions, key_of: Option<Box<KeyOf>>) -> Self {
        let flight = options.flight(name);
        Self { flights: Arc::new(Flights { flight, options, key_of, bypass: Bypass::new() }) }
    }

    /// How many runs there were, and how many requests shared them. Takes no lock.
    #[must_use]
    pub fn stats(&self) -> FlightStats {
        self.flights.flight.stats()
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
        ready(Ok(FlightService { inner: Rc::new(inner), flights: Arc::clone(&self.flights) }))
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
        let flights = Arc::clone(&self.flights);
        FlightFuture(Box::pin(async move {
            match flights.key(&request) {
                Some(key) => flights.fly(key, inner, request).await,
                None => inner.call(request).await.map(answer_alone),
            }
        }))
    }
}

impl Flights {
    /// `None` if the request is to be served alone.
    fn key(&self, request: &ServiceRequest) -> Option<FlightKey> {
        let extra = match &self.key_of {
            Some(key_of) => Some(key_of(request)?),
            None => None,
        };
        let key = FlightKey::of(request, extra.as_deref(), &self.options)?;
        // Elsewhere, as in a test on a bare tokio runtime, there is nothing for a handler to go on on.
        (can_spawn() && !self.bypass.remembers(&key)).then_some(key)
    }

    async fn fly<S, B>(&self, key: FlightKey, inner: Rc<S>, request: ServiceRequest) -> Answered<B>
    where
        S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
        B: MessageBody + 'static,
    {
        let own: Own<B> = Own::default();
        let mut unserved = Some(request);
        let lead = || {
            let request = unserved.take().expect("a run is begun once");
            let (inner, own, options) = (Rc::clone(&inner), Rc::clone(&own), self.options.clone());
            let run = Arc::new(OnceLock::new());
            let sent: Vec<HeaderName> = request.headers().keys().cloned().collect();
            let handler = async move { land(inner.call(request).await, &own, &options, &sent).await };
            // The handler can't leave this worker; what waits for it can be polled by any.
            let task = rt::spawn(Inside { run: Arc::clone(&run), handler: Box::pin(handler) });
            async move {
                // This is polled within the run, for the first time before the task is.
                if let Some(scope) = Scope::innermost() {
                    run.get_or_init(|| scope);
                }
                Ok(Local(task).await)
            }
        };
        let landing = self.flight.run(key.clone(), lead).await;
        let left = own.borrow_mut().take();
        match (landing, unserved, left) {
            (Ok(Landing::Shared(answer)), Some(request), _) => Ok(request.into_response(answer.response(COLLAPSED))),
            (Ok(Landing::Shared(answer)), None, Some(Left::Request(request))) => {
                Ok(ServiceResponse::new(request, answer.response(LED)))
            }
            (Ok(landing), Some(request), _) => {
                self.remember_if_own(&landing, &key);
                inner.call(request).await.map(answer_alone)
            }
            (Ok(landing), None, Some(Left::Answer(result))) => {
                self.remember_if_own(&landing, &key);
                result.map(answer_alone)
            }
            (Ok(_), None, _) => Err(self.options.refuse(Refusal::answer_broken()).into()),
            (Err(error), Some(request), _) => {
                let refused = request.into_response(response(self.options.refuse(error.into())));
                Ok(refused.map_body(|_, body| GuardBody::refusal(body)))
            }
            // Its request has gone with its handler. actix-web makes the same response of it.
            (Err(error), None, _) => Err(self.options.refuse(error.into()).into()),
        }
    }

    fn remember_if_own(&self, landing: &Landing, key: &FlightKey) {
        if matches!(landing, Landing::Own) {
            self.bypass.remember(key);
        }
    }
}

/// A handler, inside the run that it is the work of, so that the same run in it is refused instead of waited for.
struct Inside<F> {
    run: Arc<OnceLock<ScopeId>>,
    handler: Pin<Box<F>>,
}

impl<F: Future> Future for Inside<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _scope = self.run.get().map(|run| Scope::enter(*run));
        self.handler.as_mut().poll(cx)
    }
}

/// Waits for a task on another thread, and aborts it when nobody wants it any more.
struct Local(JoinHandle<Landing>);

impl Future for Local {
    type Output = Landing;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Landing> {
        Pin::new(&mut self.0).poll(cx).map(|result| match result {
            Ok(landing) => landing,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Its worker has ended.
                Err(_) => Landing::Broken,
            },
        })
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Decides who may have an answer, and reads it if all may.
async fn land<B>(
    result: Result<ServiceResponse<B>, Error>,
    own: &Own<B>,
    options: &FlightOptions,
    sent: &[HeaderName],
) -> Landing
where
    B: MessageBody,
{
    let keep = |left, landing| {
        *own.borrow_mut() = Some(left);
        landing
    };
    let response = match result {
        Ok(response) => response,
        Err(error) => return keep(Left::Answer(Err(error)), Landing::OwnThisTime),
    };
    let size = match response.response().body().size() {
        BodySize::None => Some(0),
        BodySize::Sized(size) => Some(size),
        BodySize::Stream => None,
    };
    let was_sent = |name: &str| sent.iter().any(|sent| name.eq_ignore_ascii_case(sent.as_str()));
    let size = match (audience(response.response(), size, options, was_sent), size) {
        (Audience::Everyone, Some(size)) => size,
        (Audience::OneThisTime, _) => return keep(Left::Answer(Ok(response)), Landing::OwnThisTime),
        (Audience::Everyone | Audience::One, _) => return keep(Left::Answer(Ok(response)), Landing::Own),
    };
    let (request, response) = response.into_parts();
    let (head, body) = response.into_parts();
    match to_bytes_limited(body, usize::try_from(size).unwrap_or(usize::MAX)).await {
        Ok(Ok(body)) if body.len() as u64 == size => {
            let answer = Answer { head: head.head().clone(), body };
            keep(Left::Request(request), Landing::Shared(Arc::new(answer)))
        }
        _ => Landing::Broken,
    }
}

impl Answer {
    fn response<B: MessageBody>(&self, cache_status: &'static str) -> HttpResponse<GuardBody<B>> {
        let mut response = HttpResponse::new(self.head.status).set_body(GuardBody::whole(self.body.clone()));
        // All of it: the reason, and whether the connection is to end, show nowhere else.
        *response.head_mut() = self.head.clone();
        tell(response.headers_mut(), cache_status);
        response
    }
}

fn answer_alone<B: MessageBody>(mut response: ServiceResponse<B>) -> ServiceResponse<GuardBody<B>> {
    tell(response.headers_mut(), ALONE);
    response.map_body(|_, body| GuardBody::plain(body))
}

/// As the last member of the list, as RFC 9211 has it for the hop nearest to the client.
fn tell(headers: &mut HeaderMap, cache_status: &'static str) {
    headers.append(HeaderName::from_static("cache-status"), HeaderValue::from_static(cache_status));
}

impl<B> Future for FlightFuture<B> {
    type Output = Answered<B>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<S> fmt::Debug for FlightService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlightService").field("flights", &self.flights).finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for FlightFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlightFuture").finish_non_exhaustive()
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("flight", &self.flight).field("options", &self.options).finish_non_exhaustive()
    }
}
