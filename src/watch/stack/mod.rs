//! The stack of a blocked thread, and what it says.
//!
//! | file | contents |
//! |---|---|
//! | `frames` | [`Stack`] and [`Frame`], what a report contains |
//! | `hint` | [`Hint`], what to do about a blocked worker |
//! | `disabled` | the capture of stacks where it is not available |

mod disabled;
mod frames;
mod hint;

pub(super) use self::disabled::Capture;
pub use self::frames::{Frame, Stack};
pub use self::hint::Hint;
