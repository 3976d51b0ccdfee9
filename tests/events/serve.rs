//! Served connections and background tasks.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::any;
use futures::stream;
use onelane::ServiceHost;
use onelane::web::axum::serve;
use onelane::web::{BackgroundTask, BackgroundTasks, BackgroundTasksConfig, ServeConfig, WhenFull};
use support::client::RawClient;
use support::waiting::until;
use tokio::net::TcpListener;

use crate::{SHORT, quiet_panic};

async fn handler(tasks: BackgroundTasks) {
    tasks.add("fails", async { Err::<(), _>("on purpose") }).unwrap();
    tasks.add("panics", async { quiet_panic() }).unwrap();
    tasks.add_task(BackgroundTask::new("hangs", std::future::pending::<()>()).timeout(SHORT)).unwrap();
    assert!(tasks.add("does not fit", async {}).is_err());
}

pub(crate) async fn scenario() {
    let app = Router::new()
        .route("/", any(handler))
        .route("/endless", any(|| async { Body::from_stream(stream::pending::<std::io::Result<Bytes>>()) }));
    run(app, BackgroundTasksConfig::new().max_queued(3), &["GET / ", "GET /endless "]).await;

    // The tasks of the first request wait for those of the one before, and give way to those of the last one.
    let add = |tasks: BackgroundTasks| async move { tasks.add("waits", tokio::time::sleep(SHORT * 2)).unwrap() };
    let tasks = BackgroundTasksConfig::new().max_running(1).max_queued(1).when_full(WhenFull::DropOldest);
    run(Router::new().route("/", any(add)), tasks, &["GET / "; 3]).await;
    tokio::task::spawn_blocking(actix_server_that_does_not_count_its_connections).await.unwrap();
}

fn actix_server_that_does_not_count_its_connections() {
    use actix_web::{App, HttpResponse, web};
    use onelane::web::actix::serve;

    actix_web::rt::System::new().block_on(async {
        let host = ServiceHost::builder().without_signals().build().unwrap();
        let handle = host.handle();
        let (send_address, address) = tokio::sync::oneshot::channel();
        let app = || App::new().default_service(web::to(|| async { HttpResponse::NoContent().finish() }));
        let server = serve(host, move |drain| {
            let server = drain.http_server(app).workers(1).on_connect(|_, _| {}).bind("127.0.0.1:0")?;
            send_address.send(server.addrs()[0]).unwrap();
            Ok(server)
        });
        let client = async {
            let mut client = RawClient::send(address.await.unwrap(), "GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
            client.read_until("\r\n\r\n").await;
            handle.request_shutdown();
        };
        let (report, ()) = tokio::join!(server.into_future(), client);
        assert!(report.unwrap().is_clean());
    });
}

/// Sends requests to a server one after the other, and half of another one, and stops the server.
async fn run(app: Router, tasks: BackgroundTasksConfig, requests: &[&str]) {
    let host = ServiceHost::builder().drain_timeout(SHORT * 5).without_signals().build().unwrap();
    let handle = host.handle();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = ServeConfig::new().header_timeout(Some(SHORT)).background_tasks(tasks);
    let server = tokio::spawn(serve(host, listener, app).config(config).into_future());
    until("the server runs", || handle.status().is_ready()).await;
    let mut slow = RawClient::send(address, "GET").await;
    slow.until_closed().await;
    let mut clients = Vec::new();
    for request in requests {
        let mut client = RawClient::send(address, format!("{request}HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        client.read_until("\r\n\r\n").await;
        clients.push(client);
    }
    until("its tasks have ended", || onelane::detached::running().is_empty()).await;
    handle.request_shutdown();
    drop(server.await.unwrap().unwrap());
}
