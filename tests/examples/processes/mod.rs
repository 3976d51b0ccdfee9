//! The examples of guards across several processes, run as a user runs them: with real processes, a real Redis, a real
//! PostgreSQL and real signals.

#![cfg(target_os = "linux")]

mod clients;
mod programs;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::Value;
use support::client::{Disconnect, PATIENCE, RawClient, web_client};
use support::process::Example;
use tokio::time::sleep;

use self::clients::{Clients, check_responses, post_limit};
use self::programs::{Processes, Store, Supervised, Turns, pid};

const MS: Duration = Duration::from_millis(1);
/// Longer than any test waits.
const ENDLESS: Duration = Duration::from_secs(120);
/// The lease that the examples set.
const LEASE: Duration = Duration::from_secs(3);

/// Runs the same scenarios for each store.
macro_rules! on_all_stores {
    ($($scenario:ident),* $(,)?) => {
        mod in_directory {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(super::Store::host()).await;
            })*
        }
        mod in_redis {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(super::Store::redis()).await;
            })*
        }
        mod in_postgres {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario(super::Store::postgres().await).await;
            })*
        }
    };
}

on_all_stores! {
    one_request_runs_at_a_time_although_a_process_is_killed_and_another_one_is_stopped,
    request_whose_client_leaves_runs_to_its_end_or_not_at_all,
    killed_process_frees_the_lock,
}

async fn one_request_runs_at_a_time_although_a_process_is_killed_and_another_one_is_stopped(store: Store) {
    let mut processes = Processes::start(&store, &["axum", "actix", "axum", "actix"], MS * 5).await;
    let ids: Vec<_> = (0..4).map(|process| processes.id(process)).collect();
    let clients: Vec<_> = processes.running.iter().map(|example| Clients::start(example.address, 3)).collect();
    processes.line(40).await;

    // The process that is killed is probably inside.
    let last = processes.output.lines().last().expect("lines are printed").text.clone();
    let killed =
        ids.iter().position(|id| last.contains(&format!("from {id},"))).expect("a process has printed the line");
    processes.running[killed].signal(Signal::KILL);
    let printed = processes.output.lines().len();
    processes.line(printed + 40).await;

    let stopped = (killed + 1) % 4;
    let stopped_at = Instant::now();
    processes.running[stopped].signal(Signal::TERM);
    assert_eq!(processes.running[stopped].exit_code().await, Some(0));
    let printed = processes.output.lines().len();
    processes.line(printed + 40).await;

    let mut tokens = Vec::new();
    for (process, clients) in clients.into_iter().enumerate() {
        let requests = clients.end().await;
        if process == killed {
            // Requests in progress end with their process. Requests that were answered before are checked with the
            // others.
            tokens.extend(requests.iter().filter_map(|sent| sent.response.as_ref()?.1["token"].as_u64()));
            continue;
        }
        tokens.extend(check_responses(&requests, (process == stopped).then_some(stopped_at)));
        if process != stopped {
            processes.running[process].signal(Signal::TERM);
            assert_eq!(processes.running[process].exit_code().await, Some(0));
        }
    }
    drop(processes.running);
    let turns = Turns::check(&processes.output.end(), &BTreeSet::from([ids[killed]]));
    assert_eq!(turns.processes(), ids.into_iter().collect());
    // Each response belongs to one turn. A killed process may have had turns without a response.
    let printed: BTreeSet<_> = turns.all.iter().map(|turn| turn.1).collect();
    let answered: BTreeSet<_> = tokens.iter().copied().collect();
    assert_eq!(answered.len(), tokens.len());
    assert!(answered.is_subset(&printed) && printed.len() - answered.len() <= 3, "{printed:?}, {answered:?}");
}

async fn request_whose_client_leaves_runs_to_its_end_or_not_at_all(store: Store) {
    let hold = MS * 1_000;
    let processes = Processes::start(&store, &["axum", "actix"], hold).await;
    let request = "POST /limit HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
    let mut printed = 0;
    for holder in 0..2 {
        let (inside, queued) = (&processes.running[holder], &processes.running[1 - holder]);
        let holding = RawClient::send(inside.address, request).await;
        let hello = processes.line(printed + 1).await;
        assert!(hello.text.starts_with(&format!("Hello from {},", inside.id())), "{}", hello.text);

        // One request waits for the other process, and one waits behind it.
        let first = RawClient::send(queued.address, request).await;
        let counts = |held, waiting| move |stats: &Value| stats["held"] == held && stats["waiting"] == waiting;
        queued.wait_for_stats("the first request waits for the other process", counts(1, 0)).await;
        let second = RawClient::send(queued.address, request).await;
        queued.wait_for_stats("the second request waits", counts(1, 1)).await;
        second.disconnect(Disconnect::Rst).await;
        first.disconnect(Disconnect::Fin).await;
        queued.wait_for_stats("both requests leave", counts(0, 0)).await;

        holding.disconnect(Disconnect::Fin).await;
        let bye = processes.line(printed + 2).await;
        assert!(bye.text.starts_with(&format!("bye from {},", inside.id())), "{}", bye.text);
        assert!(bye.at.duration_since(hello.at) > hold - hold / 4, "the handler was cut off");

        let sent = post_limit(queued.address).await;
        check_responses(&[sent], None);
        printed += 4;
        let next = processes.line(printed).await;
        assert!(next.text.starts_with(&format!("bye from {},", queued.id())), "{}", next.text);
        let waited = next.at.duration_since(bye.at);
        assert!(waited < hold + LEASE / 2, "the next request waited {waited:?}");
    }
    drop(processes.running);
    assert_eq!(Turns::check(&processes.output.end(), &BTreeSet::new()).all.len(), 4);
}

async fn killed_process_frees_the_lock(store: Store) {
    let processes = Processes::start(&store, &["axum", "actix", "axum"], ENDLESS).await;
    let mut requests = vec![tokio::spawn(post_limit(processes.running[0].address))];
    processes.line(1).await;
    for process in 0..2 {
        let next = &processes.running[process + 1];
        requests.push(tokio::spawn(post_limit(next.address)));
        next.wait_for_stats("the next process waits", |stats| stats["held"] == 1).await;
        // Long enough for the process to wait in the store.
        sleep(MS * 100).await;
        assert_eq!(processes.output.lines().len(), process + 1, "one process is inside");
        let killed = Instant::now();
        processes.running[process].signal(Signal::KILL);
        let hello = processes.line(process + 2).await;
        assert!(hello.text.starts_with(&format!("Hello from {},", next.id())), "{}", hello.text);
        let waited = hello.at.duration_since(killed);
        assert!(waited < store.outlasts_a_kill(), "the next process waited {waited:?}");
    }
    let killed = (0..2).map(|process| processes.id(process)).collect();
    drop(processes.running);
    assert_eq!(Turns::check(&processes.output.end(), &killed).all.len(), 3);
    for request in requests {
        assert!(request.await.expect("the client does not panic").response.is_none());
    }
}

#[tokio::test]
async fn processes_share_a_port_and_a_killed_one_is_replaced() {
    let store = Store::host();
    let mut command = store.command("axum", MS * 5);
    command.env_remove("WORKERS");
    let mut example = Supervised(Example::spawn(command, MS * 5).listening().await);
    example.wait_for_workers(4).await;
    let killed = *example.workers().first().expect("there are four");
    let clients = Clients::start(example.0.address, 12);
    example.0.wait_for_lines(100).await;
    check_responses(&clients.end().await, None);

    kill_process(pid(killed), Signal::KILL).expect("the process runs");
    example.wait_for_workers(5).await;

    let clients = Clients::start(example.0.address, 12);
    let printed = example.0.lines().len();
    example.0.wait_for_lines(printed + 100).await;
    let stopped = Instant::now();
    example.0.signal(Signal::TERM);
    check_responses(&clients.end().await, Some(stopped));
    assert_eq!(example.0.exit_code().await, Some(0));
    for worker in example.workers() {
        assert!(test_kill_process(pid(worker)).is_err(), "{worker} still runs");
    }
    let turns = Turns::check(&example.0.lines(), &BTreeSet::from([killed]));
    assert!(turns.processes().len() > 1, "the port leads to one process");
}

/// The connections that the other example has closed occupy the port for a minute.
#[tokio::test]
async fn shared_port_can_be_that_of_an_example_that_has_just_ended() {
    let store = Store::host();
    for framework in ["axum", "actix"] {
        let mut before = Example::start("axum_limit", MS).await;
        assert!(post_limit(before.address).await.response.is_some());
        before.signal(Signal::TERM);
        assert_eq!(before.exit_code().await, Some(0));

        let mut command = store.command(framework, MS);
        command.env("PORT", before.address.port().to_string());
        let example = Example::spawn(command, MS).listening().await;
        assert_eq!(example.address, before.address);
        check_responses(&[post_limit(example.address).await], None);
    }
}

#[tokio::test]
async fn handler_that_loses_its_lease_in_redis_is_cancelled() {
    handler_that_loses_its_lease_is_cancelled(Store::redis()).await;
}

#[tokio::test]
async fn handler_that_loses_its_lease_in_postgres_is_cancelled() {
    handler_that_loses_its_lease_is_cancelled(Store::postgres().await).await;
}

async fn handler_that_loses_its_lease_is_cancelled(store: Store) {
    for framework in ["axum", "actix"] {
        let example = Example::spawn(store.command(framework, ENDLESS), ENDLESS).listening().await;
        let request = tokio::spawn(post_limit(example.address));
        example.wait_for_lines(1).await;
        store.forget_locks().await;
        let (status, body) = request.await.expect("the client does not panic").response.expect("the server responds");
        assert_eq!(status, 503, "{body}");
        let kind = body["type"].as_str().unwrap_or_default();
        assert!(kind.ends_with("#lease-lost"), "{framework}: {body}");
        assert_eq!(example.texts().len(), 1, "{framework}: {}", example.printed());
    }
}

#[tokio::test]
async fn process_is_not_ready_while_its_store_does_not_answer() {
    let Store::Redis(mut server) = Store::redis() else { unreachable!("the variant is that of the call") };
    for framework in ["axum", "actix"] {
        let store = Store::Redis(server);
        let mut example = Example::spawn(store.command(framework, MS), MS).listening().await;
        let Store::Redis(back) = store else { unreachable!("the variant is that of the line above") };
        server = back;
        let readiness = async |expected: u16| {
            let began = Instant::now();
            loop {
                let response = web_client().get(example.url("/readyz")).send().await.expect("the server responds");
                if response.status() == expected {
                    return;
                }
                assert!(began.elapsed() < PATIENCE, "timed out: /readyz responds with {expected}");
                sleep(MS * 20).await;
            }
        };
        readiness(200).await;
        server.kill();
        readiness(503).await;
        let (status, body) = post_limit(example.address).await.response.expect("the server responds");
        assert_eq!(status, 503, "{body}");
        server.restart();
        readiness(200).await;
        check_responses(&[post_limit(example.address).await], None);
        example.signal(Signal::TERM);
        assert_eq!(example.exit_code().await, Some(0));
    }
}

#[test]
fn program_without_its_store_ends_with_a_line_that_starts_one() {
    let refused = "127.0.0.1:1";
    for name in ["axum_cluster", "actix_cluster"] {
        for (variable, url) in [("REDIS_URL", "redis"), ("DATABASE_URL", "postgres")] {
            let mut command = Example::command(name, ENDLESS);
            command.env_remove("REDIS_URL").env_remove("DATABASE_URL");
            let output = command.env(variable, format!("{url}://{refused}")).output().expect("the example starts");
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{name}: {error}");
            assert!(error.contains("can't be reached: check that it runs"), "{name}: {error}");
            assert!(error.contains("redis-server --save ''") && error.contains("docker run"), "{name}: {error}");
            assert!(output.stdout.is_empty(), "{name} does not listen");
        }
    }
}
