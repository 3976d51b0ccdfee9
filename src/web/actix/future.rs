//! [`GuardFuture`], a request on its way through a guard.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::Error;
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::rt;

use super::body::GuardBody;
use super::response::response;
use super::worker::can_spawn;
use crate::guard::acquire::AcquireFuture;
use crate::guard::erased::ErasedSource;
use crate::guard::guarded_work::GuardedWork;
use crate::guard::permit::HeldPermit;
use crate::web::admission::{Admission, Arrival};
use crate::web::body_hold::BodyHold;
use crate::web::options::Settings;
use crate::web::{Hold, OnDisconnect, Refusal};

/// A request on its way through a guard. Made by [`GuardService`](super::GuardService).
///
/// Dropped while it waits, it leaves the queue. Dropped while the service runs, the service runs on or is dropped, as
/// [`OnDisconnect`] says.
pub struct GuardFuture<S>
where
    S: Service<ServiceRequest>,
    S::Future: 'static,
{
    settings: Arc<Settings<ServiceRequest>>,
    /// A response to CONNECT is a tunnel, not a body.
    is_connect: bool,
    stage: Stage<S, S::Future>,
}

enum Stage<S, F> {
    Waiting {
        acquire: AcquireFuture<ErasedSource>,
        inner: Rc<S>,
        request: ServiceRequest,
    },
    Inside(GuardedWork<F, ErasedSource>),
    /// No lane concerns it.
    Alone(Pin<Box<F>>),
    Refused(Box<(ServiceRequest, Refusal)>),
    Done,
}

impl<S> GuardFuture<S>
where
    S: Service<ServiceRequest>,
    S::Future: 'static,
{
    pub(super) fn new(inner: Rc<S>, settings: Arc<Settings<ServiceRequest>>, request: ServiceRequest) -> Self {
        let is_connect = request.method() == Method::CONNECT;
        let arrival = match &settings.admission {
            Admission::One(guard) => Arrival::Guarded(ErasedSource::Endpoint(guard.clone())),
            Admission::PerKey(key_of) => key_of(&request),
        };
        let stage = match arrival {
            Arrival::Guarded(gate) => Stage::Waiting { acquire: AcquireFuture::new(gate), inner, request },
            Arrival::LetThrough => Stage::Alone(Box::pin(inner.call(request))),
            Arrival::Refused => Stage::Refused(Box::new((request, settings.options.refuse(Refusal::key_missing())))),
        };
        Self { settings, is_connect, stage }
    }

    /// The turn has come: calls the service.
    fn enter(&mut self, permit: HeldPermit<ErasedSource>, inner: &S, request: ServiceRequest) {
        let scope = permit.enter_scope();
        let work = inner.call(request);
        drop(scope);
        // In a box the work can move to a task of its own if the client leaves.
        self.stage = Stage::Inside(GuardedWork::new(Box::pin(work), permit));
    }

    fn take_inside(&mut self) -> Option<GuardedWork<S::Future, ErasedSource>> {
        match mem::replace(&mut self.stage, Stage::Done) {
            Stage::Inside(inside) => Some(inside),
            _ => None,
        }
    }

    /// The service has answered: the permit is given back, or goes on with the body.
    fn answer<B>(
        &self,
        response: ServiceResponse<B>,
        permit: Option<HeldPermit<ErasedSource>>,
    ) -> ServiceResponse<GuardBody<B>>
    where
        B: MessageBody,
    {
        let status = response.status();
        let is_tunnel = status == StatusCode::SWITCHING_PROTOCOLS || (self.is_connect && status.is_success());
        let options = &self.settings.options;
        response.map_body(|_, body| {
            let ends_with_head = is_tunnel || matches!(body.size(), BodySize::None | BodySize::Sized(0));
            let Some(permit) = permit.filter(|_| !ends_with_head && options.hold != Hold::Head) else {
                return GuardBody::plain(body);
            };
            let held = |body, permit| GuardBody::held(body, BodyHold::new(permit, options.body_hold_max));
            if options.hold == Hold::Body {
                return held(body, permit);
            }
            // A size does not tell a body in memory from a stream of known length. This does.
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
    B: MessageBody,
{
    type Output = Result<ServiceResponse<GuardBody<B>>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                Stage::Inside(inside) => {
                    let result = ready!(inside.poll(cx));
                    let permit = this.take_inside().and_then(GuardedWork::into_permit);
                    return Poll::Ready(result.map(|response| this.answer(response, permit)));
                }
                Stage::Waiting { acquire, .. } => {
                    let result = ready!(acquire.poll(cx));
                    let Stage::Waiting { inner, request, .. } = mem::replace(&mut this.stage, Stage::Done) else {
                        unreachable!("it was waiting two lines above")
                    };
                    match result {
                        Ok(permit) => this.enter(permit, &inner, request),
                        Err(error) => {
                            return Poll::Ready(Ok(refused(request, this.settings.refuse(error))));
                        }
                    }
                }
                Stage::Alone(work) => {
                    let result = ready!(work.as_mut().poll(cx));
                    this.stage = Stage::Done;
                    return Poll::Ready(result.map(|response| response.map_body(|_, body| GuardBody::plain(body))));
                }
                Stage::Refused(_) => {
                    let Stage::Refused(answer) = mem::replace(&mut this.stage, Stage::Done) else {
                        unreachable!("it was refused two lines above")
                    };
                    let (request, refusal) = *answer;
                    return Poll::Ready(Ok(refused(request, refusal)));
                }
                Stage::Done => panic!("a guarded request is not polled after it was answered"),
            }
        }
    }
}

fn refused<B: MessageBody>(request: ServiceRequest, refusal: Refusal) -> ServiceResponse<GuardBody<B>> {
    request.into_response(response(refusal)).map_body(|_, body| GuardBody::refusal(body))
}

impl<S> Drop for GuardFuture<S>
where
    S: Service<ServiceRequest>,
    S::Future: 'static,
{
    fn drop(&mut self) {
        let options = &self.settings.options;
        let (finishes, max_run) = (options.on_disconnect == OnDisconnect::Finish, options.max_run);
        if let Some(inside) = self.take_inside()
            && finishes
            // Elsewhere, as in a test on a bare tokio runtime, there is nothing to go on on: it would panic.
            && can_spawn()
            && let Some(detached) = inside.detach(Some(max_run))
        {
            rt::spawn(detached);
        }
    }
}

// Nothing in it is polled in place: the work has a box of its own.
impl<S> Unpin for GuardFuture<S>
where
    S: Service<ServiceRequest>,
    S::Future: 'static,
{
}

impl<S> fmt::Debug for GuardFuture<S>
where
    S: Service<ServiceRequest>,
    S::Future: 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Waiting { .. } => "Waiting",
            Stage::Inside(_) => "Inside",
            Stage::Alone(_) => "Alone",
            Stage::Refused(_) => "Refused",
            Stage::Done => "Done",
        };
        f.debug_struct("GuardFuture").field("stage", &stage).finish_non_exhaustive()
    }
}
