//! [`gather`], which lets a burst of news come together.

use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::yield_now;

use crate::background::host::Message;

/// News that come so soon after others are of a burst, as when many services start.
pub(super) const SOON: Duration = Duration::from_micros(50);
/// How long news may wait for others.
const LONGEST: Duration = Duration::from_millis(1);
/// How many news may.
const MOST: usize = 1024;
/// A burst is over when nothing has come so often.
const LULLS: u32 = 3;

/// Takes what else comes in the next moments.
///
/// A supervisor that parks after each of them has to be woken for the next, which takes longer than to handle it, and
/// publishes each alone. On a thread of its own it gives the others the processor, and on the server's runtime the turn.
pub(super) async fn gather(inbox: &mut UnboundedReceiver<Message>, batch: &mut Vec<Message>, has_own_thread: bool) {
    let start = Instant::now();
    let mut lulls = 0;
    while lulls < LULLS && batch.len() < MOST && start.elapsed() < LONGEST {
        if has_own_thread {
            thread::yield_now();
        } else {
            yield_now().await;
        }
        let before = batch.len();
        while let Ok(message) = inbox.try_recv() {
            batch.push(message);
        }
        lulls = if batch.len() == before { lulls + 1 } else { 0 };
    }
}
