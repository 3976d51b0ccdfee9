//! Tests of how fast a host becomes not ready. The machine may be busy, so each run asserts the order of events, while
//! times are measured several times and only the best one counts.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use onelane::background::{
    HostError, HostHandle, HostPhase, ServiceHost, ServiceHostBuilder, ShutdownReport, Supervision,
};
#[cfg(unix)]
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::probes::{any_port, builder, gate, open, pass, steady};
use support::client::PATIENCE;

/// The guaranteed time.
const LIMIT: Duration = Duration::from_millis(5);
const ROUNDS: usize = 20;

/// A client that keeps its connection, so that a request costs one round trip.
struct ProbeClient {
    stream: TcpStream,
    buffer: [u8; 4096],
}

impl ProbeClient {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream, buffer: [0; 4096] }
    }

    fn is_ready(&mut self) -> bool {
        self.stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
        let length = self.stream.read(&mut self.buffer).unwrap();
        let response = std::str::from_utf8(&self.buffer[..length]).unwrap();
        assert!(response.ends_with("ok") || response.ends_with("readyz check failed"), "{response}");
        response.starts_with("HTTP/1.1 200 ")
    }
}

/// A running host whose server ends when allowed to, and a client of the dedicated port.
struct RunningHost {
    handle: HostHandle,
    may_end: Arc<Semaphore>,
    run: JoinHandle<Result<ShutdownReport, HostError>>,
    client: ProbeClient,
}

impl RunningHost {
    async fn start(builder: ServiceHostBuilder) -> Self {
        let may_end = gate();
        let host = builder.service(steady("service")).probe_listener(any_port()).build().unwrap();
        let handle = host.handle();
        let server_ends = Arc::clone(&may_end);
        let run = tokio::spawn(host.run_until(async move {
            pass(server_ends).await;
            Ok::<(), std::io::Error>(())
        }));
        support::client::eventually("the host runs", || handle.status().phase() == HostPhase::Running).await;
        let mut client = ProbeClient::connect(handle.probe_address().unwrap());
        assert!(client.is_ready());
        Self { handle, may_end, run, client }
    }

    /// Polls the dedicated port from another thread until the host is not ready. Returns the time from before `trigger`
    /// until the first 503, and a future that ends the host.
    async fn time_to_unready(self, trigger: impl FnOnce(&HostHandle)) -> (Duration, impl Future<Output = ()>) {
        let Self { handle, may_end, run, mut client } = self;
        let polling = thread::spawn(move || {
            let start = Instant::now();
            while client.is_ready() {
                assert!(start.elapsed() < PATIENCE, "the host is still ready");
            }
            Instant::now()
        });
        // When `draining` is cancelled, the status and the port already show it.
        let drained = tokio::spawn({
            let handle = handle.clone();
            async move {
                handle.draining().cancelled().await;
                let (status, code) = (handle.status(), handle.status().probe("/readyz").unwrap().status());
                assert!(status.phase() == HostPhase::Draining && !status.is_ready() && code == 503, "{status:?}");
                assert!(!ProbeClient::connect(handle.probe_address().unwrap()).is_ready());
            }
        });
        let began = Instant::now();
        trigger(&handle);
        let unready_at = tokio::task::spawn_blocking(|| polling.join().unwrap()).await.unwrap();
        drained.await.unwrap();
        let end = async move {
            open(&may_end);
            assert!(run.await.unwrap().unwrap().is_clean());
        };
        (unready_at.duration_since(began), end)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_is_not_ready_within_5_ms_of_a_request_to_stop() {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let host = RunningHost::start(builder()).await;
        let (time, end) = host.time_to_unready(HostHandle::request_shutdown).await;
        end.await;
        times.push(time);
    }
    times.sort();
    assert!(times[0] < LIMIT, "{times:?}");
}

/// The only test in this binary that sends signals to its own process: they reach all hosts that listen.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_is_not_ready_within_5_ms_of_a_signal() {
    let terminate = |_: &HostHandle| kill_process(getpid(), Signal::TERM).unwrap();
    let long = Duration::from_secs(60);
    let start = || RunningHost::start(ServiceHost::builder().drain_timeout(long).shutdown_timeout(2 * long));
    let (mut times, mut host) = (Vec::new(), start().await);
    for _ in 0..ROUNDS {
        let (time, end) = host.time_to_unready(terminate).await;
        // The next host listens before this one ends: a signal without a listening host would end the process.
        host = start().await;
        end.await;
        times.push(time);
    }
    let (_, end) = host.time_to_unready(HostHandle::request_shutdown).await;
    end.await;
    times.sort();
    assert!(times[0] < LIMIT, "{times:?}");
}

#[tokio::test]
async fn connection_sends_at_most_one_response_per_poll() {
    const REQUESTS: usize = 16;
    let host = builder().supervision(Supervision::ServerRuntime).probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let mut client = TcpStream::connect(host.handle().probe_address().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let (mut buffer, mut read) = ([0; 4096], String::new());
    let (mut polls, mut expected) = (0, 1);
    client.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        while let Ok(length) = client.read(&mut buffer) {
            read += std::str::from_utf8(&buffer[..length]).unwrap();
        }
        let responses = read.matches("HTTP/1.1 200 ").count();
        if responses == 1 && expected == 1 {
            // The connection is accepted. From here on this task and that of the connection alternate on one thread.
            client.write_all("GET /livez HTTP/1.1\r\nhost: test\r\n\r\n".repeat(REQUESTS).as_bytes()).unwrap();
            (polls, expected) = (0, 1 + REQUESTS);
        } else if responses == expected {
            break;
        }
        assert!(Instant::now() < deadline, "{responses} responses");
        polls += 1;
        tokio::task::yield_now().await;
    }
    assert!(polls >= REQUESTS, "{REQUESTS} responses in {polls} polls");
}

/// Floods the port with pipelined requests for large responses. Returns the times from a request to stop until its
/// first effect, and until the end.
async fn times_under_a_flood() -> (Duration, Duration) {
    let services = (0..300).map(|index| steady(&format!("service number {index}")));
    let builder = services.fold(builder(), |builder, service| builder.service(service));
    let host = builder.probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let (handle, address) = (host.handle(), host.handle().probe_address().unwrap());
    let responses = Arc::new(AtomicUsize::new(0));
    let client = |_| {
        let responses = Arc::clone(&responses);
        thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let requests = "GET /readyz?verbose HTTP/1.1\r\nhost: test\r\n\r\n".repeat(16);
            // Both threads end with the host, which closes its connections.
            let writing = thread::spawn(move || while writer.write_all(requests.as_bytes()).is_ok() {});
            let mut buffer = vec![0; 1 << 16];
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                responses.fetch_add(1, Ordering::Relaxed);
            }
            stream.shutdown(Shutdown::Both).ok();
            writing.join().unwrap();
        })
    };
    let clients: Vec<_> = (0..40).map(client).collect();
    support::client::eventually("the clients get responses", || responses.load(Ordering::Relaxed) > 400).await;

    let requested = Instant::now();
    handle.request_shutdown();
    while handle.status().is_ready() {
        assert!(requested.elapsed() < PATIENCE, "the host is still ready");
        thread::yield_now();
    }
    let unready = requested.elapsed();
    let _ = host.shutdown().await.unwrap();
    let stopped = requested.elapsed();
    clients.into_iter().for_each(|client| client.join().unwrap());
    (unready, stopped)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_requests_does_not_delay_the_supervisor() {
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(times_under_a_flood().await);
    }
    // Typical times are 1 to 7 ms.
    let (unready, stopped) = times.iter().min().unwrap();
    assert!(*unready < Duration::from_millis(30) && *stopped < Duration::from_millis(60), "{times:?}");
}
