//! [`ActiveCalls`], the calls in progress, and [`run_call`] and [`run_blocking_call`], the future of one of them.

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::every::Overlap;
use super::tick_context::TickContext;
use super::ticker::CallRecord;
use crate::background::context::RunContext;
use crate::background::service::ServiceResult;
use crate::background::status::{ExitKind, TimeLimit};
use crate::background::trace;
use crate::panic::{catch, catch_work, discard};

/// The calls of one generation that are in progress.
pub(super) enum ActiveCalls {
    /// At most one call, polled together with the service and dropped with it.
    Inline(Option<Pin<Box<dyn Future<Output = ExitKind> + Send>>>),
    /// Any number of calls. Each is a child task of the service and sends its exit through the channel.
    ChildTasks(UnboundedSender<ExitKind>, UnboundedReceiver<ExitKind>),
}

impl ActiveCalls {
    pub(super) fn new(overlap: Overlap) -> Self {
        match overlap {
            Overlap::Skip | Overlap::Queue => Self::Inline(None),
            Overlap::Allow => {
                let (sender, receiver) = unbounded_channel();
                Self::ChildTasks(sender, receiver)
            }
        }
    }

    pub(super) fn start(&mut self, cx: &RunContext, call: impl Future<Output = ExitKind> + Send + 'static) {
        match self {
            Self::Inline(active) => *active = Some(Box::pin(call)),
            Self::ChildTasks(sender, _) => {
                let sender = sender.clone();
                // Sending fails only after the generation has ended. The service owns the task, so the handle is not
                // needed.
                drop(cx.spawn(async move { sender.send(call.await) }));
            }
        }
    }

    /// Waits until a call ends, or forever if no call is in progress.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no exit.
    pub(super) async fn next_exit(&mut self) -> ExitKind {
        match self {
            Self::Inline(None) => pending().await,
            Self::Inline(Some(call)) => {
                let exit = call.await;
                *self = Self::Inline(None);
                exit
            }
            Self::ChildTasks(_, receiver) => match receiver.recv().await {
                Some(exit) => exit,
                None => pending().await,
            },
        }
    }
}

/// Calls `tick` once with its context, catches its panic and applies the timeout. A call that is dropped before its end
/// is recorded as aborted.
pub(super) async fn run_call<F, W>(tick: Arc<F>, cx: TickContext, service: Arc<str>, record: CallRecord) -> ExitKind
where
    F: Fn(TickContext) -> W + Send + Sync + 'static,
    W: Future<Output = ServiceResult> + Send + 'static,
{
    // The async block moves a panic of `tick` itself into the poll, where it is caught.
    let mut work = Box::pin(async move { tick(cx).await });
    let caught = poll_fn(|cx| match catch_work(|| work.as_mut().poll(cx)) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(Ok(()))) => Poll::Ready(ExitKind::Completed),
        Ok(Poll::Ready(Err(error))) => Poll::Ready(ExitKind::Failed(error.into())),
        Err(panic) => Poll::Ready(ExitKind::Panicked(panic)),
    });
    let exit = match record.timeout() {
        None => caught.await,
        Some(limit) => timeout(limit, caught).await.unwrap_or(ExitKind::TimedOut(TimeLimit::Tick(limit))),
    };
    // The future is dropped before the exit is recorded, so that the call has released whatever it held by then.
    discard(work);
    if exit.is_failure() {
        trace::tick_failed(&service, &exit);
    }
    record.finish(exit.clone());
    exit
}

/// Calls `tick` once with its context, on a thread that it may block. The call is in progress until it returns, also
/// without this future and its generation.
pub(super) async fn run_blocking_call<F>(
    tick: Arc<F>,
    cx: TickContext,
    service: Arc<str>,
    record: CallRecord,
) -> ExitKind
where
    F: Fn(TickContext) -> ServiceResult + Send + Sync + 'static,
{
    let (limit, drop_signal, name) = (record.timeout(), cx.drop_signal(), Arc::clone(&service));
    let scope = cx.scope().clone();
    let call = move || {
        let exit = match scope.run(|| catch_work(|| tick(cx))) {
            Ok(Ok(())) => ExitKind::Completed,
            Ok(Err(error)) => ExitKind::Failed(error.into()),
            Err(panic) => ExitKind::Panicked(panic),
        };
        let exit = match record.exceeded() {
            Some(limit) if !exit.is_failure() => ExitKind::TimedOut(TimeLimit::Tick(limit)),
            _ => exit,
        };
        if exit.is_failure() {
            trace::tick_failed(&name, &exit);
        }
        record.finish(exit.clone());
        discard(tick);
        drop(drop_signal);
        exit
    };
    // Panics if no thread can be spawned. The call is then recorded as aborted.
    let Ok(mut thread) = catch(|| spawn_blocking(call)) else { return ExitKind::Aborted };
    let exit = match limit {
        None => thread.await,
        Some(limit) => match timeout(limit, &mut thread).await {
            Ok(exit) => exit,
            Err(_) => {
                trace::tick_overdue(&service, limit);
                thread.await
            }
        },
    };
    exit.unwrap_or(ExitKind::Aborted)
}
