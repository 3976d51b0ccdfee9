//! An axum server on its own thread.

use std::net::SocketAddr;
use std::thread;

use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Serves `app` on its own thread, so that the server limits the rate.
pub(crate) fn serve(app: Router) -> SocketAddr {
    serve_on(runtime(), app)
}

pub(crate) fn serve_on(runtime: Runtime, app: Router) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("the listener is bound");
    thread::spawn(move || serve_here(&runtime, listener, app));
    address
}

/// Serves `app` on this thread, for as long as the process lives.
pub(crate) fn serve_here(runtime: &Runtime, listener: std::net::TcpListener, app: Router) {
    listener.set_nonblocking(true).expect("a socket can be made non-blocking");
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).expect("the socket is non-blocking");
        axum::serve(listener, app).await.expect("the server runs until the process exits");
    });
}
