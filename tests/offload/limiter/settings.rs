//! The numbers that a limiter accepts, and changes of its total.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use onelane::CapacityLimiter;
use tokio_test::assert_ready_ok;

use super::rules::{assert_idle, queued};

const ABOVE: [usize; 2] = [CapacityLimiter::MAX_TOTAL + 1, usize::MAX];

fn panics(work: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(work)).is_err()
}

#[test]
fn number_above_the_maximum_is_neither_accepted_nor_reduced() {
    let limiter = CapacityLimiter::new(3);
    for above in ABOVE {
        let error = limiter.try_set_total(above).unwrap_err();
        assert_eq!((error.setting(), error.name()), ("total", ""));
        assert!(error.to_string().starts_with("limiter: a total must be at most 2,147,483,647"), "{error}");
        assert!(panics(|| limiter.set_total(above)));
        assert!(panics(|| assert_eq!(limiter.update_total(|_| above), above)));
        assert_eq!(CapacityLimiter::try_with_reserve(above, 0).unwrap_err().setting(), "total");
        assert_eq!(CapacityLimiter::try_with_reserve(0, above).unwrap_err().setting(), "reserve");
        assert!(panics(|| drop(CapacityLimiter::new(above))));
        assert!(panics(|| drop(CapacityLimiter::with_reserve(1, above))));
    }
    assert_eq!(limiter.total(), 3);
    assert_idle(&limiter);
}

#[test]
fn numbers_up_to_the_maximum_are_accepted() {
    for number in [0, 1, CapacityLimiter::MAX_TOTAL] {
        let limiter = CapacityLimiter::try_with_reserve(number, number).unwrap();
        assert_eq!((limiter.total(), limiter.stats().reserve), (number, number));
        limiter.try_set_total(7).unwrap();
        assert_eq!(limiter.update_total(|total| total - 7 + number), number);
        assert_eq!(limiter.total(), number);
    }
}

#[test]
fn relative_change_admits_queued_callers_like_an_absolute_one() {
    let limiter = CapacityLimiter::new(1);
    let held = limiter.try_acquire().unwrap();
    let mut waiting = queued(&limiter, 2);
    assert_eq!(limiter.update_total(|total| total + 1), 2);
    assert!(!waiting.is_woken());
    assert_eq!(limiter.update_total(|total| total + 1), 3);
    assert!(waiting.is_woken());
    drop((assert_ready_ok!(waiting.poll()), held));
    assert_idle(&limiter);
}

#[test]
fn relative_changes_of_several_threads_are_not_lost() {
    const STEPS: usize = 2_000;
    let limiter = CapacityLimiter::new(10);
    let step_all = |step: fn(usize) -> usize| {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..STEPS).map(|_| limiter.update_total(step)).last());
            }
        });
    };
    step_all(|total| total + 1);
    assert_eq!(limiter.total(), 10 + 4 * STEPS);
    step_all(|total| total - 1);
    assert_eq!(limiter.total(), 10);
    assert_idle(&limiter);
}

#[test]
fn change_that_is_overtaken_starts_from_the_new_total() {
    let limiter = CapacityLimiter::new(1);
    let mut seen = Vec::new();
    let total = limiter.update_total(|total| {
        seen.push(total);
        if total == 1 {
            limiter.set_total(5);
        }
        total + 1
    });
    assert_eq!((total, limiter.total(), seen), (6, 6, vec![1, 5]));
}
