//! What the tests have in common.

use std::sync::mpsc::{self, Receiver, Sender};

use tokio::runtime::{Builder, Runtime};

pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
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
