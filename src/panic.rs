//! [`catch`] and [`catch_owned`], which run user code and turn its panic into a value with message and location.
//!
//! The payload of a panic does not contain the location of the panic: only the panic hook receives it. So the first
//! [`catch_work`] or [`catch_owned`] of the process installs a hook that records the location for the current thread
//! and then calls the previous hook. A thread that is panicking never installs the hook, because the standard library
//! forbids it. Destructors use [`catch`], which never installs it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread;

use crate::debug::impl_debug;

/// A panic that was caught: its message and its location.
///
/// The panic of a pool task, a stream or a portal also has the payload: the value that the panic was raised with. One
/// caller owns the error of such a task, so that caller can [take the payload](Self::into_payload) or [resume the
/// panic](Self::resume_unwind). The panic of a flight or a service has only the message, because all callers of the
/// flight and all readers of the status get the panic, and a payload cannot be cloned.
///
/// Only the panic hook of the process receives the location. So the first work that this crate runs makes the crate
/// install a hook, which records the location and then calls the hook that was there before. Set a hook of your
/// own before that, or call the previous one in it: otherwise panics have no location. The hook is never installed
/// while its thread panics.
#[derive(Clone)]
pub struct Panic(Arc<PanicParts>);

/// The state that the clones of a panic share.
struct PanicParts {
    message: Arc<str>,
    location: Option<Arc<str>>,
    /// `None` once the payload was taken, or if the panic has no payload.
    payload: Mutex<Option<Payload>>,
}

type Payload = Box<dyn Any + Send>;

impl PanicParts {
    fn take_payload(&self) -> Option<Payload> {
        self.payload.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for PanicParts {
    /// The destructor of the payload is user code that may panic, and an error may be dropped during unwinding, when a
    /// second panic would abort the process.
    fn drop(&mut self) {
        discard(self.take_payload());
    }
}

impl Panic {
    /// Creates a panic that keeps `payload`. The panic has no location.
    #[cfg(feature = "offload")]
    pub(crate) fn with_payload(payload: Payload) -> Self {
        Self::new(message_of(&*payload), None, Some(payload))
    }

    fn new(message: Arc<str>, location: Option<Arc<str>>, payload: Option<Payload>) -> Self {
        Self(Arc::new(PanicParts { message, location, payload: Mutex::new(payload) }))
    }

    /// Returns the message, or `(no message)` if the payload is not a string.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the file, the line and the column.
    ///
    /// `None` if the panic hook was replaced after the first work, or if the panic happened on another thread,
    /// for example inside a `par_iter`.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.0.location.as_deref()
    }

    /// Returns the payload, as `JoinError::into_panic` of tokio does.
    ///
    /// Returns `None` if the panic comes from a flight or a service, if the payload was already taken from a clone of
    /// this panic, or if no code panicked, as in an error that was created from its kind.
    ///
    /// ```
    /// use std::panic::panic_any;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// #[derive(Debug, PartialEq)]
    /// struct QuotaExceeded(u32);
    ///
    /// let error = onelane::run_blocking(|| panic_any(QuotaExceeded(7))).await.unwrap_err();
    /// let payload = error.into_panic()?.into_payload().ok_or("no payload")?;
    /// assert_eq!(payload.downcast_ref(), Some(&QuotaExceeded(7)));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn into_payload(self) -> Option<Box<dyn Any + Send>> {
        self.0.take_payload()
    }

    /// Resumes the panic on this thread, without calling the panic hook again, as [`std::panic::resume_unwind`] does.
    ///
    /// Panics with the [payload](Self::into_payload), or with the message as a `String` if the panic has no payload.
    ///
    /// # Panics
    ///
    /// Always.
    pub fn resume_unwind(self) -> ! {
        let message = String::from(self.message());
        resume_unwind(self.into_payload().unwrap_or_else(|| Box::new(message)))
    }

    /// Creates a panic that another process has caught.
    #[cfg(feature = "process")]
    pub(crate) fn remote(message: &str, location: Option<&str>) -> Self {
        Self::new(message.into(), location.map(Arc::from), None)
    }

    /// Creates a panic that no hook has seen.
    #[cfg(feature = "guard")]
    pub(crate) fn without_location(message: &str) -> Self {
        Self::new(message.into(), None, None)
    }
}

/// Compares the message and the location.
impl PartialEq for Panic {
    fn eq(&self, other: &Self) -> bool {
        (self.message(), self.location()) == (other.message(), other.location())
    }
}

impl Eq for Panic {}

impl_debug!(Panic |this| { message: this.message(), location: this.location() });

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())?;
        if let Some(location) = self.location() {
            write!(f, ", at {location}")?;
        }
        Ok(())
    }
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    /// `true` if the next panic is expected and need not be reported.
    static MUTED: Cell<bool> = const { Cell::new(false) };
    /// `true` if there may be a [`LOCATION`], so that work that does not panic need not read it.
    static HAS_LOCATION: Cell<bool> = const { Cell::new(false) };
    static LOCATION: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// Runs a caller's work and catches its panic, after the panic hook has run. The panic has a location and no payload.
#[cfg(any(feature = "guard", feature = "background"))]
pub(crate) fn catch_work<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    install_hook();
    catch(work)
}

/// Runs `work` and catches its panic, after the panic hook has run. The panic has no payload, and has a location only
/// if the hook is installed. May be called by destructors.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_at(work).map_err(|(payload, location)| {
        let message = message_of(&*payload);
        discard(payload);
        Panic::new(message, location, None)
    })
}

/// Runs a caller's work and catches its panic with the location. The panic keeps its payload, for an error that one
/// caller owns.
#[cfg(feature = "offload")]
pub(crate) fn catch_owned<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    install_hook();
    catch_at(work).map_err(|(payload, location)| Panic::new(message_of(&*payload), location, Some(payload)))
}

/// Runs `work`, whose panics on this thread are not shown to the panic hooks that were there before this crate's.
/// With `false`, code inside of such work shows them again.
#[cfg(feature = "offload")]
pub(crate) fn with_hook_muted<T>(is_muted: bool, work: impl FnOnce() -> T) -> T {
    let was_muted = MUTED.replace(is_muted);
    let result = catch_unwind(AssertUnwindSafe(work));
    MUTED.set(was_muted);
    result.unwrap_or_else(|payload| resume_unwind(payload))
}

/// Runs `work` and returns its panic's payload and location.
fn catch_at<T>(work: impl FnOnce() -> T) -> Result<T, (Payload, Option<Arc<str>>)> {
    // An earlier panic may still be unwinding, so its location is set aside here and restored afterwards.
    let (is_nested, earlier) = (CATCHING.replace(true), replace_location(None));
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(is_nested);
    let location = replace_location(earlier);
    result.map_err(|payload| (payload, location))
}

/// Replaces the recorded location and returns the previous location. While the thread exits, the thread-local may
/// already be destroyed, and no location is recorded.
#[inline]
fn replace_location(location: Option<Arc<str>>) -> Option<Arc<str>> {
    #[cold]
    fn replace(location: Option<Arc<str>>) -> Option<Arc<str>> {
        LOCATION.try_with(|recorded| recorded.replace(location)).ok().flatten()
    }
    let had_location = HAS_LOCATION.replace(location.is_some());
    if had_location || location.is_some() { replace(location) } else { None }
}

/// Catches a panic that is not returned to any caller, and keeps the recorded location of the panic before it.
pub(crate) fn catch_unrecorded(work: impl FnOnce()) -> Result<(), Payload> {
    let is_catching = CATCHING.replace(false);
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(is_catching);
    result
}

/// Drops a user's value and catches a panic in its destructor, after the panic hook has run.
pub(crate) fn discard<T>(value: T) {
    if let Err(payload) = catch_unrecorded(|| drop(value)) {
        // The payload's own destructor may panic too.
        let _ = catch_unrecorded(|| drop(payload));
    }
}

/// Runs several pieces of user code, each of them even if an earlier one has panicked, and then propagates the first
/// panic.
#[derive(Default)]
#[must_use = "the first panic is lost unless it is propagated"]
pub(crate) struct FirstPanic(Option<Payload>);

impl FirstPanic {
    pub(crate) fn run(&mut self, work: impl FnOnce()) {
        if self.0.is_none() && !thread::panicking() {
            self.0 = catch_unwind(AssertUnwindSafe(work)).err();
        } else if let Err(payload) = catch_unrecorded(work) {
            // The panic hook has reported this panic.
            discard(payload);
        }
    }

    /// Runs the last piece, and then propagates the first panic.
    #[inline]
    pub(crate) fn finish(mut self, last: impl FnOnce()) {
        if self.0.is_none() && !thread::panicking() {
            return last();
        }
        self.run(last);
        self.propagate();
    }

    /// Propagates the first panic, unless the thread is already unwinding: a second panic would abort the process.
    pub(crate) fn propagate(self) {
        match self.0 {
            Some(payload) if thread::panicking() => discard(payload),
            Some(payload) => resume_unwind(payload),
            None => {}
        }
    }
}

fn install_hook() {
    static HOOK: Once = Once::new();
    // A thread that is panicking cannot change the hook.
    if !HOOK.is_completed() && !thread::panicking() {
        HOOK.call_once(record_locations);
    }
}

fn record_locations() {
    let previous = take_hook();
    set_hook(Box::new(move |info| {
        // While the thread exits, its thread-locals may already be destroyed.
        if CATCHING.try_with(Cell::get).unwrap_or(false) {
            let location = info.location().map(|location| Arc::from(location.to_string()));
            replace_location(location);
        }
        if !MUTED.try_with(Cell::get).unwrap_or(false) {
            previous(info);
        }
    }));
}

pub(crate) fn message_of(payload: &(dyn Any + Send)) -> Arc<str> {
    match payload.downcast_ref::<&str>() {
        Some(message) => Arc::from(*message),
        None => {
            payload.downcast_ref::<String>().map_or_else(|| "(no message)".into(), |message| message.as_str().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    #[test]
    fn caught_panic_has_message_and_location() {
        let line = line!() + 1;
        let panic = catch_work(|| panic!("broken {}", 7)).map_err(|panic| panic.to_string());
        assert_eq!(panic, Err::<(), _>(format!("broken 7, at {}:{line}:35", file!())));
    }

    #[test]
    fn payload_that_is_not_a_string_has_no_message() {
        let Err(panic) = catch::<()>(|| panic_any(7)) else { panic!("the work panics") };
        assert_eq!(panic.message(), "(no message)");
    }

    #[test]
    fn unwinding_without_the_hook_has_no_location() {
        let _ = catch(|| panic!("the location of this panic is not reported for the next one"));
        let Err(panic) = catch::<()>(|| resume_unwind(Box::new("quiet"))) else { panic!("the work unwinds") };
        assert_eq!((panic.message(), panic.location()), ("quiet", None));
    }

    #[test]
    fn panicking_destructor_of_a_payload_is_caught_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let Err(panic) = catch::<()>(|| panic_any(Bomb)) else { panic!("the work panics") };
        assert_eq!(panic.message(), "(no message)");
    }

    #[cfg(feature = "offload")]
    #[test]
    fn payload_is_taken_once_and_a_panic_without_one_resumes_with_its_message() {
        let Err(panic) = catch_owned::<()>(|| panic_any(7)) else { panic!("the work panics") };
        let clone = panic.clone();
        assert_eq!(clone, panic);
        assert_eq!(panic.into_payload().and_then(|payload| payload.downcast::<i32>().ok()), Some(Box::new(7)));
        assert!(clone.clone().into_payload().is_none());
        let Err(resumed) = catch_unwind(AssertUnwindSafe(|| clone.resume_unwind()));
        let message = Some(resumed).and_then(|payload| payload.downcast::<String>().ok());
        assert_eq!(message.as_deref().map(String::as_str), Some("(no message)"));
    }

    #[cfg(feature = "offload")]
    #[test]
    fn payload_whose_destructor_panics_is_dropped_without_a_panic() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                resume_unwind(Box::new("again"));
            }
        }
        let Err(panic) = catch_owned::<()>(|| panic_any(Bomb)) else { panic!("the work panics") };
        drop(panic);
    }

    #[test]
    fn first_of_several_panics_propagates_after_all_work() {
        let mut done = 0;
        let line = line!() + 3;
        let caught = catch_work(|| {
            let mut panics = FirstPanic::default();
            panics.run(|| panic!("first"));
            panics.run(|| panic!("second"));
            panics.run(|| done += 1);
            panics.propagate();
            done += 1;
        });
        let expected = format!("first, at {}:{line}:27", file!());
        assert_eq!((caught.map_err(|panic| panic.to_string()), done), (Err(expected), 1));
    }

    #[test]
    fn panic_does_not_propagate_from_a_destructor_that_runs_during_unwinding() {
        struct PanicsAgain;
        impl Drop for PanicsAgain {
            fn drop(&mut self) {
                let mut panics = FirstPanic::default();
                panics.run(|| panic!("in the destructor"));
                panics.propagate();
                let caught = catch(|| panic!("also in the destructor"));
                assert!(caught.is_err_and(|panic: Panic| panic.location().is_some()));
                discard(Bomb);
            }
        }
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("in another destructor");
            }
        }
        let line = line!() + 3;
        let caught = catch_work(|| {
            let _dropped = PanicsAgain;
            panic!("first")
        });
        let expected = format!("first, at {}:{line}:13", file!());
        assert_eq!(caught.map_err(|panic| panic.to_string()), Err::<(), _>(expected));
    }

    #[test]
    fn work_without_a_panic_returns_its_value() {
        assert_eq!((catch(|| 7), catch_work(|| 8)), (Ok(7), Ok(8)));
    }
}
