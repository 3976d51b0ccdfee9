//! The watched listener, and the link to a client.

use std::io::IoSlice;
use std::sync::Arc;

use axum::serve::Listener;
use onelane::web::ClientLink;
use onelane::web::axum::{WatchedListener, WatchedStream};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use support::http::{bytes, eventually, soon};

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port is free")
}

async fn watched() -> (WatchedStream, TcpStream) {
    let mut listener = WatchedListener::from(listener().await);
    let client =
        TcpStream::connect(listener.local_addr().expect("the listener is bound")).await.expect("the server listens");
    let (stream, peer) = listener.accept().await;
    assert_eq!(peer, client.local_addr().expect("the client is connected"));
    (stream, client)
}

async fn linked() -> (Arc<TcpStream>, TcpStream) {
    let listener = listener().await;
    let client =
        TcpStream::connect(listener.local_addr().expect("the listener is bound")).await.expect("the server listens");
    let (stream, _) = listener.accept().await.expect("a client connects");
    (Arc::new(stream), client)
}

#[tokio::test]
async fn watched_stream_carries_both_directions_and_their_ends() {
    let (mut stream, mut client) = watched().await;
    let up = bytes(3_000_000);
    let sent = up.clone();
    // More than the kernel has room for, so that both sides have to wait for each other.
    let peer = tokio::spawn(async move {
        client.write_all(&sent).await.expect("the server reads");
        client.shutdown().await.expect("the server is connected");
        let mut down = Vec::new();
        client.read_to_end(&mut down).await.expect("the server writes");
        down
    });
    let mut received = Vec::new();
    soon(stream.read_to_end(&mut received)).await.expect("the client writes");
    assert!(received == up);
    assert!(stream.is_write_vectored());
    let written = stream.write_vectored(&[IoSlice::new(b"two "), IoSlice::new(b"slices")]).await;
    assert_eq!(written.expect("the pool has room"), 10);
    soon(stream.write_all(&up)).await.expect("the client reads");
    stream.flush().await.expect("the client reads");
    stream.shutdown().await.expect("the client is connected");
    let down = soon(peer).await.expect("no panic");
    assert!(down.starts_with(b"two slices") && down[10..] == up);
}

/// As with tokio's own stream: a side that shuts down has nothing more to send, and need not know which side closed
/// first.
#[tokio::test]
async fn watched_stream_whose_client_reset_shuts_down_without_an_error() {
    let (mut stream, client) = watched().await;
    client.set_zero_linger().expect("the socket is a TCP socket");
    drop(client);
    stream.read_to_end(&mut Vec::new()).await.expect_err("the connection was reset");
    stream.shutdown().await.expect("nothing is left to shut down");
}

/// A task that waits for the client to disconnect must not keep the connection open after the server is done with it.
#[tokio::test]
async fn watched_stream_that_is_dropped_ends_the_connection_though_a_link_waits() {
    let mut listener = WatchedListener::from(listener().await);
    let mut client =
        TcpStream::connect(listener.local_addr().expect("the listener is bound")).await.expect("the server listens");
    let (stream, _) = listener.accept().await;
    // A server reads until nothing is left. From then on the link waits, where it polled repeatedly before.
    stream.as_ref().try_read(&mut [0]).expect_err("the client has sent nothing");
    let link = stream.link();
    let gone = tokio::spawn(async move { link.gone().await });
    tokio::task::yield_now().await;
    assert!(!gone.is_finished());
    drop(stream);
    let mut rest = Vec::new();
    soon(client.read_to_end(&mut rest)).await.expect("the connection ends in order");
    soon(gone).await.expect("no panic");
}

#[tokio::test]
async fn link_notices_its_client_disconnect_behind_unread_bytes() {
    let (stream, mut client) = linked().await;
    let link = ClientLink::new(&stream);
    assert_eq!(link.peer_addr(), client.local_addr().ok());
    client.write_all(b"unread").await.expect("the server is connected");
    stream.readable().await.expect("the client is connected");
    assert!(!link.is_gone());
    let gone = tokio::spawn({
        let link = link.clone();
        async move { link.gone().await }
    });
    client.shutdown().await.expect("the server is connected");
    soon(gone).await.expect("no panic");
    assert!(link.is_gone());
}

#[tokio::test]
async fn link_notices_its_client_reset() {
    let (stream, client) = linked().await;
    let link = ClientLink::new(&stream);
    assert!(!link.is_gone());
    client.set_zero_linger().expect("the socket is a TCP socket");
    drop(client);
    soon(link.gone()).await;
    assert!(link.is_gone());
}

#[tokio::test]
async fn link_keeps_no_connection_open() {
    let (stream, mut client) = linked().await;
    let link = ClientLink::new(&stream);
    drop(stream);
    assert_eq!(client.read(&mut [0]).await.expect("the connection was closed in order"), 0);
    assert!(link.is_gone(), "the server's end is closed");
    soon(link.gone()).await;
}

#[tokio::test]
async fn link_waits_as_long_as_its_client_stays() {
    let (stream, mut client) = linked().await;
    let link = ClientLink::new(&stream);
    let mut gone = tokio_test::task::spawn(link.gone());
    tokio_test::assert_pending!(gone.poll());
    client.write_all(b"more").await.expect("the server is connected");
    eventually("the link checks again", || gone.is_woken()).await;
    tokio_test::assert_pending!(gone.poll());
    stream.try_read(&mut [0; 4]).expect("the client is connected");
    tokio_test::assert_pending!(gone.poll());
}
