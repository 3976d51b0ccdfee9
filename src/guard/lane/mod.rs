//! The lane: permits, and the queue in front of them.
//!
//! | file | what it is |
//! |---|---|
//! | `admission` | the algorithm: who enters, waits, is handed a permit, gives up |
//! | `word` | the state that one compare-exchange changes |
//! | `queue` | who waits, behind the mutex |
//! | `outcome` | what a lane answers |
//! | `order` | who of those that wait goes first |

mod admission;
mod order;
mod outcome;
mod queue;
mod word;

pub(crate) use self::admission::Lane;
pub use self::order::Order;
pub(crate) use self::outcome::{Answer, Gone, Joined, Refused};
pub(crate) use self::queue::Ticket;
pub(crate) use self::word::{MAX_PERMITS, MAX_WAITING};
