//! Tests of the dedicated port: when it responds, and that clients cannot affect each other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use onelane::background::{HostError, Supervision};
use tokio::runtime;

use crate::probes::{any_port, builder, gate, gated, open, steady};
use support::client::{Disconnect, RawClient, eventually};

/// Far more time than a response takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends a request without a runtime, and returns the status and the body.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let status = response.split(' ').nth(1)?.parse().ok()?;
    Some((status, response.split_once("\r\n\r\n")?.1.to_owned()))
}

fn status(address: SocketAddr, path: &str) -> Option<u16> {
    get(address, path).map(|(status, _)| status)
}

#[test]
fn probes_respond_while_the_server_runtime_is_blocked() {
    const BLOCKED: Duration = Duration::from_secs(5);
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let host = builder().service(steady("service")).probe_listener(any_port()).build().unwrap();
    let (handle, address) = (host.handle(), host.handle().probe_address().unwrap());
    let client = runtime.block_on(async {
        host.start().await.unwrap();
        let began = Instant::now();
        let client = thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            let mut rounds = 0;
            while began.elapsed() < BLOCKED / 2 {
                let sent = Instant::now();
                for path in ["/livez", "/readyz?verbose", "/startupz"] {
                    assert_eq!(status(address, path), Some(200), "{path}");
                }
                slowest = slowest.max(sent.elapsed());
                rounds += 1;
                // A real sleep: the process's only runtime is blocked.
                thread::sleep(Duration::from_millis(20));
            }
            // The supervisor is not blocked either: it handles the request to stop, and the probe shows it.
            handle.request_shutdown();
            while status(address, "/readyz") == Some(200) {
                assert!(began.elapsed() < BLOCKED, "the host is still ready");
            }
            let unready_after = began.elapsed();
            assert_eq!(status(address, "/livez"), Some(200));
            (rounds, slowest, unready_after, began.elapsed())
        });
        // The thread of the server's runtime has to be blocked.
        thread::sleep(BLOCKED);
        client
    });
    let (rounds, slowest, unready_after, ended) = client.join().unwrap();
    assert!(ended < BLOCKED, "all responses arrived while the runtime was blocked: {ended:?}");
    assert!(rounds > 20 && slowest < Duration::from_secs(1), "{rounds} rounds, the slowest took {slowest:?}");
    assert!(unready_after < BLOCKED, "{unready_after:?}");
    let _ = runtime.block_on(host.shutdown()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn probes_respond_during_a_slow_start() {
    let [may_start, may_stop] = [gate(), gate()];
    let listener = any_port();
    let address = listener.local_addr().unwrap();
    let host = builder().service(gated("slow", &may_start, &may_stop)).probe_listener(listener).build().unwrap();
    assert_eq!(host.handle().probe_address(), Some(address), "the address is known before the start");
    // The connection is accepted when the host starts.
    let mut early = RawClient::send(address, "GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await;

    let start = async { host.start().await.unwrap() };
    let check = async {
        assert!(early.read_until("ok").await.starts_with("HTTP/1.1 200 "));
        assert_eq!(status(address, "/startupz"), Some(503));
        assert_eq!(status(address, "/livez"), Some(200));
        assert!(get(address, "/startupz?verbose").unwrap().1.contains("[-]slow failed: starting"));
        open(&may_start);
    };
    tokio::join!(start, check);
    assert_eq!(status(address, "/startupz"), Some(200));

    let handle = host.handle();
    handle.request_shutdown();
    handle.draining().cancelled().await;
    assert_eq!(status(address, "/readyz"), Some(503));
    assert_eq!(status(address, "/livez"), Some(200));
    open(&may_stop);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn port_and_connections_are_closed_when_the_host_has_stopped() {
    // The server's runtime continues after the host has stopped.
    for supervision in [Supervision::OwnThread, Supervision::ServerRuntime] {
        let host = builder().supervision(supervision).probe_listener(any_port()).build().unwrap();
        host.start().await.unwrap();
        let address = host.handle().probe_address().unwrap();
        let mut kept = RawClient::send(address, "GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await;
        kept.read_until("ok").await;
        let began = Instant::now();
        let _ = host.shutdown().await.unwrap();
        kept.until_closed().await;
        eventually("the port is closed", || status(address, "/livez").is_none()).await;
        TcpListener::bind(address).expect("the port is free");
        assert!(began.elapsed() < Duration::from_secs(4), "only after 5 s would an idle connection be closed anyway");
    }
}

#[tokio::test]
async fn host_without_a_listener_has_no_address() {
    assert_eq!(builder().build().unwrap().handle().probe_address(), None);
}

#[tokio::test]
async fn host_that_never_starts_releases_its_port() {
    let listener = any_port();
    let address = listener.local_addr().unwrap();
    drop(builder().probe_listener(listener).build().unwrap());
    TcpListener::bind(address).expect("the port is free");
}

#[cfg(unix)]
#[tokio::test]
async fn invalid_listener_fails_the_start() {
    use std::os::fd::OwnedFd;

    // A regular file, which a runtime cannot poll.
    let file: OwnedFd = std::fs::File::open("/proc/self/status").unwrap().into();
    let host = builder().service(steady("service")).probe_listener(TcpListener::from(file)).build().unwrap();
    assert_eq!(host.handle().probe_address(), None);
    let error = host.start().await.unwrap_err();
    assert!(matches!(error, HostError::ProbeListener { .. }), "{error:?}");
    assert_eq!(error.to_string(), "the listener for probes could not be used");
    assert_eq!(error.exit_code(), 1);
    assert_eq!(host.status().service("service").unwrap().generation(), 0, "nothing was started");
}

#[tokio::test]
async fn connection_is_kept_alive_for_many_requests() {
    let host = builder().probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let request = "GET /livez?verbose HTTP/1.1\r\nhost: test\r\n\r\n";
    let mut client = RawClient::send(host.handle().probe_address().unwrap(), request.repeat(20)).await;
    let mut read = String::new();
    while read.matches("livez check passed").count() < 20 {
        read += &client.read_until("passed").await;
    }
    assert_eq!(read.matches("HTTP/1.1 200 ").count(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn clients_that_send_incomplete_requests_do_not_affect_others() {
    for supervision in [Supervision::OwnThread, Supervision::ServerRuntime] {
        let host = builder().supervision(supervision).probe_listener(any_port()).build().unwrap();
        host.start().await.unwrap();
        let address = host.handle().probe_address().unwrap();
        let mut slow = Vec::new();
        // Three times the maximum number of connections.
        for index in 0..192 {
            let bytes = ["", "G", "GET /livez HTTP/1.1\r\nhost: test\r\nx-slow: "][index % 3];
            slow.push(RawClient::send(address, bytes).await);
            if index % 16 == 0 {
                let status = tokio::task::spawn_blocking(move || status(address, "/readyz")).await.unwrap();
                assert_eq!(status, Some(200), "behind {index} slow clients, {supervision:?}");
            }
        }
        for client in slow {
            client.disconnect(Disconnect::Rst).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn connection_beyond_the_64th_closes_the_oldest() {
    let host = builder().probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let address = host.handle().probe_address().unwrap();
    let request = "GET /livez HTTP/1.1\r\nhost: test\r\n\r\n";
    let mut clients = Vec::new();
    for _ in 0..64 {
        let mut client = RawClient::send(address, request).await;
        client.read_until("ok").await;
        clients.push(client);
    }
    // All connections are still served, including the oldest.
    for client in &mut clients {
        client.send_again(request).await;
        client.read_until("ok").await;
    }
    let mut one_more = RawClient::send(address, request).await;
    one_more.read_until("ok").await;
    clients[0].until_closed().await;
    clients[1].send_again(request).await;
    clients[1].read_until("ok").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn client_that_does_not_finish_its_request_is_disconnected() {
    let host = builder().probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let began = Instant::now();
    let mut client = RawClient::send(host.handle().probe_address().unwrap(), "GET /livez HT").await;
    client.until_closed().await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(4_900), "a client has 5 seconds: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn invalid_and_oversized_heads_are_rejected() {
    let host = builder().probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let address = host.handle().probe_address().unwrap();
    let endless = format!("GET /livez HTTP/1.1\r\nx: {}", "x".repeat(20_000));
    let long = format!("GET /livez?exclude={} HTTP/1.1\r\nhost: test\r\n\r\n", "x".repeat(20_000));
    for (bytes, status_line) in [("\x16\x03\x01 hello\r\n\r\n", "400 "), (&*endless, "431 "), (&*long, "431 ")] {
        let mut client = RawClient::send(address, bytes).await;
        let response = client.read_until("\r\n").await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status_line}")), "{response}");
        client.until_closed().await;
        assert_eq!(status(address, "/livez"), Some(200));
    }
}
