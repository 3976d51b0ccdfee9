//! [`LimiterSemaphores`], the tokens for everybody and those in reserve, and who gets which.

use std::task::Waker;

use super::error::LimiterError;
use crate::semaphore::{EnqueueOutcome, MAX_TOKENS, SemaphoreRefusal, TokenSemaphore, Tokens, WaitOutcome, WaiterId};

/// The two semaphores of a limiter.
#[derive(Debug)]
pub(super) struct LimiterSemaphores {
    ordinary: TokenSemaphore,
    /// Lent only to those who ask for it, one token each. Its total does not change.
    reserve: TokenSemaphore,
}

/// What a caller asks for. It stays the same while the caller waits, and with it the lane in which it does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Tokens(Tokens),
    /// One token, of the reserve if it must be.
    Reserved,
    /// No token at all.
    Nothing,
    TooMany,
}

/// Tokens that a caller has, to be given back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loan {
    Ordinary(Tokens),
    /// One token of the reserve.
    Reserve,
    Nothing,
}

impl Ask {
    pub(super) const ONE: Self = Self::Tokens(Tokens::ONE);

    pub(super) fn many(tokens: usize) -> Self {
        match Tokens::new(tokens) {
            Some(tokens) => Self::Tokens(tokens),
            None if tokens == 0 => Self::Nothing,
            None => Self::TooMany,
        }
    }
}

impl Loan {
    pub(super) fn tokens(self) -> usize {
        match self {
            Self::Ordinary(tokens) => tokens.count(),
            Self::Reserve => 1,
            Self::Nothing => 0,
        }
    }
}

impl LimiterSemaphores {
    /// More than [`MAX_TOKENS`] are taken for so many.
    pub(super) const fn new(total: usize, reserve: usize) -> Self {
        Self {
            ordinary: TokenSemaphore::with_total(at_most(total)),
            reserve: TokenSemaphore::with_total(at_most(reserve)),
        }
    }

    pub(super) fn ordinary(&self) -> &TokenSemaphore {
        &self.ordinary
    }

    pub(super) fn both(&self) -> [&TokenSemaphore; 2] {
        [&self.ordinary, &self.reserve]
    }

    pub(super) fn set_total(&self, total: usize) {
        self.ordinary.set_total(at_most(total));
    }

    pub(super) fn close(&self) {
        self.ordinary.close();
        self.reserve.close();
    }

    /// Lends at once, or not at all.
    #[inline]
    pub(super) fn try_lend(&self, ask: Ask) -> Result<Loan, LimiterError> {
        match ask {
            Ask::Tokens(tokens) => self.ordinary.try_acquire(tokens).map(|()| Loan::Ordinary(tokens)).map_err(error),
            Ask::Reserved => match self.ordinary.try_acquire(Tokens::ONE) {
                Ok(()) => Ok(Loan::Ordinary(Tokens::ONE)),
                Err(_) => self.reserve.try_acquire(Tokens::ONE).map(|()| Loan::Reserve).map_err(error),
            },
            Ask::Nothing if self.ordinary.is_closed() => Err(LimiterError::Closed),
            Ask::Nothing => Ok(Loan::Nothing),
            Ask::TooMany => Err(LimiterError::TooMany),
        }
    }

    /// Lends what has come free, or gives the last place in the queue: then there is a ticket, and nothing else.
    pub(super) fn line_up(
        &self,
        ask: Ask,
        ticket: &mut Option<WaiterId>,
        waker: &Waker,
    ) -> Option<Result<Loan, LimiterError>> {
        let Some((lane, tokens, loan)) = self.wait_in(ask) else { return Some(self.try_lend(ask)) };
        match lane.enqueue(tokens, waker) {
            EnqueueOutcome::Acquired => Some(Ok(loan)),
            EnqueueOutcome::Refused(refused) => Some(Err(error(refused))),
            EnqueueOutcome::Queued(place) => {
                *ticket = Some(place);
                None
            }
        }
    }

    /// Asks whether the turn has come. The answer ends the wait: the ticket is gone with it.
    pub(super) fn ask(
        &self,
        ask: Ask,
        ticket: &mut Option<WaiterId>,
        waker: &Waker,
    ) -> Option<Result<Loan, LimiterError>> {
        let (lane, _, loan) = self.wait_in(ask)?;
        lane.poll(ticket, waker).map(|answer| match answer {
            WaitOutcome::Acquired => Ok(loan),
            WaitOutcome::Closed => Err(LimiterError::Closed),
            WaitOutcome::Expired => unreachable!("no turn expires here: none has a time"),
        })
    }

    /// Ends a wait: gives up the place, or passes on the tokens that were set aside for it.
    pub(super) fn withdraw(&self, ask: Ask, ticket: WaiterId) {
        if let Some((lane, ..)) = self.wait_in(ask) {
            lane.cancel(ticket, || None);
        }
    }

    #[inline]
    pub(super) fn give_back(&self, loan: Loan) {
        match loan {
            Loan::Ordinary(tokens) => self.ordinary.release(tokens),
            Loan::Reserve => self.reserve.release(Tokens::ONE),
            Loan::Nothing => {}
        }
    }

    /// The lane in which a caller waits, for how many tokens, and what it has then.
    fn wait_in(&self, ask: Ask) -> Option<(&TokenSemaphore, Tokens, Loan)> {
        match ask {
            Ask::Tokens(tokens) => Some((&self.ordinary, tokens, Loan::Ordinary(tokens))),
            Ask::Reserved if self.reserve.total() > 0 => Some((&self.reserve, Tokens::ONE, Loan::Reserve)),
            Ask::Reserved => Some((&self.ordinary, Tokens::ONE, Loan::Ordinary(Tokens::ONE))),
            Ask::Nothing | Ask::TooMany => None,
        }
    }
}

const fn at_most(tokens: usize) -> usize {
    if tokens > MAX_TOKENS { MAX_TOKENS } else { tokens }
}

#[inline]
fn error(refused: SemaphoreRefusal) -> LimiterError {
    match refused {
        SemaphoreRefusal::Closed => LimiterError::Closed,
        SemaphoreRefusal::Busy | SemaphoreRefusal::QueueFull | SemaphoreRefusal::TooManyKeys => {
            LimiterError::WouldBlock
        }
    }
}
