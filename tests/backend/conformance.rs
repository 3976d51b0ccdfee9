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
async fn each_flaw_breaks_its_rule() {
    let flaws = [
        (Flaw::GivesTheLockToAll, "a lock has one owner"),
        (Flaw::RepeatsTokens, "tokens of a guard grow, and none is given twice"),
        (Flaw::ReleasesForAll, "only the owner releases a lock, with its token"),
        (Flaw::IgnoresTokensOfReleases, "only the owner releases a lock, with its token"),
        (Flaw::RenewsWhatIsLost, "a renewal reports which leases are held, in order"),
        (Flaw::KeepsForever, "a lease that is not renewed expires"),
        (Flaw::ReportsNoRelease, "a release is reported to those that wait, and to no others"),
        (Flaw::MixesKeys, "locks of different names are independent"),
        (Flaw::KnowsNoWaiters, "a release reports if others wait"),
    ];
    for (flaw, rule) in flaws {
        let broken = broken_rules(flaw).await;
        assert!(broken.contains(&rule), "{flaw:?}: {broken:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_that_fails_breaks_the_first_rule() {
    let store = Arc::new(Store::default());
    store.fail(true);
    let violations = conformance::check(|| InMemory::new(&store, MS * 400)).await;
    assert_eq!(violations[0].rule(), "a backend connects");
    assert_eq!(violations[0].to_string(), "a backend connects: the test wants an error");
}
