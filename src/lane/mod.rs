//! The lane: permits, and the queue in front of them.
//!
//! | file | what it is |
//! |---|---|
//! | `admission` | a lane of its own, which is entered and left without its mutex while nobody waits |
//! | `turns` | the algorithm: who enters, waits, is handed a permit, gives up |
//! | `word`, `atomic_word` | the state that one compare-exchange changes |
//! | `queue` | who waits, behind the mutex |
//! | `outcome` | what a lane answers |
//! | `order` | who of those that wait goes first |

mod admission;
mod atomic_word;
mod order;
mod outcome;
mod queue;
mod turns;
mod word;

pub(crate) use self::admission::{Lane, wake_all};
pub use self::order::Order;
pub(crate) use self::outcome::{Answer, Gone, Joined, Refused, Snapshot};
pub(crate) use self::queue::{Line, Slots, Ticket};
pub(crate) use self::turns::{Look, Rules, Tally, Turns, WordCell};
pub(crate) use self::word::{MAX_PERMITS, MAX_WAITING, Word};
