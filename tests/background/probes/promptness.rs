//! How soon readiness falls. The machine that tests run on is busy with others, so what must hold each time is the order of
//! events, and a time is measured several times, of which the best one counts.

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

use crate::probes::{any_port, builder, gate, open, passed, steady};
use support::client::PATIENCE;

/// The promise.
const SOON: Duration = Duration::from_millis(5);
const TRIES: usize = 20;

/// A client that keeps its connection, so that a question costs one round.
struct Asker {
    stream: TcpStream,
    buffer: [u8; 4096],
}

impl Asker {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream, buffer: [0; 4096] }
    }

    fn is_ready(&mut self) -> bool {
        self.stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
        let length = self.stream.read(&mut self.buffer).unwrap();
        let answer = std::str::from_utf8(&self.buffer[..length]).unwrap();
        assert!(answer.ends_with("ok") || answer.ends_with("readyz check failed"), "{answer}");
        answer.starts_with("HTTP/1.1 200 ")
    }
}

/// A host with a server that ends when it may, and a client of its own port.
struct Running {
    handle: HostHandle,
    may_end: Arc<Semaphore>,
    run: JoinHandle<Result<ShutdownReport, HostError>>,
    asker: Asker,
}

impl Running {
    async fn start(builder: ServiceHostBuilder) -> Self {
        let may_end = gate();
        let host = builder.service(steady("service")).probe_listener(any_port()).build().unwrap();
        let handle = host.handle();
        let server_ends = Arc::clone(&may_end);
        let run = tokio::spawn(host.run_until(async move {
            passed(server_ends).await;
            Ok::<(), std::io::Error>(())
        }));
        support::client::eventually("it runs", || handle.status().phase == HostPhase::Running).await;
        let mut asker = Asker::connect(handle.probe_address().unwrap());
        assert!(asker.is_ready());
        Self { handle, may_end, run, asker }
    }

    /// Asks on its port, from another thread, until it is not ready any more. Returns the time from before `trigger` to the
    /// first 503, and what ends the host.
    async fn time_to_unready(self, trigger: impl FnOnce(&HostHandle)) -> (Duration, impl Future<Output = ()>) {
        let Self { handle, may_end, run, mut asker } = self;
        let asking = thread::spawn(move || {
            let start = Instant::now();
            while asker.is_ready() {
                assert!(start.elapsed() < PATIENCE, "it is still ready");
            }
            Instant::now()
        });
        // By the time that anybody is told of the stop, status and port say it.
        let drained = tokio::spawn({
            let handle = handle.clone();
            async move {
                handle.draining().cancelled().await;
                let (status, answer) = (handle.status(), handle.status().probe("/readyz").unwrap().status);
                assert!(status.phase == HostPhase::Draining && !status.is_ready() && answer == 503, "{status:?}");
                assert!(!Asker::connect(handle.probe_address().unwrap()).is_ready());
            }
        });
        let began = Instant::now();
        trigger(&handle);
        let fell = tokio::task::spawn_blocking(|| asking.join().unwrap()).await.unwrap();
        drained.await.unwrap();
        let end = async move {
            open(&may_end);
            assert!(run.await.unwrap().unwrap().is_clean());
        };
        (fell.duration_since(began), end)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_falls_within_5_ms_of_the_request_to_stop() {
    let mut times = Vec::new();
    for _ in 0..TRIES {
        let host = Running::start(builder()).await;
        let (time, end) = host.time_to_unready(HostHandle::request_shutdown).await;
        end.await;
        times.push(time);
    }
    times.sort();
    assert!(times[0] < SOON, "{times:?}");
}

/// The only test of this binary that sends its own process signals: they reach all hosts that listen.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_falls_within_5_ms_of_a_signal() {
    let terminate = |_: &HostHandle| kill_process(getpid(), Signal::TERM).unwrap();
    let long = Duration::from_secs(60);
    let start = || Running::start(ServiceHost::builder().drain_timeout(long).shutdown_timeout(2 * long));
    let (mut times, mut host) = (Vec::new(), start().await);
    for _ in 0..TRIES {
        let (time, end) = host.time_to_unready(terminate).await;
        // It listens before the other one ends, since a signal that no host listens to would end the process.
        host = start().await;
        end.await;
        times.push(time);
    }
    let (_, end) = host.time_to_unready(HostHandle::request_shutdown).await;
    end.await;
    times.sort();
    assert!(times[0] < SOON, "{times:?}");
}

#[tokio::test]
async fn connection_makes_one_answer_in_a_turn() {
    const REQUESTS: usize = 16;
    let host = builder().supervision(Supervision::ServerRuntime).probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let mut client = TcpStream::connect(host.handle().probe_address().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let (mut buffer, mut read) = ([0; 4096], String::new());
    let (mut turns, mut wanted) = (0, 1);
    client.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        while let Ok(length) = client.read(&mut buffer) {
            read += std::str::from_utf8(&buffer[..length]).unwrap();
        }
        let answers = read.matches("HTTP/1.1 200 ").count();
        if answers == 1 && wanted == 1 {
            // It is accepted. From here on this task and the connection's take turns on one thread.
            client.write_all("GET /livez HTTP/1.1\r\nhost: test\r\n\r\n".repeat(REQUESTS).as_bytes()).unwrap();
            (turns, wanted) = (0, 1 + REQUESTS);
        } else if answers == wanted {
            break;
        }
        assert!(Instant::now() < deadline, "{answers} answers");
        turns += 1;
        tokio::task::yield_now().await;
    }
    assert!(turns >= REQUESTS, "{REQUESTS} answers in {turns} turns");
}

/// Clients that ask as fast as they can, many times at once, for answers that take long to make. Returns the times from a
/// request to stop to its first effect, and to the end.
async fn times_under_a_flood() -> (Duration, Duration) {
    let services = (0..300).map(|index| steady(&format!("service number {index}")));
    let builder = services.fold(builder(), |builder, service| builder.service(service));
    let host = builder.probe_listener(any_port()).build().unwrap();
    host.start().await.unwrap();
    let (handle, address) = (host.handle(), host.handle().probe_address().unwrap());
    let answered = Arc::new(AtomicUsize::new(0));
    let client = |_| {
        let answered = Arc::clone(&answered);
        thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let requests = "GET /readyz?verbose HTTP/1.1\r\nhost: test\r\n\r\n".repeat(16);
            // Both end with the host, which closes its connections.
            let writing = thread::spawn(move || while writer.write_all(requests.as_bytes()).is_ok() {});
            let mut buffer = vec![0; 1 << 16];
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            stream.shutdown(Shutdown::Both).ok();
            writing.join().unwrap();
        })
    };
    let clients: Vec<_> = (0..40).map(client).collect();
    support::client::eventually("they are answered", || answered.load(Ordering::Relaxed) > 400).await;

    let asked = Instant::now();
    handle.request_shutdown();
    while handle.status().is_ready() {
        assert!(asked.elapsed() < PATIENCE, "it is still ready");
        thread::yield_now();
    }
    let fell = asked.elapsed();
    host.shutdown().await.unwrap();
    let stopped = asked.elapsed();
    clients.into_iter().for_each(|client| client.join().unwrap());
    (fell, stopped)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_ask_without_end_do_not_hold_up_the_supervisor() {
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(times_under_a_flood().await);
    }
    // It takes 1 to 7 ms.
    let (fell, stopped) = times.iter().min().unwrap();
    assert!(*fell < Duration::from_millis(30) && *stopped < Duration::from_millis(60), "{times:?}");
}
