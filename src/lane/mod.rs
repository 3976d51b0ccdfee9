//! The lane: permits or tokens, and the queue in front of them.
//!
//! | file | what it is |
//! |---|---|
//! | `admission` | a lane of its own, which is entered and left without its mutex while nobody waits |
//! | `token_lane` | a lane of its own that lends tokens: callers ask for several, and the total changes |
//! | `turns` | the algorithm: who enters, waits, is handed what came back, gives up |
//! | `lane_word` | what the algorithm must know of the state |
//! | `word`, `tokens`, `atomic_word` | the state that one compare-exchange changes, of permits and of tokens |
//! | `queue` | who waits, behind the mutex |
//! | `outcome` | what a lane answers |
//! | `order` | who of those that wait goes first |

mod admission;
mod atomic_word;
mod lane_word;
mod order;
mod outcome;
mod queue;
mod token_lane;
mod tokens;
mod turns;
mod word;

pub(crate) use self::admission::{Lane, wake_all};
pub(crate) use self::lane_word::LaneWord;
pub use self::order::Order;
pub(crate) use self::outcome::{Answer, Gone, Joined, Refused, Snapshot};
pub(crate) use self::queue::{Line, Slots, Ticket};
pub(crate) use self::token_lane::TokenLane;
pub(crate) use self::tokens::{MAX_TOKENS, Tokens};
pub(crate) use self::turns::{Look, Rules, Tally, Turns, WordCell};
pub(crate) use self::word::{MAX_PERMITS, MAX_WAITING, Word};
