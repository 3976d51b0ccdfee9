//! What the connections of a watched listener report to handlers and to the guard, even if the listener is wrapped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use axum::serve::{Listener, ListenerExt};
use onelane::EndpointGuard;
use onelane::web::ClientLink;
use onelane::web::axum::{MakeLinkedService, WatchedListener};
use tokio::net::TcpListener;

use crate::axum::held_route;
use support::http::{self, Client, Disconnect, Probe, eventually};

/// An app, and the records of its connections.
struct Connections {
    app: Router,
    guard: Arc<EndpointGuard>,
    probe: Arc<Probe>,
    tapped: Arc<AtomicUsize>,
}

impl Connections {
    fn new() -> Self {
        let (guard, probe) = (Arc::new(EndpointGuard::new("watched")), Probe::new());
        let app = held_route(&guard, &probe)
            .route("/link", get(async |ConnectInfo(link): ConnectInfo<ClientLink>| format!("{:?}", link.peer_addr())))
            .route("/addr", get(async |ConnectInfo(addr): ConnectInfo<SocketAddr>| addr.to_string()));
        Self { app, guard, probe, tapped: Arc::default() }
    }

    /// Sets `TCP_NODELAY` and counts the streams that have it.
    fn tap<S>(
        &self,
        set_nodelay: impl Fn(&mut S) -> std::io::Result<bool> + Send + 'static,
    ) -> impl FnMut(&mut S) + Send + 'static {
        let tapped = Arc::clone(&self.tapped);
        move |stream| {
            tapped.fetch_add(usize::from(set_nodelay(stream).expect("the stream is a TCP stream")), Ordering::SeqCst);
        }
    }

    /// Asserts that a waiting request leaves the queue when its client disconnects, even if a pipelined request is
    /// unread. Only the link reports such a disconnect.
    async fn are_linked(&self, address: SocketAddr) {
        let mut holder = Client::sending(address, http::get("/")).await;
        eventually("its handler runs", || self.probe.started() == 1).await;
        let mut waiter = Client::sending(address, [http::get("/"), http::get("/")].concat()).await;
        eventually("the request waits", || self.guard.stats().waiting == 1).await;
        waiter.disconnect(Disconnect::Fin).await;
        eventually("it leaves the queue", || self.guard.stats().waiting == 0).await;
        self.probe.release(1);
        assert_eq!(holder.response().await.text(), "done");

        let mut client = Client::connect(address).await;
        let peer = client.local_addr();
        client.send(http::get("/link")).await;
        assert_eq!(client.response().await.text(), format!("{:?}", Some(peer)));
        client.send(http::get("/addr")).await;
        let response = client.response().await;
        match response.status {
            200 => assert_eq!(response.text(), peer.to_string()),
            status => assert_eq!(status, 500, "no extension holds the address"),
        }
    }

    async fn have_an_address(&self, address: SocketAddr) {
        let mut client = Client::sending(address, http::get("/addr")).await;
        let peer = client.local_addr();
        let response = client.response().await;
        assert_eq!((response.status, response.text()), (200, &*peer.to_string()));
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a port is free")
}

fn address(listener: &impl Listener<Addr = SocketAddr>) -> SocketAddr {
    listener.local_addr().expect("the listener is bound")
}

#[tokio::test]
async fn watched_listener_can_be_tapped() {
    let connections = Connections::new();
    let tap = connections.tap(|stream: &mut onelane::web::axum::WatchedStream| {
        stream.as_ref().set_nodelay(true)?;
        stream.as_ref().nodelay()
    });
    let listener = WatchedListener::from(listener().await).tap_io(tap);
    let address = address(&listener);
    let app = connections.app.clone().into_make_service_with_connect_info::<ClientLink>();
    tokio::spawn(axum::serve(listener, app).into_future());
    connections.are_linked(address).await;
    assert_eq!(connections.tapped.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn tapped_listener_can_be_watched() {
    let connections = Connections::new();
    let tap = connections.tap(|stream: &mut tokio::net::TcpStream| {
        stream.set_nodelay(true)?;
        stream.nodelay()
    });
    let listener = WatchedListener::from(listener().await.tap_io(tap));
    let address = address(&listener);
    let app = connections.app.clone().into_make_service_with_connect_info::<ClientLink>();
    tokio::spawn(axum::serve(listener, app).into_future());
    connections.are_linked(address).await;
    assert_eq!(connections.tapped.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn link_and_address_are_connect_info_of_one_app() {
    let connections = Connections::new();
    let listener = WatchedListener::from(listener().await);
    let address = address(&listener);
    tokio::spawn(axum::serve(listener, MakeLinkedService::new(connections.app.clone())).into_future());
    connections.are_linked(address).await;
    connections.have_an_address(address).await;
}

#[tokio::test]
async fn link_and_address_are_connect_info_behind_tapped_listeners() {
    let connections = Connections::new();
    let inner = listener().await.tap_io(connections.tap(|_| Ok(true)));
    let listener = WatchedListener::from(inner).tap_io(connections.tap(|_| Ok(true)));
    let address = address(&listener);
    tokio::spawn(axum::serve(listener, MakeLinkedService::new(connections.app.clone())).into_future());
    connections.are_linked(address).await;
    connections.have_an_address(address).await;
    assert_eq!(connections.tapped.load(Ordering::SeqCst), 8);
}
