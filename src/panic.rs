//! [`catch`], which runs user code and turns its panic into a value with message and location.
//!
//! The payload of a panic does not contain the location of the panic: only the panic hook receives it. So the first
//! [`catch`] of the process installs a hook that records the location for the current thread and then calls the
//! previous hook. A thread that is panicking never installs the hook, because the standard library forbids it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook, take_hook};
use std::sync::{Arc, Once};
use std::thread;

/// A panic that was caught: its message and its location.
///
/// Only the panic hook of the process receives the location. So the first panic that this crate could catch makes the
/// crate install a hook, which records the location and then calls the hook that was there before. Set a hook of your
/// own before that, or call the previous one in it: otherwise panics have no location. The hook is never installed
/// while its thread panics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    message: Arc<str>,
    location: Option<Arc<str>>,
}

impl Panic {
    /// Makes a panic from its payload, which has no location.
    pub(crate) fn from_payload(payload: Box<dyn Any + Send>) -> Self {
        let message = message_of(&*payload);
        discard(payload);
        Self { message, location: None }
    }

    /// Returns the message, or `(no message)` if the payload is not a string.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the file, the line and the column.
    ///
    /// `None` if the panic hook was replaced after the first caught panic, or if the panic happened on another thread,
    /// for example inside a `par_iter`.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.location.as_deref()
    }

    /// Creates a panic that no hook has seen.
    #[cfg(feature = "guard")]
    pub(crate) fn without_location(message: &str) -> Self {
        Self { message: message.into(), location: None }
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(location) = &self.location {
            write!(f, ", at {location}")?;
        }
        Ok(())
    }
}

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
    static LOCATION: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// Runs `work` and catches its panic, after the panic hook has run.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    static HOOK: Once = Once::new();
    // A thread that is panicking cannot change the hook.
    if !thread::panicking() {
        HOOK.call_once(record_locations);
    }
    let outer = CATCHING.replace(true);
    // Clears the location of an earlier panic that user code caught itself.
    LOCATION.take();
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(outer);
    result.map_err(|payload| {
        let location = LOCATION.take();
        Panic { location, ..Panic::from_payload(payload) }
    })
}

/// Drops a user's value and catches a panic in its destructor, after the panic hook has run.
pub(crate) fn discard<T>(value: T) {
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(value)));
    if let Err(payload) = dropped {
        // The payload's own destructor may panic too.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    }
}

/// Runs several pieces of user code, each whatever the earlier ones did, and then propagates the first panic.
#[derive(Default)]
#[must_use = "the first panic is lost unless it is propagated"]
pub(crate) struct FirstPanic(Option<Box<dyn Any + Send>>);

impl FirstPanic {
    pub(crate) fn run(&mut self, work: impl FnOnce()) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
            match &self.0 {
                None => self.0 = Some(payload),
                // The panic hook has reported this panic.
                Some(_) => discard(payload),
            }
        }
    }

    /// Propagates the first panic, unless the thread unwinds already: another panic would abort the process.
    pub(crate) fn propagate(self) {
        match self.0 {
            Some(payload) if thread::panicking() => discard(payload),
            Some(payload) => resume_unwind(payload),
            None => {}
        }
    }
}

fn record_locations() {
    let previous = take_hook();
    set_hook(Box::new(move |info| {
        // While the thread exits, its thread-locals may already be destroyed.
        if CATCHING.try_with(Cell::get).unwrap_or(false) {
            let location = info.location().map(|location| Arc::from(location.to_string()));
            let _ = LOCATION.try_with(|recorded| recorded.replace(location));
        }
        previous(info);
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
        let panic = catch(|| panic!("broken {}", 7)).map_err(|panic| panic.to_string());
        assert_eq!(panic, Err::<(), _>(format!("broken 7, at {}:{line}:30", file!())));
    }

    #[test]
    fn payload_that_is_not_a_string_has_no_message() {
        let Err(panic) = catch::<()>(|| panic_any(7)) else { panic!("the work panics") };
        assert_eq!(&*panic.message, "(no message)");
    }

    #[test]
    fn unwinding_without_the_hook_has_no_location() {
        let _ = catch(|| panic!("the location of this panic is not reported for the next one"));
        let Err(panic) = catch::<()>(|| resume_unwind(Box::new("quiet"))) else { panic!("the work unwinds") };
        assert_eq!((&*panic.message, panic.location), ("quiet", None));
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
        assert_eq!(&*panic.message, "(no message)");
    }

    #[test]
    fn first_of_several_panics_propagates_after_all_work() {
        let mut done = 0;
        let caught = catch(|| {
            let mut panics = FirstPanic::default();
            for name in ["first", "second"] {
                panics.run(|| resume_unwind(Box::new(name)));
            }
            panics.run(|| done += 1);
            panics.propagate();
            done += 1;
        });
        assert_eq!((caught.map_err(|panic| panic.message), done), (Err("first".into()), 1));
    }

    #[test]
    fn panic_does_not_propagate_from_a_destructor_that_runs_during_unwinding() {
        struct PanicsAgain;
        impl Drop for PanicsAgain {
            fn drop(&mut self) {
                let mut panics = FirstPanic::default();
                panics.run(|| panic!("in the destructor"));
                panics.propagate();
            }
        }
        let caught = catch(|| {
            let _dropped = PanicsAgain;
            resume_unwind(Box::new("first"))
        });
        assert_eq!(caught.map_err(|panic| panic.message), Err::<(), _>("first".into()));
    }

    #[test]
    fn work_without_a_panic_returns_its_value() {
        assert_eq!(catch(|| 7), Ok(7));
    }
}
