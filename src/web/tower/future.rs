//! [`GuardFuture`], a request on its way through a guard.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body;
use tokio::runtime::Handle;
use tower_service::Service;

use super::bodies::{RequestBody, ResponseBody};
use super::held_body::HeldBody;
use super::read_ahead::ReadAheadBody;
use super::waiting::{ClientWatch, NotServed, WaitingRequest, poll_ready_inside};
use crate::guard::acquire::AcquireFuture;
use crate::guard::erased::ErasedSource;
use crate::guard::guarded_work::GuardedWork;
use crate::guard::permit::HeldPermit;
use crate::web::admission::{Admission, Arrival};
use crate::web::layer_settings::{LayerSettings, is_tunnel};
use crate::web::noted_handler::NotedHandler;
use crate::web::response_note::ResponseNote;
use crate::web::{Hold, Refusal, RequestHead};

/// A body of at most this many bytes, if its length is known beforehand, does not hold the permit. A longer body may be
/// a stream of known length. If the longer body is in memory after all, it holds the permit until the server has taken
/// it, in one piece.
const SMALL_BODY: u64 = 64 * 1024;

/// A request on its way through a guard. Created by [`GuardService`](super::GuardService).
///
/// If this future is dropped while it waits, the request leaves the queue. If it is dropped while the service runs, the
/// service continues or is dropped, depending on [`OnDisconnect`](crate::web::OnDisconnect).
pub struct GuardFuture<S, K, B>
where
    K: RequestBody<B>,
    B: Body,
    S: Service<Request<K::Request>>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    settings: Arc<LayerSettings<Parts>>,
    is_connect: bool,
    /// The head of the request, for the refusal after the loss of a lease.
    head: Option<Box<Parts>>,
    state: GuardFutureState<S, B, NotedHandler<S::Future, S::Response>>,
    body_kind: PhantomData<fn() -> K>,
}

enum GuardFutureState<S, B: Body, F> {
    /// The permit has not been requested yet. Most requests get one at the first poll, and their body stays unread.
    Arriving {
        /// `None` if the request needs no permit.
        acquire: Option<AcquireFuture<ErasedSource>>,
        inner: S,
        request: Request<B>,
    },
    Waiting(Box<WaitingRequest<S, B>>),
    Running(GuardedWork<F, ErasedSource>),
    /// Like `Running`, for a request that needs no permit.
    Unguarded(Pin<Box<F>>),
    Refused(Box<Refusal>),
    Done,
}

impl<S, K, B> GuardFuture<S, K, B>
where
    K: RequestBody<B>,
    B: Body,
    S: Service<Request<K::Request>>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    pub(super) fn new(inner: S, settings: Arc<LayerSettings<Parts>>, mut request: Request<B>) -> Self {
        let is_connect = request.method() == Method::CONNECT;
        let arrival = match &settings.admission {
            Admission::One(guard) => Arrival::Guarded(ErasedSource::Endpoint(guard.clone())),
            Admission::PerKey(key_of) => {
                let (parts, body) = request.into_parts();
                let arrival = key_of(&parts);
                request = Request::from_parts(parts, body);
                arrival
            }
        };
        let acquire = match arrival {
            Arrival::Guarded(source) => Some(AcquireFuture::new(source)),
            Arrival::LetThrough => None,
            Arrival::Refused => {
                let (head, _) = request.into_parts();
                let refusal = settings.refuse(Refusal::key_missing(), &RequestHead::new(&head));
                let state = GuardFutureState::Refused(Box::new(refusal));
                return Self { settings, is_connect, state, head: None, body_kind: PhantomData };
            }
        };
        let state = GuardFutureState::Arriving { acquire, inner, request };
        Self { settings, is_connect, state, head: None, body_kind: PhantomData }
    }

    /// Calls the service, which is ready, inside the guard if a permit is held.
    fn run(
        &mut self,
        mut permit: Option<HeldPermit<ErasedSource>>,
        mut inner: S,
        mut request: Request<K::Request>,
        status_of: fn(&S::Response) -> u16,
    ) {
        if permit.as_ref().is_some_and(|permit| permit.lease_that_cancels().is_some()) {
            let (head, body) = request.into_parts();
            self.head = Some(Box::new(head.clone()));
            request = Request::from_parts(head, body);
        }
        let scope = permit.as_mut().map(HeldPermit::enter_scope);
        let note = request.extensions().get::<ResponseNote>().cloned().unwrap_or_default();
        let handler = NotedHandler::new(inner.call(request), note, status_of);
        drop(scope);
        // This is the only allocation of a request. The handler is boxed, so that it can move to its own task if the
        // client disconnects.
        let handler = Box::pin(handler);
        self.state = match permit {
            Some(permit) => GuardFutureState::Running(GuardedWork::of_layer(handler, permit)),
            None => GuardFutureState::Unguarded(handler),
        };
    }

    fn refuse<R>(&self, refusal: Refusal, head: &Parts) -> Response<<K as ResponseBody<R>>::Response>
    where
        K: ResponseBody<R>,
    {
        self.settings.refuse(refusal, &RequestHead::new(head)).into_http(K::whole)
    }

    /// Releases the permit, or passes it to the body of the service's response.
    fn respond<R>(
        &self,
        response: Response<R>,
        permit: Option<HeldPermit<ErasedSource>>,
    ) -> Response<<K as ResponseBody<R>>::Response>
    where
        K: ResponseBody<R>,
        R: Body,
    {
        let is_tunnel = is_tunnel(self.is_connect, response.status().as_u16());
        response.map(|body| {
            let ends_with_head = body.is_end_stream()
                || match self.settings.options.hold {
                    Hold::Auto => body.size_hint().exact().is_some_and(|size| size <= SMALL_BODY),
                    Hold::Head => true,
                    Hold::Body => false,
                };
            match permit {
                Some(permit) if !is_tunnel && !ends_with_head => {
                    K::held(HeldBody::new(body, self.settings.hold_body(permit)))
                }
                _ => K::plain(body),
            }
        })
    }
}

impl<S, K, B, R> Future for GuardFuture<S, K, B>
where
    K: RequestBody<B> + ResponseBody<R>,
    B: Body,
    S: Service<Request<K::Request>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Response: 'static,
    R: Body,
{
    type Output = Result<Response<<K as ResponseBody<R>>::Response>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                GuardFutureState::Running(handler) => {
                    let Some(result) = ready!(handler.poll_unless_lost(cx)) else {
                        this.state = GuardFutureState::Done;
                        let head = this.head.take().expect("the head is kept if the lease can be lost");
                        return Poll::Ready(Ok(this.refuse(Refusal::lease_lost(), &head)));
                    };
                    let permit = handler.take_permit();
                    // The handler is dropped before the permit is released or passed to the body.
                    this.state = GuardFutureState::Done;
                    return Poll::Ready(result.map(|response| this.respond(response, permit)));
                }
                GuardFutureState::Waiting(_) => {
                    // The request is taken out while it is polled. A panic then drops the request, which may have lost
                    // its permit.
                    let GuardFutureState::Waiting(mut waiting) = mem::replace(&mut this.state, GuardFutureState::Done)
                    else {
                        unreachable!("the state was `Waiting` two lines above")
                    };
                    let Poll::Ready(result) = waiting.poll(&this.settings, cx) else {
                        this.state = GuardFutureState::Waiting(waiting);
                        return Poll::Pending;
                    };
                    let WaitingRequest { permit, inner, parts, body, .. } = *waiting;
                    match result {
                        Ok(()) => {
                            let request = Request::from_parts(parts, K::replayed(body.into_replay()));
                            this.run(permit, inner, request, |response| response.status().as_u16());
                        }
                        Err(NotServed::Refused(refusal)) => return Poll::Ready(Ok(this.refuse(*refusal, &parts))),
                        Err(NotServed::Failed(error)) => return Poll::Ready(Err(error)),
                    }
                }
                GuardFutureState::Arriving { acquire, .. } => {
                    let poll = match acquire {
                        Some(acquire) => Pin::new(acquire).poll(cx).map_ok(Some),
                        None => Poll::Ready(Ok(None)),
                    };
                    let GuardFutureState::Arriving { mut acquire, mut inner, request } =
                        mem::replace(&mut this.state, GuardFutureState::Done)
                    else {
                        unreachable!("the state was `Arriving` two lines above")
                    };
                    let permit = match poll {
                        Poll::Ready(Ok(mut permit)) => {
                            if let Poll::Ready(result) = poll_ready_inside(permit.as_mut(), &mut inner, cx) {
                                if let Err(error) = result {
                                    // No other request runs inside the guard while these values are dropped.
                                    drop((inner, request));
                                    return Poll::Ready(Err(error));
                                }
                                this.run(permit, inner, K::untouched(request), |response| response.status().as_u16());
                                continue;
                            }
                            acquire = None;
                            permit
                        }
                        Poll::Ready(Err(error)) => {
                            let (head, _) = request.into_parts();
                            return Poll::Ready(Ok(this.refuse(this.settings.refusal(error), &head)));
                        }
                        Poll::Pending => None,
                    };
                    let (parts, body) = request.into_parts();
                    let body = ReadAheadBody::new(body, this.settings.options.read_ahead);
                    let client = K::link(&parts.extensions).map(ClientWatch::new);
                    let waiting = WaitingRequest { acquire, inner, permit, parts, body, client };
                    this.state = GuardFutureState::Waiting(Box::new(waiting));
                }
                GuardFutureState::Unguarded(handler) => {
                    let result = ready!(handler.as_mut().poll(cx));
                    this.state = GuardFutureState::Done;
                    return Poll::Ready(result.map(|response| response.map(K::plain)));
                }
                GuardFutureState::Refused(_) => {
                    let GuardFutureState::Refused(refusal) = mem::replace(&mut this.state, GuardFutureState::Done)
                    else {
                        unreachable!("the state was `Refused` two lines above")
                    };
                    return Poll::Ready(Ok(refusal.into_http(K::whole)));
                }
                GuardFutureState::Done => panic!("a guarded request was polled after it completed"),
            }
        }
    }
}

impl<S, K, B> Drop for GuardFuture<S, K, B>
where
    K: RequestBody<B>,
    B: Body,
    S: Service<Request<K::Request>>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    fn drop(&mut self) {
        if matches!(self.state, GuardFutureState::Running(_))
            && let GuardFutureState::Running(handler) = mem::replace(&mut self.state, GuardFutureState::Done)
            && let Some(detached) = self.settings.detach(handler)
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(detached);
        }
    }
}

// No field is pinned structurally: the bodies and the handler have their own boxes.
impl<S, K, B> Unpin for GuardFuture<S, K, B>
where
    K: RequestBody<B>,
    B: Body,
    S: Service<Request<K::Request>>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
}

impl<S, K, B> fmt::Debug for GuardFuture<S, K, B>
where
    K: RequestBody<B>,
    B: Body,
    S: Service<Request<K::Request>>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardFuture").finish_non_exhaustive()
    }
}
