//! [`websocket`], which ends WebSockets with their host.

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use tokio_util::sync::CancellationToken;

use crate::background::HostHandle;
use crate::debug::impl_debug;

/// Accepts a WebSocket that ends when the host begins to stop.
///
/// At that point, [`recv`](DrainingSocket::recv) sends a close frame with the code 1001 ("going away", RFC 6455,
/// section 7.4.1) and returns `None`, so that `handler` ends. [`serve`](crate::web::axum::serve()) waits for `handler`.
/// If `handler` does not end by the host's deadline, its connection is cut off, and the report counts it among the
/// `requests`.
///
/// ```no_run
/// use axum::extract::ws::WebSocketUpgrade;
/// use axum::response::Response;
/// use onelane::background::HostHandle;
/// use onelane::web::axum::websocket;
///
/// async fn echo(upgrade: WebSocketUpgrade, host: HostHandle) -> Response {
///     websocket(&host, upgrade, |mut socket| async move {
///         while let Some(Ok(message)) = socket.recv().await {
///             if socket.send(message).await.is_err() {
///                 break;
///             }
///         }
///     })
/// }
/// ```
pub fn websocket<F, R>(host: &HostHandle, upgrade: WebSocketUpgrade, handler: F) -> Response
where
    F: FnOnce(DrainingSocket) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let draining = host.draining();
    upgrade.on_upgrade(|socket| handler(DrainingSocket { socket, draining, has_sent_close: false }))
}

/// A WebSocket that ends when its host begins to stop. Created by [`websocket`].
pub struct DrainingSocket {
    socket: WebSocket,
    draining: CancellationToken,
    /// A close frame was sent because the host stops.
    has_sent_close: bool,
}

impl DrainingSocket {
    /// Receives the next message. Returns `None` when the connection has ended, or when the host stops and the client
    /// has confirmed the close frame.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no message is lost.
    pub async fn recv(&mut self) -> Option<Result<Message, axum::Error>> {
        if !self.has_sent_close {
            tokio::select! {
                biased;
                () = self.draining.cancelled() => {}
                message = self.socket.recv() => return message,
            }
            let frame = CloseFrame { code: close_code::AWAY, reason: "the server stops".into() };
            self.socket.send(Message::Close(Some(frame))).await.ok()?;
            self.has_sent_close = true;
        }
        // The client's last messages are discarded, because the handler is about to end.
        while !matches!(self.socket.recv().await?, Err(_) | Ok(Message::Close(_))) {}
        None
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// Fails if the connection has ended or the close frame has been sent.
    pub async fn send(&mut self, message: Message) -> Result<(), axum::Error> {
        self.socket.send(message).await
    }

    /// Returns a token that is cancelled when the host begins to stop, for a handler that does not wait in
    /// [`recv`](Self::recv). Such a handler calls `recv` once more before it ends, to close the connection cleanly.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.child_token()
    }
}

impl_debug!(DrainingSocket |this| { has_sent_close: this.has_sent_close, .. });
