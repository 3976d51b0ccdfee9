//! No process starves while other processes compete for the same key.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::postgres::PostgresServer;
use support::redis::RedisServer;
use tokio::time::sleep;

use super::MS;
use super::checked_store::CheckedStore;
#[cfg(target_os = "linux")]
use super::host::TestDirectory;
use super::processes::{Locks, Program};
use super::storm::seconds;

const PROCESSES: usize = 8;

/// Counts the turns of several processes, each with several callers.
#[allow(clippy::print_stdout, reason = "the figures")]
async fn each_process_gets_its_share(locks: Locks) {
    // A busy machine may delay a process, and such a delay matters more in a short run. A process that starves gets no
    // turns.
    let factor = if seconds(3) < Duration::from_secs(10) { 10 } else { 2 };
    for callers in [1, 3] {
        let program = Program { locks: locks.clone(), lease: Duration::from_secs(5), callers, hold: MS };
        let store = CheckedStore::start().await;
        let processes = program.start_many(PROCESSES, &store).await;
        let began = Instant::now();
        sleep(seconds(3)).await;
        let mut turns: BTreeMap<_, usize> = processes.iter().map(|process| (process.id(), 0)).collect();
        for turn in store.turns().iter().filter(|turn| turn.at > began) {
            *turns.entry(turn.process).or_default() += 1;
        }
        let turns: Vec<_> = turns.into_values().collect();
        let share = turns.iter().sum::<usize>() / PROCESSES;
        println!("{locks:?}, {callers} callers each: turns {turns:?}, share {share}, {:?}", store.counts());
        assert_eq!(store.violations(), [""; 0]);
        let is_fair = turns.iter().all(|turns| (share / factor..=share * factor).contains(turns));
        assert!(share > 10 && is_fair, "{callers} callers each: {turns:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_a_host_get_their_shares() {
    let directory = TestDirectory::new();
    each_process_gets_its_share(Locks::Host(directory.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_with_redis_get_their_shares() {
    let server = RedisServer::start();
    each_process_gets_its_share(Locks::Redis(server.url.clone())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_with_postgres_get_their_shares() {
    let server = PostgresServer::start().await;
    each_process_gets_its_share(Locks::Postgres(server.settings(), false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_listen_to_postgres_get_their_shares() {
    let server = PostgresServer::start().await;
    each_process_gets_its_share(Locks::Postgres(server.settings(), true)).await;
}
