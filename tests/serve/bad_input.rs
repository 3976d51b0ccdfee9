//! Clients that send input that no server understands, or that open connections and leave them unused.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use onelane::background::ShutdownReport;
use onelane::web::ServeConfig;
use support::http::{self, Client};
use support::waiting::PATIENCE;
use tokio::time::{sleep, timeout};

use super::{DRAIN, FRAMEWORKS, Framework, MS, TestServer};

/// The connection preface of HTTP/2 clients (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A SETTINGS frame that leaves all settings at their defaults.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Input that is not a request, or only a part of a request.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let random = |seed| fastrand::Rng::with_seed(seed);
    let header = |name: &str, length| format!("GET / HTTP/1.1\r\nhost: test\r\n{name}: {}\r\n\r\n", "x".repeat(length));
    let headers: String = (0..5_000).map(|n| format!("x-{n}: 1\r\n")).collect();
    // A TLS record with the beginning of a client hello.
    let hello = [&[0x16, 3, 1, 1, 0x2c, 1, 0, 1, 0x28, 3, 3][..], &[7; 64]].concat();
    let mut inputs = vec![
        ("a client hello", hello),
        ("a huge header", header("x-huge", 4 << 20).into_bytes()),
        ("many headers", format!("GET / HTTP/1.1\r\nhost: test\r\n{headers}\r\n").into_bytes()),
        ("an endless line", vec![b'a'; 1 << 20]),
        ("zeros", vec![0; 4096]),
        ("another version", b"GET / HTTP/9.9\r\nhost: test\r\n\r\n".to_vec()),
        ("a negative length", b"POST /body HTTP/1.1\r\nhost: test\r\ncontent-length: -1\r\n\r\n".to_vec()),
        ("two lengths", b"POST /body HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec()),
        ("no chunk", http::post_chunked("/body", &[]).replace_last(b"0\r\nx-sum: 42\r\n\r\n", b"zzz\r\n")),
        ("a preface and garbage", [PREFACE, &[0xff; 256]].concat()),
        ("half a preface", PREFACE[..7].to_vec()),
        ("most of a preface", PREFACE[..23].to_vec()),
    ];
    inputs.extend((1..=5).map(|seed| {
        ("random bytes", {
            let mut random = random(seed);
            (0..4096).map(|_| random.u8(..)).collect()
        })
    }));
    inputs
}

trait ReplaceLast {
    fn replace_last(self, end: &[u8], other: &[u8]) -> Self;
}

impl ReplaceLast for Vec<u8> {
    fn replace_last(mut self, end: &[u8], other: &[u8]) -> Self {
        assert!(self.ends_with(end));
        self.truncate(self.len() - end.len());
        self.extend_from_slice(other);
        self
    }
}

/// Sends each input from its own client. Checks that each connection ends, and that other clients are served meanwhile.
async fn each_connection_ends_and_other_clients_are_served(address: SocketAddr) {
    let inputs = garbage().into_iter().map(|(what, bytes)| async move {
        let mut client = Client::connect(address).await;
        // The server may end the connection before it has read everything.
        client.send_what_fits(&bytes).await;
        let response = timeout(PATIENCE / 2, client.rest()).await.unwrap_or_else(|_| panic!("{what} ends"));
        let head = String::from_utf8_lossy(&response[..response.len().min(12)]).into_owned();
        assert!(!head.contains(" 200"), "{what}: {head}");
    });
    let others = async {
        loop {
            let mut other = Client::sending(address, http::get("/")).await;
            assert_eq!(other.response().await.text(), "hello");
            sleep(MS * 5).await;
        }
    };
    tokio::select! {
        _ = join_all(inputs) => {}
        () = others => {}
    }
}

fn is_clean_and_early(report: &ShutdownReport, took: Duration) -> bool {
    report.is_clean() && took < DRAIN
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_its_connection_and_others_are_served() {
    for framework in FRAMEWORKS {
        let config = ServeConfig::new().header_timeout(Some(MS * 200)).first_byte_timeout(Some(MS * 200));
        let server = TestServer::start(framework, config).await;
        each_connection_ends_and_other_clients_are_served(server.address).await;
        let (report, took) = server.stop().await;
        assert!(is_clean_and_early(&report, took), "{framework:?} has a connection left: {took:?} {report:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_http2_client_does_not_delay_the_end_of_the_server() {
    for bytes in [&PREFACE[..7], &PREFACE[..23], PREFACE, &[PREFACE, SETTINGS].concat()] {
        let server = TestServer::start(Framework::Axum, ServeConfig::new()).await;
        let mut client = Client::sending(server.address, bytes).await;
        sleep(MS * 30).await;
        let (report, took) = server.stop().await;
        assert!(is_clean_and_early(&report, took), "{} bytes: {took:?} {report:?}", bytes.len());
        client.rest().await;
    }
}
