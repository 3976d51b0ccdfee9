//! Hosts that can't be built say why.

use std::time::Duration;

use onelane::background::{BuildError, Placement, ServiceHost, blocking_fn, service_fn};

fn service(name: &str) -> onelane::background::Service {
    service_fn(name, |_| async { Ok(()) })
}

fn refused(services: impl IntoIterator<Item = onelane::background::Service>) -> (BuildError, String) {
    let builder = services.into_iter().fold(ServiceHost::builder(), |builder, service| builder.service(service));
    let error = builder.build().expect_err("it can't be built");
    let text = error.to_string();
    (error, text)
}

#[test]
fn two_services_of_one_name() {
    let (error, text) = refused([service("a"), service("b"), service("a")]);
    assert_eq!(error, BuildError::DuplicateName { name: "a".into() });
    assert_eq!(text, "two services are named \"a\": give each a name of its own");
}

#[test]
fn dependency_that_is_not_there() {
    for lonely in [service("a").after("db"), service("a").restart_with("db")] {
        let (error, text) = refused([lonely]);
        assert_eq!(error, BuildError::UnknownDependency { service: "a".into(), dependency: "db".into() });
        assert_eq!(
            text,
            "the service \"a\" depends on \"db\", which the host does not have: add it, or correct its name"
        );
    }
}

#[test]
fn circle_of_dependencies() {
    let circle = [service("a").after("c"), service("b").after("a"), service("c").restart_with("b"), service("d")];
    let (error, text) = refused(circle);
    assert!(matches!(&error, BuildError::Cycle { circle } if circle.len() == 4 && circle[0] == circle[3]), "{error:?}");
    assert!(text.ends_with("a -> c -> b -> a"), "{text}");
    let (_, text) = refused([service("a").after("a")]);
    assert!(text.ends_with("a -> a"), "{text}");
}

#[test]
fn name_that_a_thread_can_not_have() {
    for name in ["", "a\0b"] {
        let (error, _) = refused([service(name)]);
        assert_eq!(error, BuildError::InvalidName { name: name.into() });
    }
}

#[test]
fn options_that_make_no_sense() {
    let blocks = || blocking_fn("a", |_| Ok(()));
    let cases = [
        (service("a").heartbeat(Duration::ZERO), "heartbeat"),
        (service("a").start_timeout(Duration::ZERO), "start_timeout"),
        (service("a").placement(Placement::Blocking), "placement"),
        (blocks().placement(Placement::Shared), "placement"),
        (blocks().placement(Placement::Thread), "placement"),
    ];
    for (service, wrong) in cases {
        let (error, text) = refused([service]);
        assert!(matches!(error, BuildError::InvalidOption { option, .. } if option == wrong), "{error:?}");
        assert!(text.starts_with(&format!("the service \"a\" has {wrong} ")), "{text}");
    }
    assert!(ServiceHost::builder().service(blocks().placement(Placement::Blocking)).build().is_ok());
}

#[test]
fn dependency_that_is_named_twice_is_one() {
    let twice = service("b").after("a").after("a").restart_with("a");
    assert!(ServiceHost::builder().service(twice).service(service("a")).build().is_ok());
}
