//! Locks in a real PostgreSQL.

use std::time::Duration;

use onelane::backend::{LeaseId, LockBackend, LockDomain, LockName, Owner, Postgres, conformance};
use support::client::PATIENCE;
use support::leak;
use support::postgres::{PgBouncer, PostgresServer};
use support::proxy::{Disturbance, Proxy};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls};

use crate::stores::{LEASE, connect_error, is_held, late_attempt_takes_nothing, process, take, text};

pub(crate) fn store(settings: &str) -> Postgres {
    let settings = settings.to_owned();
    let connect = move || {
        let settings = settings.clone();
        async move { tokio_postgres::connect(&settings, NoTls).await }
    };
    Postgres::new(connect).lease(LEASE)
}

async fn connected(settings: &str) -> Postgres {
    let store = store(settings);
    store.connect("shop").await.unwrap();
    store
}

fn through(server: &PostgresServer, proxy: &Proxy) -> String {
    server.settings().replace(&server.address().port().to_string(), &proxy.address.port().to_string())
}

pub(crate) async fn count_rows(client: &Client) -> i64 {
    client.query_one("SELECT count(*) FROM onelane_locks", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_all_rules_of_backends() {
    let server = PostgresServer::start().await;
    let violations = conformance::check(|| store(&server.settings()).listen()).await;
    assert!(violations.is_empty(), "{violations:#?}");
    assert_eq!(count_rows(&server.connect().await).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_without_notifications_breaks_one_rule() {
    let server = PostgresServer::start().await;
    let violations = conformance::check(|| store(&server.settings()).table("public.locks")).await;
    let rules: Vec<_> = violations.iter().map(conformance::Violation::rule).collect();
    assert_eq!(rules, ["a process that waits is woken by a release, and not before"], "{violations:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pooler_in_transaction_mode_breaks_no_other_rule() {
    let server = PostgresServer::start().await;
    let pooler = PgBouncer::start(&server).await;
    let violations = conformance::check(|| store(&pooler.settings())).await;
    let rules: Vec<_> = violations.iter().map(conformance::Violation::rule).collect();
    assert_eq!(rules, ["a process that waits is woken by a release, and not before"], "{violations:#?}");

    let (one, other) = (process(store(&pooler.settings())).await, process(store(&pooler.settings())).await);
    for _ in 0..20 {
        let permit = one.guard.acquire().await.unwrap();
        let waiting = tokio::spawn(other.guard.acquire());
        sleep(Duration::from_millis(10)).await;
        assert!(!waiting.is_finished());
        permit.release().await.unwrap();
        waiting.await.unwrap().unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_and_release_are_one_round_trip_each() {
    let server = PostgresServer::start().await;
    let proxy = Proxy::start(server.address()).await;
    let store = connected(&through(&server, &proxy)).await;
    let name = LockName::new("report", None);
    let requests = proxy.requests();
    for _ in 0..100 {
        let lease = take(&store, &name).await.unwrap();
        store.release(&lease).await.unwrap();
    }
    assert_eq!(proxy.requests() - requests, 200);

    let mut leases = Vec::new();
    for number in 0..100 {
        leases.push(take(&store, &LockName::new("user", Some(&number.to_string()))).await.unwrap());
    }
    let requests = proxy.requests();
    assert_eq!(store.renew(&leases).await.unwrap(), vec![true; 100]);
    assert_eq!(proxy.requests() - requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_that_was_closed_while_idle_is_replaced_without_an_error() {
    let server = PostgresServer::start().await;
    let client = server.connect().await;
    let store = connected(&server.settings()).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
    for _ in 0..20 {
        client.batch_execute(kill).await.unwrap();
        let lease = take(&store, &LockName::new("report", None)).await.unwrap();
        store.release(&lease).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_restarts_keeps_locks_and_works_again() {
    let mut server = PostgresServer::start().await;
    let process = process(store(&server.settings())).await;
    let fence = process.notices_the_end_of_the_store(|| server.kill()).await;
    server.restart().await;
    process.works_again_with_larger_tokens(fence).await;
}

/// A firewall that forgets a connection behaves like this.
#[tokio::test(flavor = "multi_thread")]
async fn connection_that_is_silent_forever_is_replaced() {
    let server = PostgresServer::start().await;
    let proxy = Proxy::start(server.address()).await;
    process(store(&through(&server, &proxy))).await.survives_lost_connections(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disturbed_connections_hang_no_caller() {
    let server = PostgresServer::start().await;
    let proxy = Proxy::start(server.address()).await;
    process(store(&through(&server, &proxy))).await.survives_disturbances(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emptied_or_dropped_table_loses_locks_but_tokens_grow() {
    let server = PostgresServer::start().await;
    let client = server.connect().await;
    let process = process(store(&server.settings())).await;
    let mut last = 0;
    for statement in [
        "TRUNCATE onelane_locks",
        "TRUNCATE onelane_locks RESTART IDENTITY",
        "DROP TABLE onelane_locks",
        "DROP TABLE onelane_locks; DROP SEQUENCE onelane_locks_fence",
        "DROP SEQUENCE onelane_locks_fence",
    ] {
        let permit = process.guard.acquire().await.unwrap();
        let lease = permit.lease().unwrap().clone();
        assert!(lease.fence() > last, "{statement}");
        last = lease.fence();
        client.batch_execute(statement).await.unwrap();
        if statement != "DROP SEQUENCE onelane_locks_fence" {
            timeout(PATIENCE, lease.lost().cancelled()).await.unwrap_or_else(|_| panic!("{statement}: not lost"));
        }
        drop(permit);
    }
    let permit = process.guard.acquire().await.unwrap();
    assert!(permit.lease().unwrap().fence() > last);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_may_be_long_and_contain_anything() {
    let server = PostgresServer::start().await;
    let store = connected(&server.settings()).await;
    let random: String = std::iter::repeat_with(fastrand::alphanumeric).take(20_000).collect();
    let mut leases = Vec::new();
    for key in [random.clone(), random[1..].to_owned(), "a\0b".to_owned(), "a%00b".to_owned(), String::new()] {
        leases.push(take(&store, &LockName::new("user", Some(&key))).await.unwrap());
    }
    assert_eq!(store.renew(&leases).await.unwrap(), vec![true; leases.len()]);
    assert!(is_held(&store, &LockName::new("user", Some(&random))).await);
    for lease in &leases {
        store.release(lease).await.unwrap();
    }
    assert_eq!(count_rows(&server.connect().await).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_callers_leave_nothing_held() {
    let server = PostgresServer::start().await;
    let store = || store(&server.settings()).listen();
    let (one, other) = (process(store()).await, process(store()).await);
    one.drop_callers(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_permit_frees_the_lock_at_once() {
    let server = PostgresServer::start().await;
    process(store(&server.settings())).await.frees_its_lock_at_once(&connected(&server.settings()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempt_that_arrives_after_its_release_takes_nothing() {
    let server = PostgresServer::start().await;
    let proxy = Proxy::start(server.address()).await;
    let (store, other) = (connected(&through(&server, &proxy)).await, connected(&server.settings()).await);
    late_attempt_takes_nothing(&store, &other, &proxy).await;
}

/// The attempt waits in the server, and its caller has given up.
#[tokio::test(flavor = "multi_thread")]
async fn attempt_that_waits_for_too_long_takes_nothing() {
    let server = PostgresServer::start().await;
    let (store, other) = (connected(&server.settings()).await, connected(&server.settings()).await);
    let (name, owner) = (LockName::new("report", None), Owner::random());
    let client = server.connect().await;
    client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('shop/report/', 0))").await.unwrap();
    store.try_acquire(&name, owner, 1).await.expect_err("the attempt waits");
    store.release(&LeaseId::new(name.clone(), owner, None)).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    sleep(Duration::from_millis(300)).await;
    assert!(!is_held(&other, &name).await, "the attempt was executed after its release");
}

/// A caller that waits in the server for the end of another caller's transaction gets its token afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_follow_the_order_of_entry() {
    let server = PostgresServer::start().await;
    let client = server.connect().await;
    let store = leak(connected(&server.settings()).await);
    for _ in 0..5 {
        // An acquisition whose transaction takes long. The acquisition holds the gate of the lock, and has inserted the
        // row.
        client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('shop/report/', 0))").await.unwrap();
        let insert = "INSERT INTO onelane_locks VALUES ('shop', 'report', '', 'owner', 1, 'infinity')";
        client.batch_execute(insert).await.unwrap();
        let waiting = tokio::spawn(async { take(store, &LockName::new("report", None)).await });
        sleep(Duration::from_millis(200)).await;
        assert!(!waiting.is_finished());
        // The acquisition gets its token, and the lock is released.
        let row = client.query_one("SELECT nextval('onelane_locks_fence')", &[]).await.unwrap();
        client.batch_execute("DELETE FROM onelane_locks; COMMIT").await.unwrap();
        let lease = waiting.await.unwrap().unwrap();
        let earlier = row.get::<_, i64>(0) * 1_024;
        assert!(lease.fence.unwrap() > earlier.unsigned_abs(), "{:?} after {earlier}", lease.fence);
        store.release(&lease).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pooler_that_loses_notifications_is_a_clear_error() {
    let server = PostgresServer::start().await;
    let pooler = PgBouncer::start(&server).await;
    let error = connect_error(store(&pooler.settings()).listen()).await;
    assert!(error.contains("notifications do not arrive: connect without a pooler"), "{error}");
    connected(&pooler.settings()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_a_store_that_listens_are_planned_only_a_few_times() {
    let server = PostgresServer::start_with(&[
        "-c",
        "shared_preload_libraries=pg_stat_statements",
        "-c",
        "pg_stat_statements.track_planning=on",
    ])
    .await;
    let client = server.connect().await;
    client.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    let process = process(store(&server.settings()).listen()).await;
    for _ in 0..100 {
        process.turn().await.unwrap();
    }
    let count = "SELECT sum(calls)::int8, sum(plans)::int8 FROM pg_stat_statements WHERE query LIKE '%onelane_locks%'";
    let row = client.query_one(count, &[]).await.unwrap();
    let (calls, plans): (i64, i64) = (row.get(0), row.get(1));
    // The server plans a prepared statement several times before it keeps a plan.
    assert!(calls >= 200 && plans < 50, "{plans} plans for {calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_allows_no_writes_is_a_clear_error() {
    let server = PostgresServer::start_with(&["-c", "default_transaction_read_only=on"]).await;
    let error = connect_error(store(&server.settings())).await;
    assert!(error.contains("read-only"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_that_is_too_short_is_a_clear_error() {
    let server = PostgresServer::start().await;
    let proxy = Proxy::start(server.address()).await;
    proxy.disturb(Disturbance::Late(Duration::from_millis(50)));
    let error = connect_error(store(&through(&server, &proxy)).lease(Duration::from_millis(300))).await;
    assert!(error.contains("set a longer lease"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_clear_errors() {
    let server = PostgresServer::start().await;
    let settings = server.settings();
    let error = connect_error(store(&settings.replace("secret", "wrong"))).await;
    assert!(error.contains("refused user or password: set them in the connector"), "{error}");
    let error = connect_error(store(&settings.replace("dbname=postgres", "dbname=nowhere"))).await;
    assert!(error.contains("the database does not exist"), "{error}");
    let client = server.connect().await;
    client.batch_execute("CREATE TABLE other (name text)").await.unwrap();
    client.batch_execute("CREATE SEQUENCE other_fence").await.unwrap();
    let error = connect_error(store(&settings).table("other")).await;
    assert!(error.contains("has other columns: choose another name with table()"), "{error}");
    let domain = leak(LockDomain::new("shop").cohort(2_000, LEASE));
    let guard = leak(onelane::EndpointGuard::builder("report").distributed(domain).build());
    domain.connect(store(&settings)).await.unwrap();
    let error = guard.acquire().await.unwrap_err();
    assert!(text(&error).contains("a cohort has at most 1024 callers"), "{}", text(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_rights_are_clear_errors() {
    let server = PostgresServer::start().await;
    let client = server.connect().await;
    client.batch_execute("CREATE ROLE shop LOGIN PASSWORD 'secret'").await.unwrap();
    let settings = server.settings().replace("user=postgres", "user=shop");
    let error = connect_error(store(&settings)).await;
    assert!(error.contains("may not create it: execute"), "{error}");
    let definition = error.split_once("execute ").unwrap().1.rsplit_once(": db error").unwrap().0;
    client.batch_execute(definition).await.unwrap();
    let error = connect_error(store(&settings)).await;
    assert!(error.contains("lacks rights: GRANT SELECT, INSERT, UPDATE, DELETE ON \"onelane_locks\""), "{error}");
    client.batch_execute("GRANT SELECT, INSERT, UPDATE, DELETE ON onelane_locks TO shop").await.unwrap();
    let error = connect_error(store(&settings)).await;
    assert!(error.contains("USAGE ON SEQUENCE \"onelane_locks_fence\""), "{error}");
    client.batch_execute("GRANT USAGE ON SEQUENCE onelane_locks_fence TO shop").await.unwrap();
    connected(&settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_is_a_clear_error() {
    let mut server = PostgresServer::start().await;
    let store_of_primary = connected(&server.settings()).await;
    let process = process(store(&server.settings())).await;
    server.set_standby(true).await;
    let error = connect_error(store(&server.settings())).await;
    assert!(error.contains("is a read-only standby: connect to the primary"), "{error}");
    assert!(store_of_primary.check().await.unwrap_err().to_string().contains("standby"));
    assert!(text(&process.turn().await.unwrap_err()).contains("standby"));
    server.set_standby(false).await;
    process.works_again().await;
    store_of_primary.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_server_is_a_clear_error() {
    let mut server = PostgresServer::start().await;
    let proxy = Proxy::start(server.address()).await;
    proxy.disturb(Disturbance::Silent);
    let error = connect_error(store(&through(&server, &proxy))).await;
    assert!(error.contains("did not answer within"), "{error}");
    server.kill();
    let error = connect_error(store(&server.settings())).await;
    assert!(error.contains("can't be reached: check that it runs"), "{error}");
}
