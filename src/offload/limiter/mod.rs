//! The limiter: tokens that are lent, and the callers that wait for them.
//!
//! | file | what it is |
//! |---|---|
//! | `capacity_limiter` | the limiter |
//! | `lanes` | its two lanes: the tokens for everybody, and those in reserve |
//! | `acquire`, `blocking` | waiting for tokens, in a task and on a thread |
//! | `by_hand` | the same without futures and permits, for the crate itself |
//! | `permit` | tokens that are lent |
//! | `statistics`, `error` | what it tells |

mod acquire;
mod blocking;
mod by_hand;
mod capacity_limiter;
mod error;
mod lanes;
mod permit;
mod statistics;

pub use self::acquire::{AcquireTokens, AcquireTokensOwned};
pub use self::capacity_limiter::CapacityLimiter;
pub use self::error::LimiterError;
pub use self::permit::{LimiterPermit, OwnedLimiterPermit};
pub use self::statistics::LimiterStatistics;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::CapacityLimiter;
    use crate::lane::{Answer, Gone, Joined, Refused};

    fn ticket(joined: Joined) -> Option<crate::lane::Ticket> {
        match joined {
            Joined::Queued(ticket) => Some(ticket),
            joined => panic!("nothing is free: {joined:?}"),
        }
    }

    #[test]
    fn tokens_taken_by_hand_stand_in_the_queue_of_the_futures() {
        let limiter = CapacityLimiter::new(1);
        assert_eq!(limiter.try_enter(), Ok(()));
        assert!(!limiter.must_yield(), "nobody wants it");
        let mut place = ticket(limiter.join(Waker::noop()));
        assert!(limiter.must_yield(), "someone waits");
        assert_eq!((limiter.ask(&mut place, Waker::noop()), limiter.try_enter()), (None, Err(Refused::Busy)));
        limiter.give_back();
        assert_eq!(limiter.ask(&mut place, Waker::noop()), Some(Answer::Entered));
        assert!(!limiter.must_yield());
        let next = ticket(limiter.join(Waker::noop()));
        assert_eq!(next.map(|next| limiter.leave(next)), Some(Gone::Waiting));
        limiter.give_back();
        assert!(matches!(limiter.join(Waker::noop()), Joined::Entered));
        limiter.set_total(0);
        assert!(limiter.must_yield(), "one is lent that there is no longer");
        limiter.give_back();
        assert!(!limiter.must_yield());
        limiter.close();
        assert!(limiter.must_yield(), "nothing is lent any more");
        assert_eq!(limiter.try_enter(), Err(Refused::Closed));
        assert_eq!((limiter.statistics().borrowed, limiter.statistics().waiting), (0, 0));
    }
}
