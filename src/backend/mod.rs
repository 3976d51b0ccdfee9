//! How far a guard reaches: one process, all processes of a host, all machines of a cluster.
//!
//! A guard is [distributed](crate::guard::GuardBuilder::distributed) over a [`LockDomain`], which is connected to a
//! [`LockBackend`] when the program starts. A caller then takes two turns, one after the other: first the turn in its
//! own process, in the order of arrival, and then the turn of the process among all processes. At most one caller of a
//! process therefore waits for other processes, however long the queue in its process is. Processes that wait for the
//! same lock take turns: a process that has had its turn leaves the next turns to the other processes, and waits at most
//! 10 ms for each.
//!
//! ```no_run
//! use onelane::EndpointGuard;
//! use onelane::backend::LockDomain;
//! # use onelane::backend::LockBackend;
//!
//! static LOCKS: LockDomain = LockDomain::new("shop");
//! static REPORT: EndpointGuard = EndpointGuard::builder("report").distributed(&LOCKS).build();
//!
//! # async fn run(backend: impl LockBackend) -> Result<(), Box<dyn std::error::Error>> {
//! LOCKS.connect(backend).await?;
//! let permit = REPORT.acquire().await?; // one caller at a time in all processes
//! # drop(permit);
//! # Ok(())
//! # }
//! ```
//!
//! # What such a lock can promise
//!
//! A lock over several machines is a *lease*: the store gives it to one process for a limited time, and the process
//! renews it. If the process is stopped or the network fails for longer than that time, the store gives the lease to
//! another process, while the first process may still be about to write. No store can prevent that, because a message
//! may be delayed for any time. Two rules follow:
//!
//! - The holder learns that it has lost its lease, from its own clock and without the store: [`Lease::lost`] is
//!   cancelled, and the web layers cancel the handler and respond with status 503.
//! - Each grant has a number, its [fencing token](Lease::fence), that is larger than the tokens of all earlier grants.
//!   Where the result must be right, the system that is written to compares tokens and refuses an old one:
//!
//! ```sql
//! UPDATE reports SET total = $1, fence = $2 WHERE id = $3 AND fence <= $2
//! ```
//!
//! The first rule alone is not enough: a process may be stopped between the check of its lease and its write, and the
//! clock of a virtual machine stands still while the machine is paused. With both rules, a lost lease may cause work to
//! be done twice, but never a wrong result. (Martin Kleppmann, "How to do distributed locking", 2016, describes fencing
//! tokens.)
//!
//! | file | contents |
//! |---|---|
//! | `domain` | what users configure, connect and disconnect |
//! | `turn_wait` | how a caller waits for the turn among processes |
//! | `turn` | the turn: held, passed on within the process, given back |
//! | `parked_map` | what a holder leaves for the next caller in its process |
//! | `lease` | what a holder sees of its turn |
//! | `clock` | the lease clock |
//! | `keeper` | the thread that renews leases and declares them lost |
//! | `lock_backend` | the trait of the stores |
//! | `host` | the store of all processes of a host |
//! | `conformance` | the checks that every store must pass |
//! | `link` | the connection to a store, reopened after it breaks |
//! | `store_clock` | the clock of a store, which measures the deadlines of attempts |
//! | `waiters` | the callers of this process that wait for a message of the store |
//! | `redis` | the store in Redis or Valkey |
//! | `postgres` | the store in PostgreSQL |

mod clock;
pub mod conformance;
mod connected;
mod domain;
mod error;
#[cfg(all(feature = "host", target_os = "linux", target_pointer_width = "64"))]
mod host;
mod keeper;
mod lease;
#[cfg(any(feature = "redis", feature = "tokio-postgres"))]
mod link;
mod lock_backend;
#[cfg(all(test, loom))]
mod loom_tests;
mod parked_map;
#[cfg(feature = "tokio-postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
#[cfg(any(feature = "redis", feature = "tokio-postgres"))]
mod store_clock;
mod trace;
mod turn;
mod turn_wait;
#[cfg(any(feature = "redis", feature = "tokio-postgres"))]
mod waiters;

pub use self::domain::{Connect, LockDomain, OnLost, WhenUnavailable};
pub use self::error::BackendError;
#[cfg(all(feature = "host", target_os = "linux", target_pointer_width = "64"))]
pub use self::host::Host;
pub(crate) use self::lease::CurrentLease;
pub use self::lease::Lease;
pub use self::lock_backend::{Attempt, BackendFuture, LeaseId, LockBackend, LockName, Owner, Released};
#[cfg(feature = "tokio-postgres")]
pub use self::postgres::Postgres;
#[cfg(feature = "redis")]
pub use self::redis::Redis;
pub(crate) use self::turn::Turn;
pub(crate) use self::turn_wait::{TurnError, TurnWait};
