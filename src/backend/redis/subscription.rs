//! [`message`], which waits for a message about a lock.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::super::waiters::Waiter;
use super::server::Node;

/// How long a subscription outlasts its last waiter, so that a caller that waits again needs no new subscription.
const LINGER: Duration = Duration::from_millis(100);

/// Waits for a message on a channel of a server. The subscription is requested in the first poll, over the same
/// connection as attempts, so the server handles it before any later attempt.
pub(super) async fn message(node: &Arc<Node>, channel: String, runtime: &Handle) {
    let waiting = Waiting { waiter: node.connector().waiters.add(channel), node, runtime };
    let waiter = &waiting.waiter;
    let mut released = pin!(waiter.released.notified());
    released.as_mut().enable();
    if waiter.is_first {
        // If the call fails, callers still check from time to time, and the next connection subscribes again.
        let subscribe = |mut connection: MultiplexedConnection| async move {
            connection.subscribe(&waiter.channel).await.map_err(|error| node.connector().explain(error))
        };
        let _ = node.call(subscribe).await;
    }
    released.await;
}

/// A caller that waits for a release. Dropping it ends the wait.
struct Waiting<'a> {
    waiter: Waiter,
    node: &'a Arc<Node>,
    runtime: &'a Handle,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.waiter.leave() {
            self.runtime.spawn(unsubscribe(Arc::clone(self.node), self.waiter.channel.clone()));
        }
    }
}

/// Ends a subscription some time after its last waiter has left.
async fn unsubscribe(node: Arc<Node>, channel: String) {
    loop {
        sleep(LINGER).await;
        if node.connector().waiters.remove_unused(&channel) {
            break;
        }
    }
    // Without a connection there is no subscription.
    if let Some((_, mut connection)) = node.current() {
        let _ = connection.unsubscribe(channel).await;
    }
}
