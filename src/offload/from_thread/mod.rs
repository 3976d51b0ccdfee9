//! Back to async code, from a thread that may block: `anyio.from_thread`.
//!
//! | in | to | use |
//! |---|---|---|
//! | a task of a pool, `spawn_blocking` | run async code and wait for it | [`block_on`] |
//! | a task of a pool | check if its result is still wanted | [`check_cancelled`] |
//! | a task of a pool | read a stream | [`iter_from_stream`](super::iter_from_stream) |
//! | a thread without a runtime | run async code in the service's runtime | [`Portal::current`] |
//! | a program without a runtime | run async code at all | [`Portal::start`] |
//!
//! A thread without a runtime is one of your own, of a library, or of C code. Its [`Portal`] is created in async code
//! and passed to it.
//!
//! Async code uses `.await` instead: there, everything that blocks here is refused with
//! [`FromThreadError::BlockingInAsync`].

mod block_on;
mod error;
mod executor;
mod portal;
mod portal_task;

pub use self::block_on::{block_on, check_cancelled};
pub use self::error::FromThreadError;
pub(super) use self::executor::ThreadExecutor;
pub use self::portal::Portal;
pub use self::portal_task::PortalTask;
