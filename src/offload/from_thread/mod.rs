//! Back to async code, from a thread that may block: `anyio.from_thread`.
//!
//! | where you are | what you want | |
//! |---|---|---|
//! | in a task of a pool, in `spawn_blocking` | run async code, and wait for it | [`block_on`] |
//! | in a task of a pool | know whether anybody still waits for it | [`check_cancelled`] |
//! | on a thread that has no runtime: one of your own, of a library, of C | run async code in the service's runtime | [`Portal::current`], made in async code and handed to the thread |
//! | in a program that has no runtime | run async code at all | [`Portal::start`] |
//! | in a task of a pool | read a stream | [`iter_from_stream`](super::iter_from_stream) |
//!
//! In async code there is `.await`: what blocks here is refused there, with [`FromThreadError::BlockingInAsync`].

mod block_on;
mod error;
mod portal;
mod portal_task;
mod waiter;

pub use self::block_on::{block_on, check_cancelled};
pub use self::error::FromThreadError;
pub use self::portal::Portal;
pub use self::portal_task::PortalTask;
pub(super) use self::waiter::Waiter;
