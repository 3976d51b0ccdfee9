//! [`websocket`], which ends WebSockets with their host.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::thread;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::rt::spawn;
use actix_web::web::{Bytes, Payload};
use actix_web::{Error, HttpRequest, HttpResponse};
use actix_ws::{CloseCode, CloseReason, Closed, Message, MessageStream, ProtocolError, Session};
use tokio_util::sync::CancellationToken;

#[cfg(unix)]
use super::serve::ServedConnection;
use crate::background::HostHandle;
use crate::debug::impl_debug;
use crate::detached::DetachedEntry;

/// Accepts a WebSocket that ends when the host begins to stop.
///
/// At that point, [`recv`](DrainingSocket::recv) sends a close frame with the code 1001 ("going away", RFC 6455,
/// section 7.4.1) and returns `None`, so that `handler` ends. A handler that does not call `recv` by the host's
/// deadline loses its connection, and the report counts it among the `requests`.
///
/// `handler` runs on the worker that has accepted the WebSocket. Whatever `handler` does after the end of the
/// connection counts as work that [continues without its client](crate::detached), under the name `websocket`, and
/// [`serve`](super::serve()) waits for it.
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
/// Fails if the request is not a WebSocket handshake. The error responds with status 400, or with 405 if the method is
/// not GET.
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
    let socket = Rc::new(RefCell::new(SocketState::Open));
    let end = HandlerEnd { socket: Rc::clone(&socket), has_ended: false };
    let handler = handler(DrainingSocket { session, messages, draining: host.draining() });
    spawn(async move {
        let mut end = end;
        handler.await;
        end.has_ended = true;
    });
    let request = request.clone();
    Ok(response.map_body(|_, body| SocketBody { body, socket, request }.boxed()))
}

/// The state of a WebSocket, whose connection or handler may end first.
enum SocketState {
    Open,
    /// The connection has ended, and the handler continues.
    Detached(DetachedEntry),
    /// The handler has ended.
    Ended,
}

/// The body of the response, which is dropped when the connection ends.
struct SocketBody {
    body: BoxBody,
    socket: Rc<RefCell<SocketState>>,
    request: HttpRequest,
}

impl MessageBody for SocketBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

impl Drop for SocketBody {
    fn drop(&mut self) {
        let mut socket = self.socket.borrow_mut();
        // The report has already counted a connection that was cut off.
        if matches!(*socket, SocketState::Open) && !is_cut(&self.request) {
            *socket = SocketState::Detached(DetachedEntry::new("websocket"));
        }
    }
}

/// Returns `true` if the server has cut the connection off.
#[cfg(unix)]
fn is_cut(request: &HttpRequest) -> bool {
    request.conn_data::<ServedConnection>().is_some_and(|ServedConnection(open)| open.connection().is_cut())
}

#[cfg(not(unix))]
fn is_cut(_: &HttpRequest) -> bool {
    false
}

/// Dropped with the handler.
struct HandlerEnd {
    socket: Rc<RefCell<SocketState>>,
    /// The handler has run to its end.
    has_ended: bool,
}

impl Drop for HandlerEnd {
    fn drop(&mut self) {
        let socket = self.socket.replace(SocketState::Ended);
        if let SocketState::Detached(mut entry) = socket
            // Otherwise the worker has ended, and has dropped the handler.
            && (self.has_ended || thread::panicking())
        {
            entry.finish();
        }
    }
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
    /// [`recv`](Self::recv). Such a handler calls `recv` once more before it ends, to close the connection cleanly.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.child_token()
    }
}

impl_debug!(DrainingSocket |this| { is_draining: this.draining.is_cancelled(), .. });
