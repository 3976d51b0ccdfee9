//! The conformance suite finds what a store does wrong.

use std::sync::Arc;

use onelane::backend::conformance;

use super::MS;
use super::in_memory::{Flaw, InMemory, Store};

async fn broken_rules(flaw: Flaw) -> Vec<&'static str> {
    let store = Arc::new(Store::default());
    let new = || InMemory { flaw, ..InMemory::new(&store, MS * 400) };
    conformance::check(new).await.iter().map(conformance::Violation::rule).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_that_works_breaks_no_rule() {
    assert_eq!(broken_rules(Flaw::None).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_finds_the_flaws_that_it_is_for() {
    let flaws = [
        (Flaw::FailsToConnect, "a backend connects"),
        (Flaw::FailsItsChecks, "a backend that is connected answers"),
        (Flaw::GivesTheLockToAll, "a lock has one owner"),
        (Flaw::MixesKeys, "locks with different names are independent"),
        (Flaw::RepeatsTokens, "the tokens of a guard grow, and none is repeated"),
        (Flaw::CountsTokensPerKey, "the tokens of a guard grow, and none is repeated"),
        (Flaw::KeepsKeys, "a release frees the lock, and a second release has no effect"),
        (Flaw::ReleasesForAll, "a release frees the lock, and a second release has no effect"),
        (Flaw::ReleasesForAll, "only the owner can release a lock, and only with its token"),
        (Flaw::IgnoresTokensOfReleases, "only the owner can release a lock, and only with its token"),
        (Flaw::NeedsTokens, "an owner can release its lock without a token"),
        (Flaw::RenewsWhatIsLost, "a renewal reports, in order, which leases are still held"),
        (Flaw::KeepsForever, "a lease that is not renewed expires"),
        (Flaw::OnlyClaimsToRenew, "a lease that is renewed does not expire"),
        (Flaw::ReportsNoRelease, "a process that waits is woken by a release, and not before"),
        (Flaw::ReportsAllTheTime, "a process that waits is woken by a release, and not before"),
        (Flaw::KnowsNoWaiters, "a release reports whether other processes wait"),
        (Flaw::ImaginesWaiters, "a release reports whether other processes wait"),
        (Flaw::ChecksBeforeItTakes, "under contention, a lock has one owner, and tokens follow the order of entry"),
    ];
    let checked: Vec<_> = flaws.map(|(flaw, rule)| (flaw, rule, tokio::spawn(broken_rules(flaw)))).into();
    for (flaw, rule, broken) in checked {
        let broken = broken.await.unwrap();
        assert!(broken.contains(&rule), "{flaw:?}: {broken:?}");
    }
    for rule in conformance::rules() {
        assert!(flaws.iter().any(|(_, broken)| *broken == rule), "no flaw breaks: {rule}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn violation_says_what_the_backend_did() {
    let store = Arc::new(Store::default());
    store.fail(true);
    let violations = conformance::check(|| InMemory::new(&store, MS * 400)).await;
    assert_eq!(violations[0].to_string(), "a backend connects: the test wants an error");
}
