//! [`websocket`], which ends WebSockets with their host.

use actix_web::rt::spawn;
use actix_web::web::Payload;
use actix_web::{Error, HttpRequest, HttpResponse};
use actix_ws::{CloseCode, CloseReason, Closed, Message, MessageStream, ProtocolError, Session};
use tokio_util::sync::CancellationToken;

use crate::background::HostHandle;
use crate::debug::impl_debug;

/// Accepts a WebSocket that ends when the host begins to stop.
///
/// By then [`recv`](DrainingSocket::recv) has sent a close frame with the code 1001 ("going away", RFC 6455, section
/// 7.4.1), and returns `None`, so that `handler` ends. [`serve`](super::serve()) waits until the frame is written. A
/// handler that does not call `recv` by the host's deadline loses its connection, and the report counts it among the
/// `requests`.
///
/// `handler` runs on the worker that has accepted the WebSocket.
///
/// ```no_run
/// use actix_web::{Error, HttpRequest, HttpResponse, web};
/// use onelane::background::HostHandle;
/// use onelane::web::actix::websocket;
///
/// async fn echo(
///     request: HttpRequest,
///     body: web::Payload,
///     host: web::Data<HostHandle>,
/// ) -> Result<HttpResponse, Error> {
///     websocket(&host, &request, body, |mut socket| async move {
///         while let Some(Ok(message)) = socket.recv().await {
///             if let actix_ws::Message::Text(text) = message
///                 && socket.session().text(text).await.is_err()
///             {
///                 break;
///             }
///         }
///     })
/// }
/// ```
///
/// # Errors
///
/// Fails if the request is not a WebSocket handshake. The error responds with status 400, or with 405 to another method
/// than GET.
pub fn websocket<F, R>(
    host: &HostHandle,
    request: &HttpRequest,
    body: Payload,
    handler: F,
) -> Result<HttpResponse, Error>
where
    F: FnOnce(DrainingSocket) -> R,
    R: Future<Output = ()> + 'static,
{
    let (response, session, messages) = actix_ws::handle(request, body)?;
    spawn(handler(DrainingSocket { session, messages, draining: host.draining() }));
    Ok(response)
}

/// A WebSocket that ends when its host begins to stop. Created by [`websocket`].
pub struct DrainingSocket {
    session: Session,
    messages: MessageStream,
    draining: CancellationToken,
}

impl DrainingSocket {
    /// Receives the next message. Returns `None` when the connection has ended, or when the host stops and the close
    /// frame was sent.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no message is lost.
    pub async fn recv(&mut self) -> Option<Result<Message, ProtocolError>> {
        tokio::select! {
            biased;
            () = self.draining.cancelled() => {}
            message = self.messages.recv() => return message,
        }
        let reason = CloseReason { code: CloseCode::Away, description: Some("the server stops".into()) };
        // The session may be closed already.
        let (Ok(()) | Err(Closed)) = self.session.clone().close(Some(reason)).await;
        None
    }

    /// Returns the session, which sends messages.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Returns a token that is cancelled when the host begins to stop, for a handler that does not wait in
    /// [`recv`](Self::recv). Such a handler calls `recv` once more before it ends, to close the connection in order.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.child_token()
    }
}

impl_debug!(DrainingSocket |this| { is_draining: this.draining.is_cancelled(), .. });
