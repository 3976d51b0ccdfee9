//! What the tests have in common.

use std::future::Future;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// How long a test waits for what must happen: long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it happens")
}

/// Tells when it is dropped.
#[derive(Debug)]
pub(crate) struct Tell(Sender<()>);

impl Tell {
    pub(crate) fn new() -> (Self, Receiver<()>) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), receiver)
    }
}

impl Drop for Tell {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}
