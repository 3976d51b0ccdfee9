//! The checked write of the documentation, in PostgreSQL.

use std::env;
use std::path::Path;
use std::time::Duration;

use onelane::backend::{LockDomain, Postgres};
use onelane::guard::Permit;
use rustix::process::Signal;
use support::leak;
use support::postgres::PostgresServer;
use support::process::Example;
use support::runtimes::current_thread;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls};

use super::{MS, PATIENCE, guard};

const LEASE: Duration = Duration::from_secs(1);
const SETTINGS: &str = "ONELANE_TEST_CHECKED_WRITE";
const CONTINUE: &str = "ONELANE_TEST_CHECKED_WRITE_CONTINUE";

/// Returns the statement of the documentation.
fn statement() -> &'static str {
    let source = include_str!("../../src/backend/mod.rs");
    let line = source.lines().find_map(|line| line.strip_prefix("//! UPDATE reports ").map(|_| &line[4..]));
    line.expect("the documentation of the module shows the statement")
}

async fn acquired(settings: &str) -> Permit<'static> {
    let domain = leak(LockDomain::new("shop"));
    let settings = settings.to_owned();
    let connect = move || {
        let settings = settings.clone();
        async move { tokio_postgres::connect(&settings, NoTls).await }
    };
    domain.connect(Postgres::new(connect).lease(LEASE)).await.unwrap();
    timeout(PATIENCE, leak(guard(domain)).acquire()).await.unwrap().unwrap()
}

/// Writes a total with the token of a permit. Returns `false` if the write is refused.
async fn write(client: &Client, total: i64, permit: &Permit<'_>) -> bool {
    let fence = i64::try_from(permit.lease().unwrap().fence()).unwrap();
    client.execute(statement(), &[&total, &fence, &1_i64]).await.unwrap() == 1
}

async fn total(client: &Client) -> i64 {
    client.query_one("SELECT total FROM reports WHERE id = 1", &[]).await.unwrap().get(0)
}

/// The process checks its lease, is stopped, and then writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_that_was_stopped_for_longer_than_its_lease_changes_nothing() {
    let server = PostgresServer::start().await;
    let client = server.connect().await;
    let table = "CREATE TABLE reports (id int8 PRIMARY KEY, total int8 NOT NULL, fence int8 NOT NULL)";
    client.batch_execute(&format!("{table}; INSERT INTO reports VALUES (1, 0, 0)")).await.unwrap();
    let may_continue = env::temp_dir().join(format!("onelane-continue-{:x}", fastrand::u64(..)));
    let variables = [(SETTINGS, server.settings()), (CONTINUE, may_continue.to_str().unwrap().to_owned())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let process = Example::of_test("checked_write::program_that_writes", &variables).await;
    assert_eq!(total(&client).await, 1);

    process.signal(Signal::STOP);
    let permit = acquired(&server.settings()).await;
    assert!(write(&client, 3, &permit).await && write(&client, 4, &permit).await, "one token may write several times");
    std::fs::write(&may_continue, "").unwrap();
    process.signal(Signal::CONT);
    process.wait_for("accepted:").await;
    std::fs::remove_file(&may_continue).unwrap();
    assert!(process.printed().contains("accepted: false, lost: true"), "{}", process.printed());
    assert_eq!(total(&client).await, 4);
}

/// Does nothing unless the test above starts it in a child process.
#[test]
#[allow(clippy::print_stdout, reason = "the parent waits for the lines")]
fn program_that_writes() {
    let Ok(settings) = env::var(SETTINGS) else { return };
    let may_continue = env::var(CONTINUE).unwrap();
    current_thread().block_on(async {
        let (client, connection) = tokio_postgres::connect(&settings, NoTls).await.unwrap();
        tokio::spawn(connection);
        let permit = acquired(&settings).await;
        let lease = permit.lease().unwrap();
        assert!(write(&client, 1, &permit).await && !lease.is_lost());
        println!("listening on http://127.0.0.1:1");
        while !Path::new(&may_continue).exists() {
            sleep(MS).await;
        }
        let accepted = write(&client, 2, &permit).await;
        println!("accepted: {accepted}, lost: {}", lease.is_lost());
        sleep(PATIENCE).await;
    });
}
