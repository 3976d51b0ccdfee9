//! The URIs of problem types: they lead to an anchor in the documentation, and an app can set their base.

use std::collections::BTreeSet;
use std::convert::Infallible;

use bytes::Bytes;
use onelane::guard::{AcquireErrorKind, FlightError, FlightErrorKind};
use onelane::offload::{OffloadError, OffloadErrorKind};
use onelane::web::{Refusal, set_problem_type_base};
use onelane::{AcquireError, ProcessError};

/// Returns the text of a file of the project.
fn read(path: &str) -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../").to_owned() + path).expect("the file exists")
}

#[test]
fn every_problem_type_has_an_anchor_in_the_documentation() {
    let features = ["tower", "offload", "process", "guard", "background", "axum", "actix-web"];
    let names: BTreeSet<String> = read("src/web/refusal/errors.rs")
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        .map(str::to_owned)
        .filter(|name| !features.contains(&name.as_str()))
        .collect();
    assert!(names.len() > 15 && names.contains("busy"), "{names:?}");
    let page = read("src/web/mod.rs");
    for name in names {
        assert!(page.contains(&format!("<span id=\"{name}\">")), "the page has no anchor for {name:?}");
    }
}

/// In a process of its own under nextest, and the only test of this binary that looks at a URI.
#[test]
fn app_sets_the_base_of_the_problem_types_once() {
    let busy = || Refusal::from(AcquireError::from(AcquireErrorKind::Busy)).type_uri();
    assert_eq!(busy(), "https://docs.rs/onelane/latest/onelane/web/index.html#busy");
    assert!(set_problem_type_base("https://example.org/problems/"));
    assert!(!set_problem_type_base("https://example.org/other/"));
    assert_eq!(busy(), "https://example.org/problems/busy");
}

/// The crate's own problem details are constants, but a changed refusal is serialized. Both must have the same form.
#[test]
fn own_problem_details_are_what_the_serializer_writes() {
    let guard = [
        AcquireErrorKind::Busy,
        AcquireErrorKind::QueueFull,
        AcquireErrorKind::TooManyKeys,
        AcquireErrorKind::Timeout,
        AcquireErrorKind::GrantExpired,
        AcquireErrorKind::Closed,
        AcquireErrorKind::WouldDeadlock,
        AcquireErrorKind::BlockingInAsync,
    ]
    .map(|kind| Refusal::from(AcquireError::from(kind)));
    let flight = [
        FlightErrorKind::Panicked,
        FlightErrorKind::TooManyWaiters,
        FlightErrorKind::Timeout,
        FlightErrorKind::Closed,
        FlightErrorKind::WouldDeadlock,
    ]
    .map(|kind| Refusal::from(FlightError::<Infallible>::from_kind(kind)));
    let offload = [
        OffloadErrorKind::Full,
        OffloadErrorKind::QueueTimeout,
        OffloadErrorKind::Timeout,
        OffloadErrorKind::Cancelled,
        OffloadErrorKind::Panicked,
        OffloadErrorKind::Closed,
        OffloadErrorKind::RuntimeShutdown,
        OffloadErrorKind::NoThread,
        OffloadErrorKind::NoRuntime,
        OffloadErrorKind::WouldDeadlock,
    ]
    .map(|kind| Refusal::from(OffloadError::from(kind)));
    let process = [
        ProcessError::NoWorker { attempts: 3, reason: String::new() },
        ProcessError::Codec(String::new()),
        ProcessError::ForeignFunction,
    ]
    .map(Refusal::from);
    for refusal in guard.into_iter().chain(flight).chain(offload).chain(process) {
        let title = refusal.title().to_owned();
        let constant = http::Response::<Bytes>::from(refusal.clone()).into_body();
        let serialized = http::Response::<Bytes>::from(refusal.with_title(title)).into_body();
        assert_eq!(constant, serialized);
    }
}
