//! [`poll_until`], which waits for file descriptors until a deadline.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec, poll};
use rustix::io::Errno;

/// Waits until one of the descriptors is ready. Returns `true` if none is ready at the deadline.
pub(super) fn poll_until(events: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match poll(events, left.map(timespec).as_ref()) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? == 0),
        }
    }
}

/// Converts a duration. One that the system can't represent is longer than the machine will run, and so is its
/// replacement.
fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(Timespec { tv_sec: i64::MAX >> 1, tv_nsec: 0 })
}
