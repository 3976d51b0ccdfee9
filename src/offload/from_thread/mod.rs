//! Runs async code from a thread that may block, like `anyio.from_thread`.
//!
//! | in | to | use |
//! |---|---|---|
//! | a task of a pool, `spawn_blocking` | run async code and wait for it | [`block_on`] |
//! | a task of a pool | check if its result is still wanted | [`check_cancelled`] |
//! | a task of a pool | read a stream | [`iter_from_stream`](super::iter_from_stream) |
//! | a thread without a runtime | run async code in the service's runtime | [`Portal::current`] |
//! | a program without a runtime | run async code at all | [`Portal::start`] |
//!
//! A thread without a runtime may belong to your program, to a library, or to C code. Create its [`Portal`] in async
//! code, and pass the portal to the thread.
//!
//! Async code uses `.await` instead. On a thread that runs async tasks, the calls that block return
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
