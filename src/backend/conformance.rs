//! The checks that every [`LockBackend`] must pass.
//!
//! ```
//! use onelane::backend::{LockBackend, conformance};
//!
//! # async fn keeps_locks<MyStore: LockBackend>(new: fn() -> MyStore) {
//! let violations = conformance::check(|| new()).await;
//! assert!(violations.is_empty(), "{violations:#?}");
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::lock_backend::{Attempt, LeaseId, LockBackend, LockName, Owner, Released};

/// How long a backend may take to report a release.
const NOTIFICATION: Duration = Duration::from_secs(2);

/// A rule that a backend has broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    rule: &'static str,
    problem: String,
}

impl Violation {
    /// Returns the rule.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    /// Returns what the backend did instead.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.problem)
    }
}

type Checked = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type Rule = (&'static str, fn(Arc<Processes>) -> Checked);

const CONNECTS: &str = "a backend connects";
const ANSWERS: &str = "a backend that is connected answers";

const RULES: &[Rule] = &[
    ("a lock has one owner", |it| Box::pin(one_owner(it))),
    ("locks with different names are independent", |it| Box::pin(independent_names(it))),
    ("the tokens of a guard grow, and none is repeated", |it| Box::pin(growing_tokens(it))),
    ("a release frees the lock, and a second release has no effect", |it| Box::pin(release_frees(it))),
    ("only the owner can release a lock, and only with its token", |it| Box::pin(only_the_owner_releases(it))),
    ("an owner can release its lock without a token", |it| Box::pin(release_without_token(it))),
    ("a renewal reports, in order, which leases are still held", |it| Box::pin(renewals(it))),
    ("a lease that is not renewed expires", |it| Box::pin(leases_expire(it))),
    ("a lease that is renewed does not expire", |it| Box::pin(renewed_leases_last(it))),
    ("a process that waits is woken by a release, and not before", |it| Box::pin(release_is_reported(it))),
    ("a release reports whether other processes wait", |it| Box::pin(waiting_processes(it))),
    ("under contention, a lock has one owner, and tokens follow the order of entry", |it| Box::pin(contention(it))),
];

/// Returns the names of all rules.
pub fn rules() -> impl Iterator<Item = &'static str> {
    [CONNECTS, ANSWERS].into_iter().chain(RULES.iter().map(|(rule, _)| *rule))
}

/// Two processes that share a store. Each rule has its own guard.
struct Processes {
    one: Arc<dyn LockBackend>,
    other: Arc<dyn LockBackend>,
    guard: &'static str,
}

/// Checks a backend against all rules. `backend` returns a new, unconnected backend for the same store each time: the
/// checks connect two backends, as two processes do. The domain has a random name.
///
/// Takes about three times the lease, so configure a lease of one or two seconds. A backend that can't wake processes,
/// or can't report whether others wait, breaks the corresponding rule. Such a backend works, but more slowly.
///
/// Must be called within a tokio runtime that has time and I/O enabled.
pub async fn check<B: LockBackend>(backend: impl Fn() -> B) -> Vec<Violation> {
    let domain = format!("conformance-{}", Owner::random());
    let (one, other) = (Arc::new(backend()), Arc::new(backend()));
    for process in [&one, &other] {
        if let Err(error) = process.connect(&domain).await {
            return vec![Violation { rule: CONNECTS, problem: error.to_string() }];
        }
        if let Err(error) = process.check().await {
            return vec![Violation { rule: ANSWERS, problem: error.to_string() }];
        }
    }
    let mut violations = Vec::new();
    for (number, (rule, check)) in RULES.iter().enumerate() {
        let guard = GUARDS[number % GUARDS.len()];
        let processes = Processes { one: Arc::<B>::clone(&one), other: Arc::<B>::clone(&other), guard };
        // A rule runs in a task, so that a backend that panics breaks the rule and not the check.
        let result = tokio::spawn(check(Arc::new(processes))).await;
        let problem = match result {
            Ok(Ok(())) => continue,
            Ok(Err(problem)) => problem,
            Err(error) => error.to_string(),
        };
        violations.push(Violation { rule, problem });
    }
    violations
}

/// Names of guards, some of which must be quoted in some stores.
const GUARDS: &[&str] = &[
    "report",
    "daily report",
    "a/b",
    "..",
    "{tag}",
    "quote'\"",
    "x:y",
    "grüße",
    "%41",
    "under_score",
    "dash-ed",
    "end.",
];

impl Processes {
    fn name(&self) -> LockName {
        LockName::new(self.guard, None)
    }

    fn key(&self, key: &str) -> LockName {
        LockName::new(self.guard, Some(key))
    }
}

fn ensure(is_kept: bool, problem: impl Into<String>) -> Result<(), String> {
    if is_kept { Ok(()) } else { Err(problem.into()) }
}

/// Takes a lock that is free.
async fn take(process: &Arc<dyn LockBackend>, lock: &LockName) -> Result<LeaseId, String> {
    let owner = Owner::random();
    match process.try_acquire(lock, owner, 1).await.map_err(|error| error.to_string())? {
        Attempt::Acquired { fence } => Ok(LeaseId::new(lock.clone(), owner, Some(fence))),
        Attempt::Held { .. } => Err(format!("{lock:?} is held, and should be free")),
    }
}

async fn is_held(process: &Arc<dyn LockBackend>, lock: &LockName) -> Result<bool, String> {
    let owner = Owner::random();
    match process.try_acquire(lock, owner, 1).await.map_err(|error| error.to_string())? {
        Attempt::Held { .. } => Ok(true),
        Attempt::Acquired { fence } => {
            release(process, &LeaseId::new(lock.clone(), owner, Some(fence))).await?;
            Ok(false)
        }
    }
}

async fn release(process: &Arc<dyn LockBackend>, lease: &LeaseId) -> Result<Released, String> {
    process.release(lease).await.map_err(|error| error.to_string())
}

async fn renew(process: &Arc<dyn LockBackend>, leases: &[LeaseId]) -> Result<Vec<bool>, String> {
    process.renew(leases).await.map_err(|error| error.to_string())
}

async fn one_owner(it: Arc<Processes>) -> Result<(), String> {
    for lock in [it.name(), it.key("one")] {
        let lease = take(&it.one, &lock).await?;
        ensure(is_held(&it.other, &lock).await?, "another process took the lock")?;
        ensure(is_held(&it.one, &lock).await?, "another owner in the same process took the lock")?;
        release(&it.one, &lease).await?;
    }
    Ok(())
}

async fn independent_names(it: Arc<Processes>) -> Result<(), String> {
    let long = "k".repeat(2_000);
    let keys = ["", "a", "A", "b", "a:b", "a/b", "../a", "{a}", "ä", "a ", " a", "'", "\"", "%", "\n", &long];
    let mut leases = vec![take(&it.one, &it.name()).await?];
    for key in keys {
        leases.push(take(&it.one, &it.key(key)).await.map_err(|problem| format!("key {key:?}: {problem}"))?);
    }
    leases.push(take(&it.one, &LockName::new("another guard", None)).await?);
    leases.push(take(&it.one, &LockName::new("another guard", Some("a"))).await?);
    for lease in &leases {
        release(&it.one, lease).await?;
    }
    Ok(())
}

async fn growing_tokens(it: Arc<Processes>) -> Result<(), String> {
    let mut next = 1;
    for (number, tokens) in [1, 16, 1, 3, 1].into_iter().enumerate() {
        let process = if number % 2 == 0 { &it.one } else { &it.other };
        let lock = if number == 3 { it.key("of the same guard") } else { it.key("first") };
        let owner = Owner::random();
        let Attempt::Acquired { fence } =
            process.try_acquire(&lock, owner, tokens).await.map_err(|error| error.to_string())?
        else {
            return Err("the lock is held, and should be free".to_owned());
        };
        ensure(fence >= next, format!("the token is {fence}, and must be at least {next}"))?;
        next = fence + u64::from(tokens);
        release(process, &LeaseId::new(lock, owner, Some(fence))).await?;
    }
    Ok(())
}

async fn release_frees(it: Arc<Processes>) -> Result<(), String> {
    for lock in [it.name(), it.key("one")] {
        let lease = take(&it.one, &lock).await?;
        release(&it.one, &lease).await?;
        let next = take(&it.other, &lock).await?;
        release(&it.one, &lease).await?;
        ensure(is_held(&it.one, &lock).await?, "a second release took the lock from the next owner")?;
        release(&it.other, &next).await?;
    }
    Ok(())
}

async fn only_the_owner_releases(it: Arc<Processes>) -> Result<(), String> {
    let lock = it.name();
    let lease = take(&it.one, &lock).await?;
    let stranger = LeaseId { owner: Owner::random(), ..lease.clone() };
    release(&it.other, &stranger).await?;
    ensure(is_held(&it.other, &lock).await?, "another owner released the lock")?;
    let outdated = LeaseId { fence: lease.fence.map(|fence| fence.wrapping_sub(1)), ..lease.clone() };
    release(&it.one, &outdated).await?;
    ensure(is_held(&it.other, &lock).await?, "an old token released the lock")?;
    release(&it.one, &lease).await.map(drop)
}

async fn release_without_token(it: Arc<Processes>) -> Result<(), String> {
    let lock = it.name();
    let lease = take(&it.one, &lock).await?;
    release(&it.one, &LeaseId { fence: None, ..lease }).await?;
    ensure(!is_held(&it.other, &lock).await?, "the lock is still held")
}

async fn renewals(it: Arc<Processes>) -> Result<(), String> {
    let (first, second) = (take(&it.one, &it.key("first")).await?, take(&it.one, &it.key("second")).await?);
    let stranger = LeaseId { owner: Owner::random(), ..first.clone() };
    let outdated = LeaseId { fence: first.fence.map(|fence| fence.wrapping_sub(1)), ..first.clone() };
    let held = renew(&it.one, &[first.clone(), stranger, outdated, second.clone()]).await?;
    ensure(held == [true, false, false, true], format!("{held:?} instead of [true, false, false, true]"))?;
    release(&it.one, &first).await?;
    let held = renew(&it.one, &[first, second.clone()]).await?;
    ensure(held == [false, true], format!("{held:?} instead of [false, true] after a release"))?;
    ensure(renew(&it.one, &[]).await?.is_empty(), "a renewal of no leases returned a result")?;
    release(&it.one, &second).await.map(drop)
}

async fn leases_expire(it: Arc<Processes>) -> Result<(), String> {
    let Some(duration) = it.one.lease() else { return Ok(()) };
    let lock = it.name();
    let lease = take(&it.one, &lock).await?;
    sleep(duration / 2).await;
    ensure(is_held(&it.other, &lock).await?, "the lease ended after half of its time")?;
    sleep(duration / 2 + duration / 10).await;
    let next = take(&it.other, &lock).await.map_err(|_| "the lease has not ended after its time")?;
    ensure(next.fence > lease.fence, "the token of the next owner is not larger")?;
    let held = renew(&it.one, std::slice::from_ref(&lease)).await?;
    ensure(held == [false], "a lease that has expired was renewed")?;
    release(&it.one, &lease).await?;
    ensure(is_held(&it.one, &lock).await?, "the release of an expired lease took the lock from the next owner")?;
    release(&it.other, &next).await.map(drop)
}

async fn renewed_leases_last(it: Arc<Processes>) -> Result<(), String> {
    let Some(duration) = it.one.lease() else { return Ok(()) };
    let lock = it.name();
    let lease = take(&it.one, &lock).await?;
    for _ in 0..3 {
        sleep(duration / 2).await;
        let held = renew(&it.one, std::slice::from_ref(&lease)).await?;
        ensure(held == [true], "the lease was not renewed")?;
    }
    ensure(is_held(&it.other, &lock).await?, "the lock is free, although its lease was renewed")?;
    release(&it.one, &lease).await.map(drop)
}

async fn release_is_reported(it: Arc<Processes>) -> Result<(), String> {
    let lock = it.name();
    let lease = take(&it.one, &lock).await?;
    let (process, name) = (Arc::clone(&it.other), lock.clone());
    let waiting = tokio::spawn(async move { process.released(&name).await });
    sleep(Duration::from_millis(200)).await;
    ensure(!waiting.is_finished(), "the process was woken, although nothing was released")?;
    release(&it.one, &lease).await?;
    let reported = timeout(NOTIFICATION, waiting).await;
    ensure(reported.is_ok(), format!("nothing was reported within {NOTIFICATION:?}"))
}

async fn waiting_processes(it: Arc<Processes>) -> Result<(), String> {
    let lock = it.name();
    let lease = take(&it.one, &lock).await?;
    ensure(release(&it.one, &lease).await?.waiting == 0, "no caller waits, but the release reports that others wait")?;
    let lease = take(&it.one, &lock).await?;
    let (process, name) = (Arc::clone(&it.other), lock.clone());
    let waiting = tokio::spawn(async move { process.released(&name).await });
    sleep(Duration::from_millis(200)).await;
    ensure(release(&it.one, &lease).await?.waiting > 0, "another process waits, but the release does not report it")?;
    waiting.abort();
    Ok(())
}

async fn contention(it: Arc<Processes>) -> Result<(), String> {
    const TURNS: usize = 40;
    let (is_inside, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let mut tasks = Vec::new();
    for number in 0..6 {
        let (it, is_inside, last) = (Arc::clone(&it), Arc::clone(&is_inside), Arc::clone(&last));
        tasks.push(tokio::spawn(async move {
            let process = if number % 2 == 0 { &it.one } else { &it.other };
            let lock = it.name();
            for _ in 0..TURNS {
                let lease = loop {
                    if let Ok(lease) = take(process, &lock).await {
                        break lease;
                    }
                    if began.elapsed() > Duration::from_secs(60) {
                        return Err("an owner did not get the lock within a minute".to_owned());
                    }
                    sleep(Duration::from_millis(1)).await;
                };
                ensure(!is_inside.swap(true, Ordering::SeqCst), "two owners are inside")?;
                let fence = lease.fence.unwrap_or_default();
                let before = last.swap(fence, Ordering::SeqCst);
                ensure(fence > before, format!("token {fence} after token {before}"))?;
                tokio::task::yield_now().await;
                is_inside.store(false, Ordering::SeqCst);
                release(process, &lease).await?;
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await.map_err(|error| error.to_string())??;
    }
    Ok(())
}
