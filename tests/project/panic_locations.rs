//! A panic on misuse has the location of the caller's code, not one inside the crate.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::Once;
use std::time::Duration;

use onelane::guard::FlightErrorKind;
use onelane::offload::iter_from_stream;
use onelane::web::actix::FlightMiddleware;
use onelane::web::axum::FlightLayer;
use onelane::web::{FlightOptions, Refusal};
use onelane::{BlockingPool, CapacityLimiter, CpuPool, EndpointGuard, FlightError, KeyedGuard, Queue, SingleFlight};

thread_local! {
    static FILE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Returns the file in which `misuse` panics.
fn file_of(misuse: impl FnOnce()) -> String {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        set_hook(Box::new(|info| {
            FILE.set(info.location().map(|location| location.file().to_owned()));
        }));
    });
    assert!(catch_unwind(AssertUnwindSafe(misuse)).is_err(), "the misuse does not panic");
    FILE.take().expect("the hook has recorded the file")
}

/// Checks each expression, which must panic in this file.
macro_rules! assert_panics_here {
    ($($misuse:expr;)+) => {
        $(
            let file = file_of(|| { let _ = $misuse; });
            assert!(file.ends_with("panic_locations.rs"), "{} panics in {file}", stringify!($misuse));
        )+
    };
}

#[test]
fn builders() {
    assert_panics_here! {
        EndpointGuard::builder("guard").permits(0).build();
        EndpointGuard::builder("guard").queue(Queue::Bounded(0)).build();
        EndpointGuard::builder_named(String::from("guard")).max_wait(Duration::ZERO).build();
        KeyedGuard::<u32>::builder("guard").max_keys(0).build();
        SingleFlight::<u32, u32>::builder("flight").max_wait(Duration::ZERO).build();
        BlockingPool::builder("pool").max_running(0).build();
        BlockingPool::builder("pool").max_wait(Duration::ZERO).build();
        CpuPool::builder("pool").threads(0).build();
        CpuPool::builder("pool").max_wait(Duration::ZERO).build();
    }
}

#[test]
fn limiters() {
    const ABOVE: usize = CapacityLimiter::MAX_TOTAL + 1;
    let (limiter, other) = (CapacityLimiter::new(1), CapacityLimiter::new(1));
    let (mut permit, foreign) = (limiter.try_acquire().unwrap(), other.try_acquire().unwrap());
    assert_panics_here! {
        CapacityLimiter::new(ABOVE);
        CapacityLimiter::with_reserve(1, ABOVE);
        limiter.set_total(ABOVE);
        limiter.update_total(|_| ABOVE);
        permit.merge(foreign);
    }
}

#[test]
fn flights() {
    let options = || FlightOptions::new().max_wait(Duration::ZERO);
    let no_header = || FlightOptions::new().key_header("no header");
    assert_panics_here! {
        FlightError::<()>::from_kind(FlightErrorKind::Failed);
        FlightLayer::new("layer").options(options());
        FlightLayer::new("layer").options(no_header());
        FlightMiddleware::new("middleware").options(options());
        FlightMiddleware::new("middleware").options(no_header());
    }
}

#[test]
fn refusals() {
    struct Unserializable;
    impl serde::Serialize for Unserializable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("never"))
        }
    }
    let refusal = || Refusal::custom(503, "about:blank", "Busy");
    assert_panics_here! {
        Refusal::custom(200, "about:blank", "OK");
        refusal().with_status(200);
        refusal().with_member("status", 7);
        refusal().with_member("member", Unserializable);
        refusal().with_header("no header", "value");
        refusal().with_header("name", "two\nlines");
        refusal().with_body("two\nlines", "body");
    }
}

#[tokio::test]
async fn blocking_iterators() {
    assert_panics_here! {
        iter_from_stream(futures::stream::iter([1])).next();
    }
}
