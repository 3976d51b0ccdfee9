//! The port of their own: when it answers, and what clients can't do to each other there.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use onelane::background::{HostError, Supervision};
use tokio::runtime;

use crate::probes::{any_port, builder, gate, gated, open, steady};
use support::client::{Disconnect, RawClient, eventually};

/// Far more than an answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks without a runtime, and returns the status and what follows the head.
fn ask(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

fn status(address: SocketAddr, path: &str) -> Option<u16> {
    ask(address, path).map(|(status, _)| status)
}

#[test]
fn probes_are_answered_while_the_servers_runtime_is_blocked() {
    const BLOCKED: Duration = Duration::from_secs(5);
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let host = builder().service(steady("service")).probe_listener(any_port()).build().unwrap();
    let (handle, address) = (host.handle(), host.handle().probe_address().unwrap());
    let asker = runtime.block_on(async {
        host.start().await.unwrap();
        let began = Instant::now();
        let asker = thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            let mut answers = 0;
            while began.elapsed() < BLOCKED / 2 {
                let asked = Instant::now();
                for path in ["/livez", "/readyz?verbose", "/startupz"] {
                    assert_eq!(status(address, path), Some(200), "{path}");
                }
                slowest = slowest.max(asked.elapsed());
                answers += 1;
                // A pause of a thread, since nothing else of the process has a turn.
                thread::sleep(Duration::from_millis(20));
            }
            // Nor is the supervisor stuck: it takes the request to stop, and the probe tells.
            handle.request_shutdown();
            while status(address, "/readyz") == Some(200) {
                assert!(began.elapsed() < BLOCKED, "it is still ready");
            }
            let fell = began.elapsed();
            assert_eq!(status(address, "/livez"), Some(200));
            (answers, slowest, fell, began.elapsed())
        });
        // It is the thread of the server's runtime that has to be blocked.
        thread::sleep(BLOCKED);
        asker
    });
    let (answers, slowest, fell, ended) = asker.join().unwrap();
    assert!(ended < BLOCKED, "all answers came while the runtime was blocked: {ended:?}");
    assert!(answers > 20 && slowest < Duration::from_secs(1), "{answers} rounds, the slowest of {slowest:?}");
    assert!(fell < BLOCKED, "{fell:?}");
    runtime.block_on(host.shutdown()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn clients_of_a_host_that_starts_slowly_are_answered_meanwhile() {
    let [may_start, may_stop] = [gate(), gate()];
    let listener = any_port();
    let address = listener.local_addr().unwrap();
    let host = builder().service(gated("slow", &may_start, &may_stop)).probe_listener(listener).build().unwrap();
    assert_eq!(host.handle().probe_address(), Some(address), "before the start, too");
    // It is accepted with the start.
    let mut early = RawClient::send(address, "GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await;

    let start = async { host.start().await.unwrap() };
    let look = async {
        assert!(early.read_until("ok").await.starts_with("HTTP/1.1 200 "));
        assert_eq!(status(address, "/startupz"), Some(503));
        assert_eq!(status(address, "/livez"), Some(200));
        assert!(ask(address, "/startupz?verbose").unwrap().1.contains("[-]slow failed: starting"));
        open(&may_start);
    };
    tokio::join!(start, look);
    assert_eq!(status(address, "/startupz"), Some(200));

    let handle = host.handle();
    handle.request_shutdown();
    handle.draining().cancelled().await;
    assert_eq!(status(address, "/readyz"), Some(503));
    assert_eq!(status(address, "/livez"), Some(200));
    open(&may_stop);
    host.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn port_and_connections_are_closed_when_the_host_has_stopped() {
    // On the server's runtime, which lives on.
    for supervision in [Supervision::OwnThread, Supervision::ServerRuntime] {
        let host = builder().supervision(supervision).probe_listener(any_port()).build().unwrap();
        host.start().await.unwrap();
        let address = host.handle().probe_address().unwrap();
        let mut kept = RawClient::send(address, "GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await;
        kept.read_until("ok").await;
        let began = Instant::now();
        host.shutdown().await.unwrap();
        kept.until_closed().await;
        eventually("the port is closed", || status(address, "/livez").is_none()).await;
        TcpListener::bind(address).expect("nobody holds the port");
        assert!(began.elapsed() < Duration::from_secs(4), "an idle connection would be closed after 5");
    }
}

#[tokio::test]
async fn host_without_a_listener_has_no_address() {
    assert_eq!(builder().build().unwrap().handle().probe_address(), None);
}

#[tokio::test]
async fn host_that_never_starts_gives_its_port_back() {
    let listener = any_port();
    let address = listener.local_addr().unwrap();
    drop(builder().probe_listener(listener).build().unwrap());
    TcpListener::bind(address).expect("nobody holds the port");
}

#[cfg(unix)]
#[tokio::test]
async fn listener_that_is_none_fails_the_start() {
    use std::os::fd::OwnedFd;

    // A file, which no runtime can wait for.
    let file: OwnedFd = std::fs::File::open("/proc/self/status").unwrap().into();
    let host = builder().service(steady("service")).probe_listener(TcpListener::from(file)).build().unwrap();
    assert_eq!(host.handle().probe_address(), None);
    let error = host.start().await.unwrap_err();
    assert!(matches!(error, HostError::ProbeListener { .. }), "{error:?}");
    assert_eq!(error.to_string(), "the listener for probes can't be used");
    assert_eq!(error.exit_code(), 1);
    assert_eq!(host.status().service("service").unwrap().generation, 0, "nothing was started");
}

#[tokio::test]
async fn connection_is_kept_and_serves_one_request_after_the_other() {
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
async fn clients_that_send_nothing_or_half_a_request_disturb_nobody() {
    for supervision in [Supervision::OwnThread, Supervision::ServerRuntime] {
        let host = builder().supervision(supervision).probe_listener(any_port()).build().unwrap();
        host.start().await.unwrap();
        let address = host.handle().probe_address().unwrap();
        let mut slow = Vec::new();
        // Three times as many as there are connections.
        for index in 0..192 {
            let bytes = ["", "G", "GET /livez HTTP/1.1\r\nhost: test\r\nx-slow: "][index % 3];
            slow.push(RawClient::send(address, bytes).await);
            if index % 16 == 0 {
                let answer = tokio::task::spawn_blocking(move || status(address, "/readyz")).await.unwrap();
                assert_eq!(answer, Some(200), "behind {index} slow ones, {supervision:?}");
            }
        }
        for client in slow {
            client.disconnect(Disconnect::Rst).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn there_are_64_connections_and_the_oldest_makes_room() {
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
    // All of them are still served, the oldest too.
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
async fn client_that_does_not_send_its_request_is_closed() {
    let host = builder().probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let began = Instant::now();
    let mut client = RawClient::send(host.handle().probe_address().unwrap(), "GET /livez HT").await;
    client.until_closed().await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(4_900), "it has 5 seconds: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nonsense_and_endless_heads_are_refused() {
    let host = builder().probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let address = host.handle().probe_address().unwrap();
    let endless = format!("GET /livez HTTP/1.1\r\nx: {}", "x".repeat(20_000));
    let long = format!("GET /livez?exclude={} HTTP/1.1\r\nhost: test\r\n\r\n", "x".repeat(20_000));
    for (bytes, status_line) in [("\x16\x03\x01 hello\r\n\r\n", "400 "), (&*endless, "431 "), (&*long, "431 ")] {
        let mut client = RawClient::send(address, bytes).await;
        let answer = client.read_until("\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status_line}")), "{answer}");
        client.until_closed().await;
        assert_eq!(status(address, "/livez"), Some(200));
    }
}
