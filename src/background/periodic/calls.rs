//! [`Calls`], the calls that run: within the service, or beside it in tasks of their own.

use std::future::{Future, pending};
use std::pin::Pin;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::overlap::Overlap;
use crate::background::context::RunContext;
use crate::background::status::ExitKind;

/// The calls of a generation that run.
pub(super) enum Calls {
    /// One at most, polled with the service and dropped with it.
    Within(Option<Pin<Box<dyn Future<Output = ExitKind> + Send>>>),
    /// Any number. They tell their ends.
    Beside(UnboundedSender<ExitKind>, UnboundedReceiver<ExitKind>),
}

impl Calls {
    pub(super) fn new(overlap: Overlap) -> Self {
        match overlap {
            Overlap::Skip | Overlap::Queue => Self::Within(None),
            Overlap::Allow => {
                let (sender, receiver) = unbounded_channel();
                Self::Beside(sender, receiver)
            }
        }
    }

    pub(super) fn begin(&mut self, cx: &RunContext, call: impl Future<Output = ExitKind> + Send + 'static) {
        match self {
            Self::Within(running) => *running = Some(Box::pin(call)),
            Self::Beside(sender, _) => {
                let sender = sender.clone();
                // Who has gone away need not be told. The handle is not needed either: the service owns the task.
                drop(cx.spawn(async move { sender.send(call.await) }));
            }
        }
    }

    /// Waits until one has ended, for ever if there is none. Nothing is lost when it is dropped.
    pub(super) async fn ended(&mut self) -> ExitKind {
        let ended = match self {
            Self::Within(None) => None,
            Self::Within(Some(running)) => {
                let exit = running.await;
                *self = Self::Within(None);
                Some(exit)
            }
            Self::Beside(_, receiver) => receiver.recv().await,
        };
        match ended {
            Some(exit) => exit,
            None => pending().await,
        }
    }
}
