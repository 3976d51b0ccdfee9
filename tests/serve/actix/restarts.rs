//! Restarts under load: generations of servers take turns behind one listener.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use actix_web::{App, HttpServer, web};
use onelane::ServiceHost;
use onelane::web::actix::serve;
use support::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::{ALONE, MS};

const CLIENTS: usize = 24;

/// Requests that were answered, and requests that were lost.
#[derive(Default)]
struct Counts {
    served: AtomicUsize,
    lost: AtomicUsize,
    has_ended: AtomicBool,
}

/// Takes the worker's thread for a moment, so that connections wait for the workers.
async fn busy() -> &'static str {
    thread::sleep(MS);
    "done"
}

/// Sends requests one after the other, over connections that each serve one or as many as the server allows.
async fn send_requests(address: SocketAddr, keeps_alive: bool, counts: Arc<Counts>) {
    let request =
        if keeps_alive { http::get("/") } else { http::get("/").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n") };
    while !counts.has_ended.load(Ordering::SeqCst) {
        // The listener is never closed, so this fails only if its queue is full.
        let Ok(mut stream) = TcpStream::connect(address).await else { continue };
        while !counts.has_ended.load(Ordering::SeqCst) {
            match exchange(&mut stream, &request).await {
                Ok(stays_open) => {
                    counts.served.fetch_add(1, Ordering::SeqCst);
                    if !stays_open {
                        break;
                    }
                }
                Err(_) => {
                    counts.lost.fetch_add(1, Ordering::SeqCst);
                    break;
                }
            }
        }
    }
}

/// Returns `true` if the connection may serve another request.
async fn exchange(stream: &mut TcpStream, request: &str) -> io::Result<bool> {
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    while !response.ends_with(b"done") {
        if stream.read_buf(&mut response).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(!String::from_utf8_lossy(&response).to_lowercase().contains("connection: close"))
}

/// A generation of the server. Sending ends it.
async fn drained_generation(listener: TcpListener) -> impl AsyncFnOnce() {
    let host = ServiceHost::builder().without_signals().build().unwrap();
    let handle = host.handle();
    let app = || App::new().route("/", web::get().to(busy));
    let serving = serve(host, move |drain| drain.http_server(app).workers(1).listen(listener));
    let serving = tokio::spawn(serving.into_future());
    while !handle.status().is_ready() {
        sleep(MS).await;
    }
    async move || {
        handle.request_shutdown();
        let report = serving.await.unwrap().unwrap();
        assert!(report.is_clean(), "{report:?}");
    }
}

async fn plain_generation(listener: TcpListener) -> impl AsyncFnOnce() {
    let app = || App::new().route("/", web::get().to(busy));
    let server = HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap().run();
    let handle = server.handle();
    let serving = tokio::spawn(server);
    sleep(MS * 20).await;
    async move || {
        handle.stop(true).await;
        serving.await.unwrap().unwrap();
    }
}

/// Restarts a server until `is_enough` of the counts. Returns how many requests were served and lost.
async fn restart<G, E>(
    keeps_alive: bool,
    start: impl Fn(TcpListener) -> G,
    is_enough: impl Fn(usize, &Counts) -> bool,
) -> (usize, usize)
where
    G: Future<Output = E>,
    E: AsyncFnOnce(),
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let counts = Arc::new(Counts::default());
    let mut end = start(listener.try_clone().unwrap()).await;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(send_requests(address, keeps_alive, Arc::clone(&counts)));
    }
    let mut restarts = 0;
    while !is_enough(restarts, &counts) {
        let next = start(listener.try_clone().unwrap()).await;
        end().await;
        end = next;
        restarts += 1;
    }
    counts.has_ended.store(true, Ordering::SeqCst);
    clients.join_all().await;
    end().await;
    (counts.served.load(Ordering::SeqCst), counts.lost.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_under_load_lose_no_request() {
    let _alone = ALONE.lock().await;
    let restarts = crate::rolling_restart::restarts() / 2;
    for keeps_alive in [false, true] {
        let (served, lost) = restart(keeps_alive, drained_generation, |n, _| n == restarts).await;
        assert!(served > restarts * CLIENTS, "{served}");
        assert_eq!(lost, 0, "of {served}, keep-alive: {keeps_alive}");
    }
}

/// The test above can only fail if this one does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_with_the_graceful_stop_of_the_framework_lose_requests() {
    let _alone = ALONE.lock().await;
    let has_lost = |n: usize, counts: &Counts| n == 100 || counts.lost.load(Ordering::SeqCst) > 0;
    let (served, lost) = restart(true, plain_generation, has_lost).await;
    assert!(lost > 0, "of {served}");
}
