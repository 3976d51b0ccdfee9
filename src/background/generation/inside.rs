//! Whether the code that runs on this thread is a service's, and of which host: what would wait for itself is refused.

use std::cell::Cell;

thread_local! {
    /// The address of the innermost host, or 0.
    static HOST: Cell<usize> = const { Cell::new(0) };
}

/// Until it is dropped, what runs on this thread is a service's.
pub(super) struct Inside {
    outer: usize,
}

impl Inside {
    pub(super) fn enter(host: usize) -> Self {
        Self { outer: HOST.replace(host) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        HOST.set(self.outer);
    }
}

/// Whether what runs on this thread is a service of that host.
pub(crate) fn is_inside(host: usize) -> bool {
    HOST.get() == host
}
