//! [`catch`], which runs code of a user and turns its panic into a value with message and place.
//!
//! What a panic leaves behind says nothing of where it happened: only the panic hook is told. So the first [`catch`] of
//! the process puts a hook before the one that is there, which notes the place for this thread and then calls that one.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Once};

/// A panic that was caught: what it said, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Panic {
    /// The message, or `(no message)` where the payload is not a string.
    pub message: Arc<str>,
    /// File, line and column. None if the panic hook was replaced since, or if it came from another thread, as where a part of
    /// a `par_iter` panics.
    pub location: Option<Arc<str>>,
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

/// Runs `work`, whose panic ends here. The hook has shown it by then.
pub(crate) fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    static HOOK: Once = Once::new();
    HOOK.call_once(note_locations);
    let outer = CATCHING.replace(true);
    // Of a panic that the user's code caught itself.
    LOCATION.take();
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(outer);
    result.map_err(|payload| {
        let message = message_of(&*payload);
        let location = LOCATION.take();
        discard(payload);
        Panic { message, location }
    })
}

/// Drops a value of the user. A destructor that panics has shown its message, and that is all.
pub(crate) fn discard<T>(value: T) {
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(value)));
    if let Err(payload) = dropped {
        // The payload's own destructor may panic too. Once is enough.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
    }
}

fn note_locations() {
    let before = take_hook();
    set_hook(Box::new(move |info| {
        // During the thread's end the locals may be gone.
        if CATCHING.try_with(Cell::get).unwrap_or(false) {
            let location = info.location().map(|location| Arc::from(location.to_string()));
            let _ = LOCATION.try_with(|noted| noted.replace(location));
        }
        before(info);
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
    use std::panic::{panic_any, resume_unwind};

    use super::*;

    #[test]
    fn message_and_place_come_with_the_panic() {
        let line = line!() + 1;
        let panic = catch(|| panic!("broken {}", 7)).map_err(|panic| panic.to_string());
        assert_eq!(panic, Err::<(), _>(format!("broken 7, at {}:{line}:30", file!())));
    }

    #[test]
    fn a_payload_that_is_no_string_has_no_message() {
        let Err(panic) = catch::<()>(|| panic_any(7)) else { panic!("it panics") };
        assert_eq!(&*panic.message, "(no message)");
    }

    #[test]
    fn what_unwinds_without_the_hook_has_no_place() {
        let _ = catch(|| panic!("the place of this one is not the next one's"));
        let Err(panic) = catch::<()>(|| resume_unwind(Box::new("quiet"))) else { panic!("it unwinds") };
        assert_eq!((&*panic.message, panic.location), ("quiet", None));
    }

    #[test]
    fn a_payload_whose_destructor_panics_is_caught_too() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let Err(panic) = catch::<()>(|| panic_any(Bomb)) else { panic!("it panics") };
        assert_eq!(&*panic.message, "(no message)");
    }

    #[test]
    fn work_that_ends_well_gives_its_value() {
        assert_eq!(catch(|| 7), Ok(7));
    }
}
