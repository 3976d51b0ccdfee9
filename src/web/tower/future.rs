//! [`GuardFuture`], a request on its way through a guard.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::runtime::Handle;
use tower_service::Service;

use super::bodies::{RequestBody, ResponseBody};
use super::held_body::HeldBody;
use super::read_ahead::ReadAhead;
use crate::guard::AcquireError;
use crate::guard::acquire::AcquireFuture;
use crate::guard::erased::ErasedSource;
use crate::guard::guarded_work::GuardedWork;
use crate::guard::permit::HeldPermit;
use crate::web::admission::{Admission, Arrival};
use crate::web::body_hold::BodyHold;
use crate::web::options::Settings;
use crate::web::{ClientLink, Hold, OnDisconnect, Refusal};

/// An answer of no more bytes, known beforehand, holds nothing. A larger one may be a stream of known length; if it is in
/// memory after all, the server takes it in one piece, and it holds until then.
const SMALL_BODY: u64 = 64 * 1024;

/// A request on its way through a guard. Made by [`GuardService`](super::GuardService).
///
/// Dropped while it waits, it leaves the queue. Dropped while the service runs, the service runs on or is dropped, as
/// [`OnDisconnect`] says.
pub struct GuardFuture<S, K, B>
where
    K: RequestBody<B>,
    B: Body,
    S: Service<Request<K::Request>>,
    S::Future: Send + 'static,
{
    settings: Arc<Settings<Parts>>,
    /// A response to CONNECT is a tunnel, not a body.
    is_connect: bool,
    stage: Stage<S, B, S::Future>,
    kind: PhantomData<fn() -> K>,
}

#[expect(clippy::large_enum_variant, reason = "in a box, the request would cost a second allocation")]
enum Stage<S, B: Body, F> {
    Arriving {
        acquire: AcquireFuture<ErasedSource>,
        inner: S,
        request: Request<B>,
    },
    Waiting(Box<Waiting<S, B>>),
    Inside(GuardedWork<F, ErasedSource>),
    /// No lane concerns it.
    Alone(Pin<Box<F>>),
    Refused(Box<Refusal>),
    Done,
}

/// A request in the queue.
struct Waiting<S, B: Body> {
    acquire: AcquireFuture<ErasedSource>,
    inner: S,
    parts: Parts,
    body: ReadAhead<B>,
    client: Option<Client>,
}

struct Client {
    link: ClientLink,
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// How the wait of a request ends.
enum Outcome {
    Turn(HeldPermit<ErasedSource>),
    Refused(Refused),
}

enum Refused {
    ByGuard(AcquireError),
    Otherwise(Refusal),
}

impl<S, K, B> GuardFuture<S, K, B>
where
    K: RequestBody<B>,
    B: Body,
    S: Service<Request<K::Request>>,
    S::Future: Send + 'static,
{
    pub(super) fn new(inner: S, settings: Arc<Settings<Parts>>, request: Request<B>) -> Self {
        let is_connect = request.method() == Method::CONNECT;
        let stage = match &settings.admission {
            Admission::One(guard) => Self::arrive(ErasedSource::Endpoint(guard.clone()), inner, request),
            Admission::PerKey(key_of) => {
                let (parts, body) = request.into_parts();
                let arrival = key_of(&parts);
                let request = Request::from_parts(parts, body);
                match arrival {
                    Arrival::Guarded(gate) => Self::arrive(gate, inner, request),
                    Arrival::LetThrough => {
                        let mut inner = inner;
                        Stage::Alone(Box::pin(inner.call(K::untouched(request))))
                    }
                    Arrival::Refused => Stage::Refused(Box::new(settings.options.refuse(Refusal::key_missing()))),
                }
            }
        };
        Self { settings, is_connect, stage, kind: PhantomData }
    }

    fn arrive(gate: ErasedSource, inner: S, request: Request<B>) -> Stage<S, B, S::Future> {
        Stage::Arriving { acquire: AcquireFuture::new(gate), inner, request }
    }

    /// The turn has come: calls the service.
    fn enter(&mut self, permit: HeldPermit<ErasedSource>, mut inner: S, request: Request<K::Request>) {
        let scope = permit.enter_scope();
        let work = inner.call(request);
        drop(scope);
        // The one allocation of a request: in a box the work can move to a task of its own if the client leaves.
        self.stage = Stage::Inside(GuardedWork::new(Box::pin(work), permit));
    }

    fn refuse<R>(&self, refused: Refused) -> Response<<K as ResponseBody<R>>::Response>
    where
        K: ResponseBody<R>,
    {
        let refusal = match refused {
            Refused::ByGuard(error) => self.settings.refuse(error),
            Refused::Otherwise(refusal) => self.settings.options.refuse(refusal),
        };
        refusal.into_http(K::whole)
    }

    /// The service has answered: the permit is given back, or goes on with the body.
    fn answer<R>(
        &self,
        response: Response<R>,
        permit: Option<HeldPermit<ErasedSource>>,
    ) -> Response<<K as ResponseBody<R>>::Response>
    where
        K: ResponseBody<R>,
        R: Body,
    {
        let status = response.status();
        let is_tunnel = status == StatusCode::SWITCHING_PROTOCOLS || (self.is_connect && status.is_success());
        let options = &self.settings.options;
        response.map(|body| {
            let ends_with_head = body.is_end_stream()
                || match options.hold {
                    Hold::Auto => body.size_hint().exact().is_some_and(|size| size <= SMALL_BODY),
                    Hold::Head => true,
                    Hold::Body => false,
                };
            match permit {
                Some(permit) if !is_tunnel && !ends_with_head => {
                    K::held(HeldBody::new(body, BodyHold::new(permit, options.body_hold_max)))
                }
                _ => K::plain(body),
            }
        })
    }
}

impl<S, B: Body> Waiting<S, B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Poll::Ready(result) = self.acquire.poll(cx) {
            return Poll::Ready(match result {
                // Its client may have left in the same moment.
                Ok(_) if self.client.as_ref().is_some_and(|client| client.link.is_gone()) => {
                    Outcome::Refused(Refused::Otherwise(Refusal::client_gone()))
                }
                Ok(permit) => Outcome::Turn(permit),
                Err(error) => Outcome::Refused(Refused::ByGuard(error)),
            });
        }
        if let Some(client) = &mut self.client
            && client.gone.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Outcome::Refused(Refused::Otherwise(Refusal::client_gone())));
        }
        match self.body.poll_read(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(Outcome::Refused(Refused::Otherwise(Refusal::body_unreadable()))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Client {
    fn new(link: ClientLink) -> Self {
        let watched = link.clone();
        Self { link, gone: Box::pin(async move { watched.gone().await }) }
    }
}

impl<S, K, B, R> Future for GuardFuture<S, K, B>
where
    K: RequestBody<B> + ResponseBody<R>,
    B: Body,
    S: Service<Request<K::Request>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Body,
{
    type Output = Result<Response<<K as ResponseBody<R>>::Response>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                Stage::Inside(inside) => {
                    let result = ready!(inside.poll(cx));
                    let permit = this.take_inside().and_then(GuardedWork::into_permit);
                    return Poll::Ready(result.map(|response| this.answer(response, permit)));
                }
                Stage::Waiting(waiting) => {
                    let outcome = ready!(waiting.poll(cx));
                    let Stage::Waiting(waiting) = mem::replace(&mut this.stage, Stage::Done) else {
                        unreachable!("it was waiting two lines above")
                    };
                    let Waiting { inner, parts, body, .. } = *waiting;
                    match outcome {
                        Outcome::Turn(permit) => {
                            let body = K::replayed(body.into_replay());
                            this.enter(permit, inner, Request::from_parts(parts, body));
                        }
                        Outcome::Refused(refused) => return Poll::Ready(Ok(this.refuse(refused))),
                    }
                }
                Stage::Arriving { acquire, .. } => {
                    let poll = acquire.poll(cx);
                    let Stage::Arriving { acquire, inner, request } = mem::replace(&mut this.stage, Stage::Done) else {
                        unreachable!("it was arriving two lines above")
                    };
                    match poll {
                        Poll::Ready(Ok(permit)) => this.enter(permit, inner, K::untouched(request)),
                        Poll::Ready(Err(error)) => return Poll::Ready(Ok(this.refuse(Refused::ByGuard(error)))),
                        Poll::Pending => {
                            let (parts, body) = request.into_parts();
                            let body = ReadAhead::new(body, this.settings.options.read_ahead);
                            let client = K::link(&parts.extensions).map(Client::new);
                            this.stage = Stage::Waiting(Box::new(Waiting { acquire, inner, parts, body, client }));
                        }
                    }
                }
                Stage::Alone(work) => {
                    let result = ready!(work.as_mut().poll(cx));
                    this.stage = Stage::Done;
                    return Poll::Ready(result.map(|response| response.map(K::plain)));
                }
                Stage::Refused(_) => {
                    let Stage::Refused(refusal) = mem::replace(&mut this.stage, Stage::Done) else {
                        unreachable!("it was refused two lines above")
                    };
                    return Poll::Ready(Ok(refusal.into_http(K::whole)));
                }
                Stage::Done => panic!("a guarded request is not polled after it was answered"),
            }
        }
    }
}

impl<S, K, B> GuardFuture<S, K, B>
where
    K: RequestBody<B>,
    B: Body,
    S: Service<Request<K::Request>>,
    S::Future: Send + 'static,
{
    fn take_inside(&mut self) -> Option<GuardedWork<S::Future, ErasedSource>> {
        match mem::replace(&mut self.stage, Stage::Done) {
            Stage::Inside(inside) => Some(inside),
            _ => None,
        }
    }
}

impl<S, K, B> Drop for GuardFuture<S, K, B>
where
    K: RequestBody<B>,
    B: Body,
    S: Service<Request<K::Request>>,
    S::Future: Send + 'static,
{
    fn drop(&mut self) {
        let options = &self.settings.options;
        let (finishes, max_run) = (options.on_disconnect == OnDisconnect::Finish, options.max_run);
        if let Some(inside) = self.take_inside()
            && finishes
            && let Ok(runtime) = Handle::try_current()
            && let Some(detached) = inside.detach(Some(max_run))
        {
            runtime.spawn(detached);
        }
    }
}

// Nothing in it is polled in place: the bodies and the work have boxes of their own.
impl<S, K, B> Unpin for GuardFuture<S, K, B>
where
    K: RequestBody<B>,
    B: Body,
    S: Service<Request<K::Request>>,
    S::Future: Send + 'static,
{
}

impl<S, K, B> fmt::Debug for GuardFuture<S, K, B>
where
    K: RequestBody<B>,
    B: Body,
    S: Service<Request<K::Request>>,
    S::Future: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Arriving { .. } => "Arriving",
            Stage::Waiting(_) => "Waiting",
            Stage::Inside(_) => "Inside",
            Stage::Alone(_) => "Alone",
            Stage::Refused(_) => "Refused",
            Stage::Done => "Done",
        };
        f.debug_struct("GuardFuture").field("stage", &stage).finish_non_exhaustive()
    }
}
