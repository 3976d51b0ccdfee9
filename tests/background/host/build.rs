//! Tests of the errors of hosts that cannot be built.

use std::time::Duration;

use onelane::background::{BuildError, Placement, ServiceHost, blocking_fn, service_fn};

fn service(name: &str) -> onelane::background::Service {
    service_fn(name, |_| async { Ok(()) })
}

fn build_error(services: impl IntoIterator<Item = onelane::background::Service>) -> (BuildError, String) {
    let builder = services.into_iter().fold(ServiceHost::builder(), |builder, service| builder.service(service));
    let error = builder.build().expect_err("the host cannot be built");
    let text = error.to_string();
    (error, text)
}

#[test]
fn two_services_with_one_name_are_rejected() {
    let (error, text) = build_error([service("a"), service("b"), service("a")]);
    assert!(matches!(error, BuildError::DuplicateName { first: 0, second: 2, .. }), "{error:?}");
    assert_eq!((error.service(), error.option()), (Some("a"), None));
    assert_eq!(text, "services 1 and 3 are both named \"a\": give each service a unique name");
}

#[test]
fn unknown_dependency_is_rejected() {
    for dependent in [service("a").after("db"), service("a").restart_with("db")] {
        let (error, text) = build_error([dependent]);
        assert!(
            matches!(&error, BuildError::UnknownDependency { dependency, .. } if &**dependency == "db"),
            "{error:?}"
        );
        assert_eq!((error.service(), error.option()), (Some("a"), None));
        assert_eq!(
            text,
            "the service \"a\" depends on \"db\", which does not exist: add that service, or correct its name"
        );
    }
}

#[test]
fn cycle_of_dependencies_is_rejected_with_its_names() {
    let cycle = [service("a").after("c"), service("b").after("a"), service("c").restart_with("b"), service("d")];
    let (error, text) = build_error(cycle);
    assert!(matches!(&error, BuildError::Cycle { cycle, .. } if cycle.len() == 4 && cycle[0] == cycle[3]), "{error:?}");
    assert!(text.ends_with("a -> c -> b -> a"), "{text}");
    let (_, text) = build_error([service("a").after("a")]);
    assert!(text.ends_with("a -> a"), "{text}");
}

#[test]
fn name_that_is_invalid_for_a_thread_is_rejected() {
    for name in ["", "a\0b"] {
        let (error, _) = build_error([service(name)]);
        assert!(matches!(error, BuildError::InvalidName { .. }), "{error:?}");
        assert_eq!(error.service(), Some(name));
    }
}

#[test]
fn invalid_options_are_rejected() {
    let blocking = || blocking_fn("a", |_| Ok(()));
    let cases = [
        (service("a").heartbeat(Duration::ZERO), "heartbeat"),
        (service("a").start_timeout(Duration::ZERO), "start_timeout"),
        (service("a").placement(Placement::Blocking), "placement"),
        (blocking().placement(Placement::Shared), "placement"),
        (blocking().placement(Placement::Thread), "placement"),
    ];
    for (service, invalid) in cases {
        let (error, text) = build_error([service]);
        assert!(matches!(error, BuildError::InvalidOption { .. }), "{error:?}");
        assert_eq!((error.service(), error.option()), (Some("a"), Some(invalid)));
        assert!(text.starts_with(&format!("invalid {invalid} for the service \"a\": ")), "{text}");
    }
    assert!(ServiceHost::builder().service(blocking().placement(Placement::Blocking)).build().is_ok());
}

#[test]
fn repeated_dependency_counts_once() {
    let twice = service("b").after("a").after("a").restart_with("a");
    assert!(ServiceHost::builder().service(twice).service(service("a")).build().is_ok());
}
