//! What an error says: to code, to the developer, and about its cause.

use std::error::Error;
use std::io;
use std::time::Duration;

use onelane::guard::AcquireErrorKind;
use onelane::{AcquireError, EndpointGuard};

#[test]
fn error_names_its_guard_and_what_to_do() {
    let guard = EndpointGuard::new("report");
    let _permit = guard.try_acquire().unwrap();
    let error = guard.try_acquire().unwrap_err();
    assert_eq!((error.kind(), error.name(), error.waited()), (AcquireErrorKind::Busy, Some("report"), None));
    assert_eq!(
        error.to_string(),
        "guard `report`: every permit is held: try again later, or wait with acquire() on a guard that has a queue"
    );
    assert_eq!(error, guard.try_acquire().unwrap_err());
    assert_ne!(error, AcquireError::from(AcquireErrorKind::Busy), "the name differs");
}

#[test]
fn error_outlives_its_guard() {
    let name = format!("guard {}", 7);
    let error = {
        let guard = EndpointGuard::builder_named(name.clone()).build();
        guard.close();
        guard.try_acquire().unwrap_err()
    };
    assert_eq!((error.name(), error.kind()), (Some(&*name), AcquireErrorKind::Closed));
}

#[test]
fn test_of_a_user_makes_an_error_with_a_cause() {
    let error = AcquireError::from(AcquireErrorKind::Timeout)
        .with_source(io::Error::other("connection lost"))
        .with_retry_after(Duration::from_secs(3));
    let copy = error.clone();
    assert_eq!(copy, error);
    assert_eq!((copy.kind(), copy.name()), (AcquireErrorKind::Timeout, None));
    assert_eq!(copy.retry_after(), Some(Duration::from_secs(3)));
    assert_eq!(copy.source().unwrap().to_string(), "connection lost");
    assert_eq!(copy.to_string(), "no permit in time: try again later, or raise max_wait");
    assert!(copy.source().unwrap().is::<io::Error>());
}

#[test]
fn each_kind_has_its_own_advice() {
    use AcquireErrorKind::{
        BlockingInAsync, Busy, Closed, GrantExpired, QueueFull, Timeout, TooManyKeys, WouldDeadlock,
    };
    let kinds = [Busy, QueueFull, TooManyKeys, Timeout, GrantExpired, WouldDeadlock, Closed, BlockingInAsync];
    let texts: std::collections::HashSet<_> = kinds.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), kinds.len());
    assert!(texts.iter().all(|text| text.contains(": ")), "each text has a problem and advice: {texts:?}");
    let overload: Vec<_> = kinds.into_iter().filter(|kind| kind.is_overload()).collect();
    assert_eq!(overload, [Busy, QueueFull, TooManyKeys, Timeout, GrantExpired]);
}
