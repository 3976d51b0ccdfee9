//! The stack of a blocked thread, and the hint that the stack gives.
//!
//! | file | contents |
//! |---|---|
//! | `frames` | [`Stack`] and [`Frame`], the parts of a report |
//! | `hint` | [`Hint`], how to fix the code that blocks |
//! | `linux` | the capture of stacks on Linux |
//! | `disabled` | the capture of stacks where it is not available |

#[cfg(not(all(feature = "backtrace", target_os = "linux")))]
mod disabled;
mod frames;
mod hint;
#[cfg(all(feature = "backtrace", target_os = "linux"))]
mod linux;

#[cfg(not(all(feature = "backtrace", target_os = "linux")))]
pub(super) use self::disabled::Capture;
pub use self::frames::{Frame, Stack};
pub use self::hint::Hint;
#[cfg(all(feature = "backtrace", target_os = "linux"))]
pub(super) use self::linux::Capture;
