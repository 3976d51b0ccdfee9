//! Servers of axum and of actix-web that share a guard, together with other parts of the crate: a single flight, a
//! pool, a service host, clients that leave, and SIGTERM during requests.

use std::env;
use std::net::SocketAddr;
use std::process::{self, exit};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use actix_web::App;
use axum::Router;
use futures::future::join_all;
use onelane::backend::{Lease, LockDomain, Redis};
use onelane::background::ServiceHost;
use onelane::web::actix::{self, GuardMiddleware};
use onelane::web::axum::{self as web_axum, GuardLayer};
use onelane::{EndpointGuard, SingleFlight, run_blocking};
use rustix::process::Signal;
use support::client::PATIENCE;
use support::http::{self, Client};
use support::leak;
use support::process::Example;
use support::redis::RedisServer;
use support::runtimes::multi_thread;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::checked_store::{CheckedStore, Holder};
use super::{MS, guard};

const PROGRAM: &str = "ONELANE_TEST_SERVERS";

static LOCKS: LockDomain = LockDomain::new("shop");
static REPORT: EndpointGuard = EndpointGuard::builder("report").distributed(&LOCKS).build();
static PAGE: SingleFlight<u8, u8, String> = SingleFlight::builder("page").detached().build();
/// The store that the handlers write to.
static STORE: OnceLock<SocketAddr> = OnceLock::new();

/// Writes when it enters and when it leaves, and works on a pool in between.
async fn guarded() -> &'static str {
    let lease = Lease::current().expect("the guard has a lease");
    let mut holder = Holder::connect(*STORE.get().unwrap(), process::id()).await;
    assert!(holder.write("enter", &lease).await);
    let of_pool = lease.clone();
    let is_lost = run_blocking(move || {
        thread::sleep(MS * 3);
        of_pool.is_lost()
    });
    assert!(!is_lost.await.unwrap());
    assert!(holder.write("leave", &lease).await);
    "done"
}

/// Joins a run that takes the lock.
async fn flight() -> &'static str {
    let run = PAGE.run(1, || async {
        let guarded = REPORT.run(guarded()).await;
        guarded.map(|_| 1).map_err(|error| error.to_string())
    });
    run.await.map_or("failed", |_| "done")
}

#[allow(clippy::print_stdout, reason = "the parent reads stdout")]
async fn serve(framework: &str, host: ServiceHost) -> onelane::background::ShutdownReport {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    println!("listening on http://{}", listener.local_addr().unwrap());
    if framework == "axum" {
        use ::axum::routing::get;
        let app =
            Router::new().route("/guarded", get(guarded).layer(GuardLayer::new(&REPORT))).route("/flight", get(flight));
        listener.set_nonblocking(true).unwrap();
        return web_axum::serve(host, tokio::net::TcpListener::from_std(listener).unwrap(), app).await.unwrap();
    }
    let app = || {
        use actix_web::web::{get, resource};
        App::new()
            .service(resource("/guarded").wrap(GuardMiddleware::new(&REPORT)).route(get().to(guarded)))
            .route("/flight", get().to(flight))
    };
    actix::serve(host, move |drain| drain.http_server(app).workers(2).listen(listener)).await.unwrap()
}

/// Does nothing unless a test below starts it in a child process.
#[test]
#[allow(clippy::print_stdout, clippy::exit, reason = "the parent reads stdout and the exit code")]
fn program_of_the_tests_below() {
    let Ok(program) = env::var(PROGRAM) else { return };
    let [framework, store, url, drain] = program.split(' ').collect::<Vec<_>>()[..] else { panic!("{program}") };
    let drain = Duration::from_millis(drain.parse().unwrap());
    STORE.set(store.parse().unwrap()).unwrap();
    let redis = Redis::new(redis::Client::open(url).unwrap());
    let host = ServiceHost::builder().service(LOCKS.connect(redis)).manage(&REPORT).manage(&PAGE);
    let host = host.drain_timeout(drain).shutdown_timeout(drain * 2).build().unwrap();
    let report = multi_thread(2).block_on(serve(framework, host));
    println!("{report:?}");
    exit(report.exit_code().into());
}

/// Starts a server.
async fn start(framework: &str, store: &CheckedStore, redis: &RedisServer, drain: Duration) -> Example {
    let program = format!("{framework} {} {} {}", store.address, redis.url, drain.as_millis());
    Example::of_test("together::program_of_the_tests_below", &[(PROGRAM, &program)]).await
}

/// The results of a server's clients.
#[derive(Default)]
struct Answers {
    done: AtomicUsize,
    refused: AtomicUsize,
    left: AtomicUsize,
    /// The server is asked to stop.
    stops: AtomicBool,
    /// The server may reset connections that are made after the request to stop.
    may_reset: bool,
}

/// Sends requests, one after the other, until the server no longer accepts connections. Some clients leave before they
/// get an answer.
async fn send_requests(address: SocketAddr, answers: &'static Answers) {
    loop {
        let Ok(mut connection) = TcpStream::connect(address).await else {
            assert!(answers.stops.load(Ordering::SeqCst), "a connection is refused");
            return;
        };
        let is_late = answers.stops.load(Ordering::SeqCst);
        let path = ["/guarded", "/flight"][fastrand::usize(..2)];
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        if fastrand::u8(..4) == 0 {
            sleep(MS * fastrand::u32(..10)).await;
            connection.set_zero_linger().unwrap();
            answers.left.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let mut response = Vec::new();
        let read = timeout(PATIENCE, connection.read_to_end(&mut response)).await;
        let response = String::from_utf8_lossy(&response).into_owned();
        match response.split(' ').nth(1) {
            Some("200") if response.ends_with("done") => answers.done.fetch_add(1, Ordering::SeqCst),
            Some("503") => answers.refused.fetch_add(1, Ordering::SeqCst),
            // actix-web: the listener is paused for a moment before it is closed, as documented.
            None if answers.may_reset && is_late => return,
            _ => panic!("{path}: {read:?} {response:?}"),
        };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "the figures")]
async fn servers_answer_each_request_and_leave_no_lock_when_they_are_asked_to_stop() {
    let (redis, store) = (RedisServer::start(), CheckedStore::start().await);
    let starting = ["axum", "actix", "axum", "actix"];
    let starting =
        starting.map(async |framework| (start(framework, &store, &redis, PATIENCE).await, framework == "actix"));
    let servers = join_all(starting).await;
    let mut all = Vec::new();
    for (server, may_reset) in servers {
        let answers: &'static Answers = leak(Answers { may_reset, ..Answers::default() });
        let address = server.address;
        let clients: Vec<_> = (0..6).map(|_| tokio::spawn(send_requests(address, answers))).collect();
        all.push((server, answers, clients));
    }
    sleep(Duration::from_secs(1)).await;
    // Each server stops while the servers after it continue.
    for (mut server, answers, clients) in all {
        answers.stops.store(true, Ordering::SeqCst);
        server.signal(Signal::TERM);
        assert_eq!(server.exit_code().await, Some(0), "{}", server.printed());
        for client in clients {
            timeout(PATIENCE, client).await.unwrap().unwrap();
        }
        let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        let (done, refused, left) = (count(&answers.done), count(&answers.refused), count(&answers.left));
        println!("{done} done, {refused} refused, {left} left");
        assert!(done > 5, "{done} done, {refused} refused, {left} left");
    }
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut redis.connect()).unwrap();
    assert!(keys.iter().all(|key| key.ends_with(":fence")), "{keys:?}");
    assert_eq!((store.violations(), store.counts().overlaps, store.inside()), (Vec::new(), 0, None));
}

/// Another process has the lock for longer than the servers may take to stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_for_another_process_are_refused_in_time() {
    let (redis, store) = (RedisServer::start(), CheckedStore::start().await);
    let domain = leak(LockDomain::new("shop"));
    domain.connect(Redis::new(redis::Client::open(&*redis.url).unwrap())).await.unwrap();
    let _permit = leak(guard(domain)).acquire().await.unwrap();
    let stopping = ["axum", "actix"].map(async |framework| {
        let mut server = start(framework, &store, &redis, Duration::from_secs(2)).await;
        let address = server.address;
        let clients: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn(async move {
                    let mut client = Client::sending(address, http::get("/guarded")).await;
                    client.head().await
                })
            })
            .collect();
        // The first request waits for the other process, and the other requests wait for the first one.
        sleep(MS * 300).await;
        server.signal(Signal::TERM);
        for client in clients {
            let head = timeout(PATIENCE, client).await.unwrap().unwrap();
            assert!(head.starts_with("HTTP/1.1 503"), "{framework}: {head}");
        }
        assert_eq!(server.exit_code().await, Some(0), "{framework}: {}", server.printed());
    });
    join_all(stopping).await;
}
