//! Settings and their limits.

use std::panic::catch_unwind;
use std::time::Duration;

use onelane::{EndpointGuard, Order, Queue};
use tokio_test::{assert_pending, assert_ready_ok, task};

use crate::SECOND;

#[test]
fn out_of_range_settings_panic_with_advice() {
    type Case = (&'static str, fn() -> EndpointGuard);
    let cases: [Case; 8] = [
        ("permits(0) would admit nobody: give 1 or more, or close() the guard", || {
            EndpointGuard::builder("x").permits(0).build()
        }),
        ("permits() takes 65,535 at most", || EndpointGuard::builder("x").permits(65_536).build()),
        ("Bounded(0) is no queue: say Queue::Reject", || EndpointGuard::builder("x").queue(Queue::Bounded(0)).build()),
        ("Bounded() takes 8,388,607 at most: say Queue::Unbounded", || {
            EndpointGuard::builder("x").queue(Queue::Bounded(8_388_608)).build()
        }),
        ("a max_wait of zero lets nobody wait: say Queue::Reject", || {
            EndpointGuard::builder("x").max_wait(Duration::ZERO).build()
        }),
        ("a grant_timeout of zero lets nobody take a turn: give a second or so, or none", || {
            EndpointGuard::builder("x").grant_timeout(Duration::ZERO).build()
        }),
        ("Queue::Reject lets nobody wait: a time limit on waiting contradicts it", || {
            EndpointGuard::builder("x").queue(Queue::Reject).max_wait(SECOND).build()
        }),
        ("Queue::Reject lets nobody wait: a time limit on waiting contradicts it", || {
            EndpointGuard::builder("x").queue(Queue::Reject).grant_timeout(SECOND).build()
        }),
    ];
    for (message, build) in cases {
        let panic = catch_unwind(build).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&message));
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
