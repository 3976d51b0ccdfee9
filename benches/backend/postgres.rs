//! Locks in PostgreSQL, beside a statement of the same client and the advisory locks of sqlx.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use criterion::Criterion;
use onelane::backend::Postgres;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgAdvisoryLock, PgConnectOptions, PgConnection};
use support::postgres::PostgresServer;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, Statement};

use crate::cohort::measure_cohort;
use crate::compare::{Repeated, compare};
use crate::hand_off::{Program, Reference, Variant, compare_hand_offs, serve};
use crate::harness::{is_selected, leak};
use crate::locks::{Locks, serve_guard, threads};
use crate::renewals::measure_renewals;

pub(crate) const GROUP: &str = "hand_off_postgres";

pub(crate) const VARIANTS: &[Variant] = &[
    Variant { name: "onelane_listen", program: Program::This(serve_listening), is_slow: false },
    Variant { name: "onelane", program: Program::This(serve_polling), is_slow: false },
    Variant { name: "sqlx_advisory", program: Program::This(serve_sqlx), is_slow: false },
];

fn store(settings: &str) -> Postgres {
    let settings = settings.to_owned();
    Postgres::new(move || {
        let settings = settings.clone();
        async move { tokio_postgres::connect(&settings, NoTls).await }
    })
}

/// A connection with a prepared statement that does nothing.
struct Raw {
    client: Client,
    select: Statement,
}

impl Raw {
    async fn connect(settings: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(settings, NoTls).await.expect("the server answers");
        tokio::spawn(connection);
        let select = client.prepare("SELECT 1").await.expect("the server answers");
        Self { client, select }
    }

    async fn round_trip(&self) {
        let row = self.client.query_one(&self.select, &[]).await.expect("the server answers");
        assert_eq!(row.get::<_, i32>(0), 1);
    }
}

async fn connect_sqlx(settings: &str) -> PgConnection {
    let mut options = PgConnectOptions::new();
    for (name, value) in settings.split(' ').filter_map(|setting| setting.split_once('=')) {
        options = match name {
            "host" => options.host(value),
            "port" => options.port(value.parse().expect("a port is a number")),
            "user" => options.username(value),
            "password" => options.password(value),
            "dbname" => options.database(value),
            _ => panic!("unknown setting {name}"),
        };
    }
    options.connect().await.expect("the server answers")
}

fn repeat<'a>(runtime: &'a Runtime, work: impl AsyncFn() + 'a) -> impl FnMut(u64) -> Duration + 'a {
    move |repetitions| {
        runtime.block_on(async {
            let start = Instant::now();
            for _ in 0..repetitions {
                work().await;
            }
            start.elapsed()
        })
    }
}

/// Measures all groups.
pub(crate) fn all(c: &mut Criterion) {
    if !["uncontended_postgres", GROUP, "cohort_postgres", "renewals_postgres"].into_iter().any(is_selected) {
        return;
    }
    if !PostgresServer::is_installed() {
        println!("skipped: PostgreSQL is missing: `apt-get install postgresql`");
        return;
    }
    let runtime = &threads();
    let server = runtime.block_on(PostgresServer::start());
    let settings = &server.settings();
    let raw = &runtime.block_on(Raw::connect(settings));
    uncontended(c, runtime, settings, raw);
    compare_hand_offs(GROUP, settings, Reference::RoundTrip, VARIANTS);
    let store = || store(settings).listen();
    measure_cohort("cohort_postgres", runtime, store);
    measure_renewals("renewals_postgres", runtime, store, || count_connections(runtime, &raw.client));
}

/// Returns the number of connections, without the one of this call.
fn count_connections(runtime: &Runtime, client: &Client) -> u64 {
    let statement =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let row = runtime.block_on(client.query_typed_one(statement, &[])).expect("the server answers");
    row.get::<_, i64>(0).unsigned_abs()
}

fn uncontended(c: &mut Criterion, runtime: &Runtime, settings: &str, raw: &Raw) {
    let create = raw.client.batch_execute("CREATE TABLE raw (name text PRIMARY KEY) WITH (fillfactor = 50)");
    runtime.block_on(create).expect("the server answers");
    let prepare = |text| runtime.block_on(raw.client.prepare(text)).expect("the server answers");
    // Every lock that is a row needs at least these: a transaction that writes the row, and one that deletes it.
    let (insert, delete) = (prepare("INSERT INTO raw VALUES ('report')"), prepare("DELETE FROM raw"));
    let insert_and_delete = async || {
        for statement in [&insert, &delete] {
            assert_eq!(raw.client.execute(statement, &[]).await.expect("the server answers"), 1);
        }
    };
    let listening = runtime.block_on(Locks::connect(store(settings).listen(), "listening"));
    let locks = runtime.block_on(Locks::connect(store(settings), "report"));
    let lock = &PgAdvisoryLock::new("sqlx");
    let mut connection = Some(runtime.block_on(connect_sqlx(settings)));
    let variants = vec![
        Repeated::new("round_trip", repeat(runtime, async || raw.round_trip().await)),
        Repeated::new("onelane_listen_acquire", |repetitions| runtime.block_on(listening.acquire_only(repetitions))),
        Repeated::new("onelane_listen", |repetitions| runtime.block_on(listening.acquire_and_drop(repetitions))),
        Repeated::new("onelane_acquire", |repetitions| runtime.block_on(locks.acquire_only(repetitions))),
        Repeated::new("onelane", |repetitions| runtime.block_on(locks.acquire_and_drop(repetitions))),
        Repeated::new("insert_and_delete", repeat(runtime, insert_and_delete)),
        Repeated::new("sqlx_advisory", |repetitions| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..repetitions {
                    let own = connection.take().expect("the connection was released");
                    let guard = lock.acquire(own).await.expect("the server answers");
                    connection = Some(guard.release_now().await.expect("the lock is held"));
                }
                start.elapsed()
            })
        }),
    ];
    compare(c, "uncontended_postgres", 150, variants);
    [listening, locks].iter().for_each(|locks| runtime.block_on(locks.domain.disconnect()));
}

fn serve_with(store: Postgres, settings: &str) {
    let runtime = threads();
    let raw = runtime.block_on(Raw::connect(settings));
    serve_guard(store, &runtime, || runtime.block_on(raw.round_trip()));
}

fn serve_listening(settings: &str) {
    serve_with(store(settings).listen(), settings);
}

fn serve_polling(settings: &str) {
    // The processes of the other variant hold the lock of the same name in the default table.
    serve_with(store(settings).table("polled_locks"), settings);
}

fn serve_sqlx(settings: &str) {
    let (runtime, lock) = (threads(), leak(PgAdvisoryLock::new("sqlx")));
    let connection = RefCell::new(Some(runtime.block_on(connect_sqlx(settings))));
    serve(
        || {
            let own = connection.take().expect("the connection was released");
            runtime.block_on(lock.acquire(own)).expect("the server answers")
        },
        |guard| {
            let own = runtime.block_on(guard.release_now()).expect("the lock is held");
            connection.replace(Some(own));
        },
        || (),
    );
}
