//! [`Abortable`], a phase of a service that its supervisor can abort, and that catches panics.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::background::control::{GenerationHandle, GenerationPhase};
use crate::panic::{Panic, catch_work};

pin_project! {
    /// Begins a phase of a service, and polls it until it ends, panics, or is aborted.
    pub(super) struct Abortable<'a, C, F> {
        handle: &'a GenerationHandle,
        phase: GenerationPhase,
        // The call that returns the future is user code and may panic too, so the first poll makes it.
        call: Option<C>,
        #[pin]
        future: Option<F>,
    }
}

/// Why a phase ended without a result of its own.
#[derive(Debug)]
pub(super) enum Interrupt {
    Panicked(Panic),
    /// The future was dropped at an await point.
    Aborted,
}

impl<'a, C: FnOnce() -> F, F: Future> Abortable<'a, C, F> {
    pub(super) fn new(handle: &'a GenerationHandle, phase: GenerationPhase, call: C) -> Self {
        Self { handle, phase, call: Some(call), future: None }
    }
}

impl<C: FnOnce() -> F, F: Future> Future for Abortable<'_, C, F> {
    type Output = Result<F::Output, Interrupt>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let handle = *this.handle;
        let is_aborted = handle.poll_aborted(*this.phase, cx);
        if !is_aborted && *this.phase != GenerationPhase::Stop && handle.scope.is_revoked() {
            // The supervisor aborts the generation once it has received the loss of the lease.
            return Poll::Pending;
        }
        // An aborted `stop` still gets one poll, so that it releases what it can without waiting.
        let is_owed_a_poll = *this.phase == GenerationPhase::Stop && this.call.is_some();
        let poll = || {
            if let Some(call) = this.call.take() {
                this.future.set(Some(call()));
            }
            let future = this.future.as_mut().as_pin_mut();
            future.expect("a phase is not polled after its end").poll(cx)
        };
        let result = if is_aborted && !is_owed_a_poll {
            Err(Interrupt::Aborted)
        } else {
            match run_user_code(handle, poll) {
                Ok(Poll::Pending) if is_aborted => Err(Interrupt::Aborted),
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(output)) => Ok(output),
                Err(interrupt) => Err(interrupt),
            }
        };
        // The destructors of the future are user code too.
        let _ = run_user_code(handle, || this.future.set(None));
        Poll::Ready(result)
    }
}

/// Runs code of the service in the service's scope, and catches its panic.
pub(super) fn run_user_code<T>(handle: &GenerationHandle, code: impl FnOnce() -> T) -> Result<T, Interrupt> {
    handle.scope.run(|| catch_work(code)).map_err(Interrupt::Panicked)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::future::{Ready, pending, ready};
    use std::sync::Arc;
    use std::time::SystemTime;

    use tokio::sync::{broadcast, mpsc};
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;
    use crate::background::control::HostShared;
    use crate::background::placement::Placement;
    use crate::background::status::{HostPhase, HostStatus, ManagedList, ServiceStatus};

    fn handle() -> GenerationHandle {
        let status = HostStatus {
            phase: HostPhase::Running,
            since: SystemTime::now(),
            has_started: true,
            services: Vec::new(),
            indices: Arc::new(HashMap::new()),
            watch: None,
            managed: ManagedList::default(),
        };
        let host = HostShared::new(mpsc::unbounded_channel().0, status, broadcast::channel(1).0.downgrade());
        let now = SystemTime::now();
        let service = ServiceStatus::registered("service".into(), Placement::Shared, true, None, None, now);
        GenerationHandle::new(0, Arc::new(service), true, Arc::new(host))
    }

    #[test]
    fn stop_that_is_aborted_before_its_first_poll_is_still_called() {
        let (handle, calls) = (handle(), Cell::new(0));
        handle.abort(GenerationPhase::Stop);
        let call = || calls.set(calls.get() + 1);
        let mut ends_at_once = task::spawn(Abortable::new(&handle, GenerationPhase::Stop, || {
            call();
            ready(())
        }));
        assert!(assert_ready!(ends_at_once.poll()).is_ok());
        let mut waits = task::spawn(Abortable::new(&handle, GenerationPhase::Stop, || {
            call();
            pending::<()>()
        }));
        assert!(matches!(assert_ready!(waits.poll()), Err(Interrupt::Aborted)));
        assert_eq!(calls.get(), 2);
    }

    #[test]
    fn start_and_run_that_are_aborted_before_their_first_poll_are_not_called() {
        let handle = handle();
        handle.abort(GenerationPhase::Run);
        for phase in [GenerationPhase::Start, GenerationPhase::Run] {
            let call = || -> Ready<()> { panic!("the phase is called") };
            let mut aborted = task::spawn(Abortable::new(&handle, phase, call));
            assert!(matches!(assert_ready!(aborted.poll()), Err(Interrupt::Aborted)));
        }
    }

    #[test]
    fn pending_phase_is_woken_and_dropped_when_it_is_aborted() {
        let handle = handle();
        let mut stop = task::spawn(Abortable::new(&handle, GenerationPhase::Stop, pending::<()>));
        assert_pending!(stop.poll());
        handle.abort(GenerationPhase::Run);
        assert_pending!(stop.poll());
        handle.abort(GenerationPhase::Stop);
        assert!(stop.is_woken());
        assert!(matches!(assert_ready!(stop.poll()), Err(Interrupt::Aborted)));
    }
}
