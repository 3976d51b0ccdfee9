//! Servers that systemd starts with a socket, and servers that are the first process of a container.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use actix_web::{App, web};
use axum::Router;
use axum::routing::get;
use listenfd::ListenFd;
use onelane::ServiceHost;
use onelane::web::{actix, axum as web_axum};
use rustix::process::{Pid, Signal, kill_process};
use support::http::{self, Client, eventually};
use support::process::Example;
use support::runtimes::multi_thread;
use tokio::time::sleep;

/// The framework, and how long the host waits for requests, in milliseconds.
const PROGRAM: &str = "ONELANE_TEST_STARTED_BY";
const WORK: Duration = Duration::from_millis(400);
const AMPLE: &str = "10000";

/// Returns the arguments with which this binary runs the program.
fn program() -> impl Iterator<Item = String> {
    let test = env::current_exe().unwrap().into_os_string().into_string().unwrap();
    let name = "started_by::program_of_the_tests_above";
    [test].into_iter().chain(Example::ONLY.map(String::from)).chain([name.to_owned()])
}

fn spawn(mut command: Command, framework: &str, drain: &str) -> Example {
    command.args(program()).env(PROGRAM, format!("{framework} {drain}"));
    Example::spawn(command, WORK)
}

/// Asks the process to stop in the middle of a request, which ends.
async fn stops_in_order(mut example: Example, process: Pid, mut client: Client) {
    example.wait_for("work begins").await;
    kill_process(process, Signal::TERM).unwrap();
    let response = client.response().await;
    assert_eq!((response.text(), response.header("connection")), ("done", Some("close")));
    assert_eq!(example.exit_code().await, Some(0), "{}", example.printed());
}

/// As systemd does it (sd_listen_fds(3)): the first socket has the descriptor 3, and the variables name the process.
#[tokio::test]
async fn server_drains_on_a_socket_that_it_was_started_with() {
    for framework in ["axum", "actix"] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&0 </dev/null"#, "sh"]);
        command.stdin(OwnedFd::from(listener.try_clone().unwrap()));
        // Connects before the server has started, as a socket unit allows.
        let client = Client::sending(address, http::get("/")).await;
        let example = spawn(command, framework, AMPLE).listening().await;
        assert_eq!(example.address, address);
        let process = Pid::from_raw(example.id().cast_signed()).unwrap();
        stops_in_order(example, process, client).await;
        // The socket is still open in the parent: the next process would serve these clients.
        Client::connect(address).await;
    }
}

#[tokio::test]
async fn server_drains_after_systemd_has_activated_it() {
    let activate = "systemd-socket-activate";
    if Command::new(activate).arg("--version").output().is_err() {
        return; // The test above does the same without systemd.
    }
    for framework in ["axum", "actix"] {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(activate);
        command.arg(format!("--listen={address}")).arg(format!("--setenv={PROGRAM}={framework} {AMPLE}"));
        let example = spawn(command, framework, AMPLE);
        // It becomes the server when the first client connects.
        eventually("systemd listens", || std::net::TcpStream::connect(address).is_ok()).await;
        let example = example.listening().await;
        let client = Client::sending(address, http::get("/")).await;
        let process = Pid::from_raw(example.id().cast_signed()).unwrap();
        stops_in_order(example, process, client).await;
    }
}

/// Starts the program as the first process of a namespace, or returns `None` if the system forbids that. The kernel
/// ignores signals that such a process does not handle.
async fn start_as_init(framework: &str, drain: &str) -> Option<(Example, Pid)> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
        command
    };
    unshare().arg("true").status().ok().filter(std::process::ExitStatus::success)?;
    let example = spawn(unshare(), framework, drain).listening().await;
    assert!(example.before.iter().any(|line| line.text.ends_with("process 1")), "{:?}", example.before);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", example.id())).unwrap();
    let child = children.trim().parse().ok().and_then(Pid::from_raw).unwrap();
    Some((example, child))
}

#[tokio::test]
async fn server_drains_as_the_first_process_of_a_container() {
    for framework in ["axum", "actix"] {
        let Some((example, process)) = start_as_init(framework, AMPLE).await else { return };
        let client = Client::sending(example.address, http::get("/")).await;
        stops_in_order(example, process, client).await;
    }
}

#[tokio::test]
async fn exit_code_of_the_first_process_of_a_container_reports_lost_work_and_a_second_signal() {
    for framework in ["axum", "actix"] {
        let Some((mut example, process)) = start_as_init(framework, "100").await else { return };
        let _client = Client::sending(example.address, http::get("/endless")).await;
        example.wait_for("work begins").await;
        kill_process(process, Signal::TERM).unwrap();
        assert_eq!(example.exit_code().await, Some(1), "{}", example.printed());
        let Some((mut example, process)) = start_as_init(framework, AMPLE).await else { return };
        let _client = Client::sending(example.address, http::get("/endless")).await;
        example.wait_for("work begins").await;
        kill_process(process, Signal::TERM).unwrap();
        example.wait_for("draining").await;
        sleep(Duration::from_millis(20)).await;
        kill_process(process, Signal::INT).unwrap();
        assert_eq!(example.exit_code().await, Some(128 + 2), "{}", example.printed());
    }
}

#[allow(clippy::print_stdout, reason = "the parent reads stdout")]
async fn work(duration: Duration) -> &'static str {
    println!("work begins");
    sleep(duration).await;
    "done"
}

/// Does nothing unless a test above starts it in a child process.
#[test]
#[allow(clippy::exit, clippy::print_stdout, reason = "the parent reads the exit code and stdout")]
fn program_of_the_tests_above() {
    let Ok(program) = env::var(PROGRAM) else { return };
    let (framework, drain) = program.split_once(' ').unwrap();
    let activated = ListenFd::from_env().take_tcp_listener(0).unwrap();
    let listener = activated.unwrap_or_else(|| TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap());
    println!("process {}", std::process::id());
    println!("listening on http://{}", listener.local_addr().unwrap());
    let host = ServiceHost::builder().drain_timeout(Duration::from_millis(drain.parse().unwrap())).build().unwrap();
    let draining = host.handle().draining().cancelled_owned();
    let endless = Duration::from_secs(3600);
    let report = multi_thread(2).block_on(async {
        tokio::spawn(async {
            draining.await;
            println!("draining");
        });
        if framework == "actix" {
            let app = move || {
                App::new()
                    .route("/", web::get().to(|| work(WORK)))
                    .route("/endless", web::get().to(move || work(endless)))
            };
            return actix::serve(host, move |drain| drain.http_server(app).workers(2).listen(listener)).await;
        }
        let app = Router::new().route("/", get(|| work(WORK))).route("/endless", get(move || work(endless)));
        listener.set_nonblocking(true).unwrap();
        web_axum::serve(host, tokio::net::TcpListener::from_std(listener).unwrap(), app).await
    });
    std::process::exit(report.unwrap().exit_code().into());
}
