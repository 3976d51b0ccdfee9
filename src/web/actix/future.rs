//! [`GuardFuture`], a request on its way through a guard.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::rt;
use actix_web::{Error, HttpMessage};

use super::body::GuardBody;
use super::response::response;
use super::worker::can_spawn;
use crate::guard::acquire::AcquireFuture;
use crate::guard::erased::ErasedSource;
use crate::guard::guarded_work::GuardedWork;
use crate::guard::permit::HeldPermit;
use crate::web::admission::{Admission, Arrival};
use crate::web::layer_settings::{LayerSettings, is_tunnel};
use crate::web::noted_handler::NotedHandler;
use crate::web::response_note::ResponseNote;
use crate::web::{Hold, Refusal, RequestHead};

/// A request on its way through a guard. Created by [`GuardService`](super::GuardService).
///
/// If this future is dropped while it waits, the request leaves the queue. If it is dropped while the service runs, the
/// service continues or is dropped, depending on [`OnDisconnect`](crate::web::OnDisconnect).
pub struct GuardFuture<S>
where
    S: Service<ServiceRequest>,
    S::Future: 'static,
    S::Response: 'static,
{
    settings: Arc<LayerSettings<ServiceRequest>>,
    is_connect: bool,
    state: GuardFutureState<S, NotedHandler<S::Future, S::Response>>,
}

enum GuardFutureState<S, F> {
    Waiting {
        acquire: AcquireFuture<ErasedSource>,
        inner: Rc<S>,
        request: ServiceRequest,
    },
    Running(GuardedWork<F, ErasedSource>),
    /// The request needs no permit.
    Unguarded(Pin<Box<F>>),
    Refused(Box<(ServiceRequest, Refusal)>),
    Done,
}

impl<S> GuardFuture<S>
where
    S: Service<ServiceRequest>,
    S::Future: 'static,
    S::Response: 'static,
{
    pub(super) fn new(
        inner: Rc<S>,
        settings: Arc<LayerSettings<ServiceRequest>>,
        request: ServiceRequest,
        status_of: fn(&S::Response) -> u16,
    ) -> Self {
        let is_connect = request.method() == Method::CONNECT;
        let arrival = match &settings.admission {
            Admission::One(guard) => Arrival::Guarded(ErasedSource::Endpoint(guard.clone())),
            Admission::PerKey(key_of) => key_of(&request),
        };
        let state = match arrival {
            Arrival::Guarded(source) => {
                GuardFutureState::Waiting { acquire: AcquireFuture::new(source), inner, request }
            }
            Arrival::LetThrough => GuardFutureState::Unguarded(Box::pin(noted(&*inner, request, status_of))),
            Arrival::Refused => {
                let refusal = settings.refuse(Refusal::key_missing(), &RequestHead::new(request.request()));
                GuardFutureState::Refused(Box::new((request, refusal)))
            }
        };
        Self { settings, is_connect, state }
    }

    /// Calls the service with the permit held.
    fn run(
        &mut self,
        mut permit: HeldPermit<ErasedSource>,
        inner: &S,
        request: ServiceRequest,
        status_of: fn(&S::Response) -> u16,
    ) {
        let scope = permit.enter_scope();
        let handler = noted(inner, request, status_of);
        drop(scope);
        // The handler is boxed, so that it can move to its own task if the client disconnects.
        self.state = GuardFutureState::Running(GuardedWork::of_layer(Box::pin(handler), permit));
    }

    /// Releases the permit, or passes it to the body of the service's response.
    fn respond<B>(
        &self,
        response: ServiceResponse<B>,
        permit: Option<HeldPermit<ErasedSource>>,
    ) -> ServiceResponse<GuardBody<B>>
    where
        B: MessageBody,
    {
        let is_tunnel = is_tunnel(self.is_connect, response.status().as_u16());
        let hold = self.settings.options.hold;
        response.map_body(|_, body| {
            let ends_with_head = is_tunnel || matches!(body.size(), BodySize::None | BodySize::Sized(0));
            let Some(permit) = permit.filter(|_| !ends_with_head && hold != Hold::Head) else {
                return GuardBody::plain(body);
            };
            let held = |body, permit| GuardBody::held(body, self.settings.hold_body(permit));
            if hold == Hold::Body {
                return held(body, permit);
            }
            // The size of a body does not distinguish a body in memory from a stream of known length. `try_into_bytes`
            // does.
            match body.try_into_bytes() {
                Ok(body) => GuardBody::whole(body),
                Err(body) => held(body, permit),
            }
        })
    }
}

impl<S, B> Future for GuardFuture<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    S::Future: 'static,
    S::Response: 'static,
    B: MessageBody,
{
    type Output = Result<ServiceResponse<GuardBody<B>>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                GuardFutureState::Running(handler) => {
                    let Some(result) = ready!(handler.poll_unless_lost(cx)) else {
                        this.state = GuardFutureState::Done;
                        // The request is gone with the handler, so there is nothing to make a response of.
                        return Poll::Ready(Err(Refusal::lease_lost().into()));
                    };
                    let permit = handler.take_permit();
                    // The handler is dropped before the permit is released or passed to the body.
                    this.state = GuardFutureState::Done;
                    return Poll::Ready(result.map(|response| this.respond(response, permit)));
                }
                GuardFutureState::Waiting { acquire, .. } => {
                    let result = ready!(Pin::new(acquire).poll(cx));
                    let GuardFutureState::Waiting { inner, request, .. } =
                        mem::replace(&mut this.state, GuardFutureState::Done)
                    else {
                        unreachable!("the state was `Waiting` two lines above")
                    };
                    match result {
                        Ok(permit) => this.run(permit, &inner, request, |response| response.status().as_u16()),
                        Err(error) => {
                            let refusal = this.settings.refusal(error);
                            let refusal = this.settings.refuse(refusal, &RequestHead::new(request.request()));
                            return Poll::Ready(Ok(refused(request, refusal)));
                        }
                    }
                }
                GuardFutureState::Unguarded(handler) => {
                    let result = ready!(handler.as_mut().poll(cx));
                    this.state = GuardFutureState::Done;
                    return Poll::Ready(result.map(|response| response.map_body(|_, body| GuardBody::plain(body))));
                }
                GuardFutureState::Refused(_) => {
                    let GuardFutureState::Refused(refused_request) =
                        mem::replace(&mut this.state, GuardFutureState::Done)
                    else {
                        unreachable!("the state was `Refused` two lines above")
                    };
                    let (request, refusal) = *refused_request;
                    return Poll::Ready(Ok(refused(request, refusal)));
                }
                GuardFutureState::Done => panic!("a guarded request was polled after it completed"),
            }
        }
    }
}

/// Calls the service, and records its response: it may run without its client.
fn noted<S: Service<ServiceRequest>>(
    inner: &S,
    request: ServiceRequest,
    status_of: fn(&S::Response) -> u16,
) -> NotedHandler<S::Future, S::Response> {
    let note = request.extensions().get::<ResponseNote>().cloned().unwrap_or_default();
    NotedHandler::new(inner.call(request), note, status_of)
}

fn refused<B: MessageBody>(request: ServiceRequest, refusal: Refusal) -> ServiceResponse<GuardBody<B>> {
    request.into_response(response(refusal)).map_body(|_, body| GuardBody::refusal(body))
}

impl<S> Drop for GuardFuture<S>
where
    S: Service<ServiceRequest>,
    S::Future: 'static,
    S::Response: 'static,
{
    fn drop(&mut self) {
        if let GuardFutureState::Running(handler) = mem::replace(&mut self.state, GuardFutureState::Done)
            && let Some(detached) = self.settings.detach(handler)
            // On other threads, such as those of a test on a bare tokio runtime, spawning panics. The work is dropped
            // here then, and counted as cut off.
            && can_spawn()
        {
            rt::spawn(detached);
        }
    }
}

// No field is pinned structurally: the handler has its own box.
impl<S> Unpin for GuardFuture<S>
where
    S: Service<ServiceRequest>,
    S::Future: 'static,
    S::Response: 'static,
{
}

impl<S> fmt::Debug for GuardFuture<S>
where
    S: Service<ServiceRequest>,
    S::Future: 'static,
    S::Response: 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardFuture").finish_non_exhaustive()
    }
}
