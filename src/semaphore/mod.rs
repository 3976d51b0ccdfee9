//! The semaphore: permits or tokens, and the queue of callers that wait for them.
//!
//! | file | contents |
//! |---|---|
//! | `semaphore` | [`Semaphore`], whose fast path takes no mutex while no caller is waiting |
//! | `token_semaphore` | [`TokenSemaphore`]: callers acquire several tokens at once, and the total can change |
//! | `wait_queue` | the algorithm: enqueue, poll, cancel, release, grant, close |
//! | `state` | the trait of the states that the algorithm works on |
//! | `permit_state`, `token_state` | the two states, each packed into 64 bits |
//! | `atomic_state` | a state in an atomic, changed by one compare-exchange |
//! | `waiters` | the waiters, protected by the mutex |
//! | `outcome` | the results of the operations |
//! | `order` | which waiter is served first |

mod atomic_state;
#[cfg(all(test, loom))]
mod loom_tests;
mod order;
mod outcome;
mod permit_state;
#[cfg(all(test, not(loom)))]
mod property_tests;
#[expect(clippy::module_inception, reason = "a file is named after the type in it")]
mod semaphore;
mod state;
#[cfg(all(test, loom))]
mod token_loom_tests;
#[cfg(all(test, not(loom)))]
mod token_property_tests;
mod token_semaphore;
mod token_state;
mod wait_queue;
mod waiters;

pub use self::order::Order;
pub(crate) use self::outcome::{
    CancelOutcome, EnqueueOutcome, ReleaseOutcome, SemaphoreRefusal, SemaphoreSnapshot, WaitOutcome,
};
pub(crate) use self::permit_state::{MAX_PERMITS, MAX_WAITING, PermitState};
pub(crate) use self::semaphore::Semaphore;
pub(crate) use self::state::SemaphoreState;
pub(crate) use self::token_semaphore::TokenSemaphore;
pub(crate) use self::token_state::{MAX_TOKENS, Tokens};
pub(crate) use self::wait_queue::{SemaphoreConfig, StateCell, WaitCounters, WaitQueue, WaitTotals, WaiterPoll};
pub(crate) use self::waiters::{WaiterId, WaiterList, WaiterSlots};
