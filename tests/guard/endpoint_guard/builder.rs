//! Settings and their limits.

use std::panic::catch_unwind;
use std::time::Duration;

use onelane::guard::EndpointGuardBuilder;
use onelane::{EndpointGuard, Order, Queue};
use tokio_test::{assert_pending, assert_ready_ok, task};

use crate::SECOND;

#[test]
fn out_of_range_settings_are_errors_with_advice() {
    type Case = (&'static str, &'static str, fn() -> EndpointGuardBuilder);
    let cases: [Case; 8] = [
        ("permits", "permits(0) admits no caller: use 1 or more, or close() the guard", || {
            EndpointGuard::builder("x").permits(0)
        }),
        ("permits", "permits() must be at most 65,535", || EndpointGuard::builder("x").permits(65_536)),
        ("queue", "queue(Queue::Bounded(0)) has no capacity: use Queue::Reject", || {
            EndpointGuard::builder("x").queue(Queue::Bounded(0))
        }),
        ("queue", "queue(Queue::Bounded()) must be at most 8,388,607: use Queue::Unbounded", || {
            EndpointGuard::builder("x").queue(Queue::Bounded(8_388_608))
        }),
        ("max_wait", "a max_wait of zero lets no caller wait: use Queue::Reject", || {
            EndpointGuard::builder("x").max_wait(Duration::ZERO)
        }),
        (
            "grant_timeout",
            "a grant_timeout of zero lets no caller take its permit: use about a second, or none",
            || EndpointGuard::builder("x").grant_timeout(Duration::ZERO),
        ),
        ("max_wait", "max_wait() contradicts Queue::Reject, with which no caller waits: use one of them", || {
            EndpointGuard::builder("x").queue(Queue::Reject).max_wait(SECOND)
        }),
        (
            "grant_timeout",
            "grant_timeout() contradicts Queue::Reject, with which no caller waits: use one of them",
            || EndpointGuard::builder("x").queue(Queue::Reject).grant_timeout(SECOND),
        ),
    ];
    for (setting, problem, builder) in cases {
        let panic = catch_unwind(|| builder().build()).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().map(String::as_str), Some(problem));
        let error = builder().try_build().unwrap_err();
        assert_eq!((error.name(), error.setting()), ("x", setting));
        assert_eq!(error.to_string(), format!("guard `x`: {problem}"));
    }
}

#[test]
fn limits_of_the_ranges_are_accepted_in_a_static() {
    static MOST: EndpointGuard = EndpointGuard::builder("most")
        .permits(65_535)
        .queue(Queue::Bounded(8_388_607))
        .order(Order::Lifo)
        .max_wait(Duration::MAX)
        .grant_timeout(Duration::from_nanos(1))
        .build();
    static LEAST: EndpointGuard = EndpointGuard::builder("least").permits(1).queue(Queue::Bounded(1)).build();
    assert_eq!((MOST.stats().permits, LEAST.stats().permits), (65_535, 1));
}

#[test]
fn new_equals_a_builder_with_default_settings() {
    let guard = EndpointGuard::new("plain");
    let permit = guard.try_acquire().unwrap();
    let mut callers: Vec<_> = (0..100).map(|_| task::spawn(guard.acquire())).collect();
    for caller in &mut callers {
        assert_pending!(caller.poll());
    }
    drop(permit);
    drop(assert_ready_ok!(callers[0].poll()));
    assert_eq!(
        format!("{guard:?}"),
        "EndpointGuard { name: \"plain\", permits: 1, held: 1, waiting: 98, closed: false, .. }"
    );
}
