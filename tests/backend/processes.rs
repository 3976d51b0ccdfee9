//! Processes that compete for a lock, and write to a [`CheckedStore`] while they hold it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::env;
use std::future::pending;
use std::process;
use std::rc::Rc;
use std::time::Duration;

use onelane::KeyedGuard;
#[cfg(target_os = "linux")]
use onelane::backend::Host;
use onelane::backend::{BackendError, LockDomain};
use onelane::backend::{Postgres, Redis};
use support::leak;
use support::process::Example;
use support::runtimes::current_thread;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;
use tokio_postgres::NoTls;

use super::MS;
use super::checked_store::{CheckedStore, Holder};

/// The variables of the processes.
const STORE: &str = "ONELANE_TEST_STORE";
const LEASE: &str = "ONELANE_TEST_LEASE";
const CHECKED_STORE: &str = "ONELANE_TEST_CHECKED_STORE";
const CALLERS: &str = "ONELANE_TEST_CALLERS_OF_A_KEY";
const HOLD: &str = "ONELANE_TEST_HOLD";

/// Where the locks are.
#[derive(Clone, Debug)]
pub(super) enum Locks {
    /// A directory.
    Host(String),
    /// A URL.
    Redis(String),
    /// The settings of a connection, and whether the process listens to notifications.
    Postgres(String, bool),
}

/// What each process does.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) locks: Locks,
    pub(super) lease: Duration,
    /// How many callers wait for the key. Processes with other numbers of callers have another key.
    pub(super) callers: usize,
    /// How long each caller holds the lock.
    pub(super) hold: Duration,
}

impl Locks {
    /// Returns `false` if a lock ends with its process.
    pub(super) fn has_leases(&self) -> bool {
        !matches!(self, Self::Host(_))
    }

    fn variable(&self) -> String {
        match self {
            Self::Host(directory) => format!("host {directory}"),
            Self::Redis(url) => format!("redis {url}"),
            Self::Postgres(settings, false) => format!("postgres {settings}"),
            Self::Postgres(settings, true) => format!("listening {settings}"),
        }
    }
}

impl Program {
    pub(super) async fn start(&self, store: &CheckedStore) -> Example {
        let variables = [
            (STORE, self.locks.variable()),
            (LEASE, self.lease.as_millis().to_string()),
            (CHECKED_STORE, store.address.to_string()),
            (CALLERS, self.callers.to_string()),
            (HOLD, self.hold.as_millis().to_string()),
        ];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        Example::of_test("processes::program_of_other_tests", &variables).await
    }

    pub(super) async fn start_many(&self, count: usize, store: &CheckedStore) -> Vec<Example> {
        futures::future::join_all((0..count).map(|_| self.start(store))).await
    }
}

/// Connects a domain to the locks that the variables describe.
async fn connect(domain: &'static LockDomain, lease: Duration) -> Result<(), BackendError> {
    let store = env::var(STORE).unwrap();
    let (kind, address) = store.split_once(' ').unwrap();
    let address = address.to_owned();
    let postgres = |address: String| {
        let connect = move || {
            let address = address.clone();
            async move { tokio_postgres::connect(&address, NoTls).await }
        };
        Postgres::new(connect).lease(lease)
    };
    match kind {
        #[cfg(target_os = "linux")]
        "host" => domain.connect(Host::new(address)).await,
        "redis" => domain.connect(Redis::new(redis::Client::open(address).unwrap()).lease(lease)).await,
        "listening" => domain.connect(postgres(address).listen()).await,
        _ => domain.connect(postgres(address)).await,
    }
}

/// Does nothing unless another test starts it in a child process.
#[test]
#[allow(clippy::print_stdout, reason = "the parent waits for the line")]
fn program_of_other_tests() {
    let Ok(store) = env::var(CHECKED_STORE) else { return };
    let number = |name| env::var(name).unwrap().parse::<u32>().unwrap();
    let (callers, hold, lease) = (number(CALLERS), MS * number(HOLD), MS * number(LEASE));
    let store = store.parse().unwrap();
    let run = async {
        let domain = leak(LockDomain::new("storm"));
        // On a busy machine, the first answer may be late.
        while connect(domain, lease).await.is_err() {
            sleep(MS * 50).await;
        }
        let guard = KeyedGuard::builder("report").distributed(domain).max_wait(Duration::from_secs(30)).build();
        let guard: &'static KeyedGuard<u32> = leak(guard);
        println!("listening on http://127.0.0.1:1");
        let queue = Rc::new(RefCell::new(VecDeque::new()));
        for caller in 0..callers {
            let queue = Rc::clone(&queue);
            spawn_local(async move {
                let mut holder = Holder::connect(store, process::id()).await;
                loop {
                    // No other caller of this process runs between this line and the first poll.
                    queue.borrow_mut().push_back(caller);
                    let permit = match guard.acquire(callers).await {
                        Ok(permit) => permit,
                        Err(error) => {
                            queue.borrow_mut().retain(|waiting| *waiting != caller);
                            holder.report("error", &format!("{error:?}")).await;
                            sleep(MS * 10).await;
                            continue;
                        }
                    };
                    let first = queue.borrow_mut().pop_front();
                    if first != Some(caller) {
                        holder.report("violation", "callers of a process are not admitted in their order").await;
                    }
                    let lease = permit.lease().unwrap();
                    for what in ["enter", "write", "leave"] {
                        if !holder.write(what, lease).await {
                            break;
                        }
                        if what != "leave" {
                            sleep(hold / 2).await;
                        }
                    }
                    drop(permit);
                }
            });
        }
        pending::<()>().await;
    };
    current_thread().block_on(LocalSet::new().run_until(run));
}
