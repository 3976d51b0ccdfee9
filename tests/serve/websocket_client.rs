//! A client of WebSockets.

use std::net::SocketAddr;

use support::http::Client;

const UPGRADE: &str = "host: test\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Opens a WebSocket.
pub(super) async fn websocket_client(address: SocketAddr, path: &str) -> Client {
    let mut client = Client::sending(address, format!("GET {path} HTTP/1.1\r\n{UPGRADE}")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    client
}

/// A frame of a client, whose mask changes nothing.
pub(super) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// A client's answer to the close frame of the server.
pub(super) fn close_frame() -> Vec<u8> {
    frame(8, &1001_u16.to_be_bytes())
}

/// Asserts that the server has ended the WebSocket because it stops.
pub(super) fn assert_ends_with_close_frame(received: &[u8]) {
    let close = [&[0x88, 18][..], &1001_u16.to_be_bytes(), b"the server stops"].concat();
    assert!(received.ends_with(&close), "{received:?}");
}
