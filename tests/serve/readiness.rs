//! The readiness probe while a server drains.

use std::future::IntoFuture;
use std::net::SocketAddr;

use actix_web::App;
use onelane::ServiceHost;
use onelane::background::{HostError, HostHandle, ShutdownReport};
use onelane::web::{ServeConfig, actix, axum};
use support::waiting::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::{ALONE, MS};

/// Returns the status of the probe, or `None` if the server no longer serves.
async fn readiness(address: SocketAddr) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    response.split(' ').nth(1)?.parse().ok()
}

/// Stops a server that continues to accept connections for a while, as in Kubernetes.
async fn fails_before_connections_are_refused<F>(
    address: SocketAddr,
    host: HostHandle,
    serving: impl IntoFuture<IntoFuture = F>,
) where
    F: Future<Output = Result<ShutdownReport, HostError>> + Send + 'static,
{
    let serving = tokio::spawn(serving.into_future());
    while !host.status().is_ready() {
        sleep(MS).await;
    }
    assert_eq!(readiness(address).await, Some(200));
    host.request_shutdown();
    let mut responses = Vec::new();
    while responses.last() != Some(&None) {
        responses.push(soon("the server responds or is gone", readiness(address)).await);
        sleep(MS).await;
    }
    // The host decides on its own thread.
    let unready = responses.iter().skip_while(|response| **response == Some(200)).collect::<Vec<_>>();
    let [failing @ .., _] = &unready[..] else { unreachable!("the loop ends with it") };
    assert!(failing.len() > 5 && failing.iter().all(|response| **response == Some(503)), "{responses:?}");
    assert!(serving.await.unwrap().unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_fails_before_the_first_connection_is_refused_in_axum() {
    let _alone = ALONE.lock().await;
    let host = ServiceHost::builder().without_signals().build().unwrap();
    let (handle, listener) = (host.handle(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (address, app) = (listener.local_addr().unwrap(), axum::probes(host.handle()));
    fails_before_connections_are_refused(
        address,
        handle,
        axum::serve::<_, ::axum::Router>(host, listener, app).config(ServeConfig::new().kubernetes()),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_fails_before_the_first_connection_is_refused_in_actix() {
    let _alone = ALONE.lock().await;
    let host = ServiceHost::builder().without_signals().build().unwrap();
    let (handle, listener) = (host.handle(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, probes) = (listener.local_addr().unwrap(), host.handle());
    let app = move || App::new().service(actix::probes(probes.clone()));
    let serving = actix::serve(host, move |drain| drain.http_server(app).workers(2).listen(listener));
    let serving = serving.config(ServeConfig::new().drain_delay(MS * 300));
    fails_before_connections_are_refused(address, handle, serving).await;
}
