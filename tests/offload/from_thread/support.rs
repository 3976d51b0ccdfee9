//! What these tests share.

use std::sync::mpsc::{self, Receiver, Sender};

/// Notifies its receiver when it is dropped.
#[derive(Debug)]
pub(crate) struct NotifyOnDrop(Sender<()>);

impl NotifyOnDrop {
    pub(crate) fn new() -> (Self, Receiver<()>) {
        let (sender, receiver) = mpsc::channel();
        (Self(sender), receiver)
    }
}

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}
