//! Settings, their limits and debug output.

use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::Duration;

use onelane::{ConfigError, KeyedGuard, Order, Queue};
use tokio_test::{assert_ready_ok, task};

use super::queued;

#[test]
fn debug_output_names_the_guard() {
    let guard = Arc::new(KeyedGuard::builder("named").permits(2).build());
    let permit = guard.try_acquire(7).unwrap();
    let owned = Arc::clone(&guard).try_acquire_owned(7).unwrap();
    let waiter = queued(&guard, 7);
    assert_eq!(
        format!("{guard:?}"),
        "KeyedGuard { name: \"named\", permits: 2, keys: 1, held: 2, waiting: 1, closed: false, .. }"
    );
    assert_eq!(format!("{permit:?} {owned:?}"), "HeldPermit { guard: \"named\" } HeldPermit { guard: \"named\" }");
    assert_eq!(format!("{:?}", *waiter), "AcquireFuture { guard: Some(\"named\"), queued: true }");
    let all = guard.acquire_all([1, 2]);
    assert_eq!(format!("{all:?}"), "AcquireAll { guard: \"named\", held: Some(0), remaining: 2, .. }");
    let others = [
        format!("{:?}", Arc::clone(&guard).acquire_owned(1)),
        format!("{:?}", guard.run(1, async {})),
        format!("{:?}", Arc::clone(&guard).run_to_completion_owned(1, async {})),
        format!("{:?}", assert_ready_ok!(task::spawn(all).poll())),
        format!("{:?}", KeyedGuard::<u32>::builder("named")),
    ];
    for other in others {
        assert!(other.contains("\"named\""), "{other}");
    }
}

#[test]
fn limit_of_no_keys_panics_with_advice() {
    let panic = catch_unwind(|| KeyedGuard::<u32>::builder("x").max_keys(0).build()).unwrap_err();
    let message = "max_keys(0) admits no caller: use 1 or more, or close() the guard";
    assert_eq!(panic.downcast_ref::<String>().map(String::as_str), Some(message));
}

#[test]
fn time_limit_of_zero_panics_with_advice() {
    type Case = (&'static str, fn() -> KeyedGuard<u32>);
    let cases: [Case; 2] = [
        ("a max_wait of zero lets no caller wait: use Queue::Reject", || {
            KeyedGuard::builder("x").max_wait(Duration::ZERO).build()
        }),
        ("a grant_timeout of zero lets no caller take its permit: use about a second, or none", || {
            KeyedGuard::builder("x").grant_timeout(Duration::ZERO).build()
        }),
    ];
    for (message, build) in cases {
        let panic = catch_unwind(build).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().map(String::as_str), Some(message));
    }
}

#[test]
fn try_build_names_the_setting() {
    let error = |guard: Result<KeyedGuard<u32>, ConfigError>| {
        let error = guard.unwrap_err();
        (error.setting().to_owned(), error.to_string())
    };
    let (setting, text) = error(KeyedGuard::builder("user").max_keys(0).try_build());
    let expected = "guard `user`: max_keys(0) admits no caller: use 1 or more, or close() the guard";
    assert_eq!((&*setting, &*text), ("max_keys", expected));
    let (setting, _) = error(KeyedGuard::builder("user").permits(0).try_build());
    assert_eq!(setting, "permits");
    assert_eq!(KeyedGuard::<u32>::builder("user").max_keys(3).try_build().unwrap().name(), "user");
}

#[test]
fn static_accepts_every_setting() {
    static MOST: KeyedGuard<String> = KeyedGuard::builder("most")
        .permits(65_535)
        .queue(Queue::Bounded(8_388_607))
        .order(Order::Lifo)
        .max_wait(Duration::MAX)
        .grant_timeout(Duration::from_nanos(1))
        .max_keys(usize::MAX)
        .build();
    drop(MOST.try_acquire(String::new()).unwrap());
    assert_eq!((MOST.stats().permits, MOST.stats().granted), (65_535, 1));
}
