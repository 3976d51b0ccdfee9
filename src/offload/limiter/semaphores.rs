//! [`LimiterSemaphores`], the ordinary tokens and the reserve, and which of them a request gets.

use std::task::Waker;

use super::error::LimiterError;
use crate::panic::FirstPanic;
use crate::semaphore::{EnqueueOutcome, SemaphoreRefusal, TokenSemaphore, Tokens, WaitOutcome, WaiterId};
use crate::sync::const_unless_loom;

/// The two semaphores of a limiter.
#[derive(Debug)]
pub(super) struct LimiterSemaphores {
    ordinary: TokenSemaphore,
    /// Only requests for a reserved token use the reserve, and each acquires one token. Its total does not change.
    reserve: TokenSemaphore,
}

/// What a caller requests. It stays the same while the caller waits, and so does the semaphore that the caller waits
/// for.
#[derive(Clone, Copy, Debug)]
pub(super) enum TokenRequest {
    Tokens(Tokens),
    /// One token, from the reserve if no other is free.
    Reserved,
    /// Zero tokens.
    Nothing,
    TooMany,
}

/// Tokens that a caller has acquired and must release.
#[derive(Clone, Copy, Debug)]
pub(super) enum AcquiredTokens {
    Ordinary(Tokens),
    /// One token of the reserve.
    Reserve,
    Nothing,
}

impl TokenRequest {
    pub(super) const ONE: Self = Self::Tokens(Tokens::ONE);

    pub(super) fn many(tokens: usize) -> Self {
        match Tokens::new(tokens) {
            Some(tokens) => Self::Tokens(tokens),
            None if tokens == 0 => Self::Nothing,
            None => Self::TooMany,
        }
    }
}

impl AcquiredTokens {
    pub(super) fn count(self) -> usize {
        match self {
            Self::Ordinary(tokens) => tokens.count(),
            Self::Reserve => 1,
            Self::Nothing => 0,
        }
    }
}

impl LimiterSemaphores {
    const_unless_loom! {
        /// Both numbers are at most [`MAX_TOKENS`](crate::semaphore::MAX_TOKENS).
        pub(super) fn new(total: usize, reserve: usize) -> Self {
            Self { ordinary: TokenSemaphore::with_total(total), reserve: TokenSemaphore::with_total(reserve) }
        }
    }

    pub(super) fn ordinary(&self) -> &TokenSemaphore {
        &self.ordinary
    }

    pub(super) fn both(&self) -> [&TokenSemaphore; 2] {
        [&self.ordinary, &self.reserve]
    }

    pub(super) fn close(&self) {
        let mut panics = FirstPanic::default();
        for semaphore in self.both() {
            panics.run(|| semaphore.close());
        }
        panics.propagate();
    }

    /// Acquires the tokens without waiting.
    #[inline]
    pub(super) fn try_acquire(&self, request: TokenRequest) -> Result<AcquiredTokens, LimiterError> {
        match request {
            TokenRequest::Tokens(tokens) => {
                self.ordinary.try_acquire(tokens).map(|()| AcquiredTokens::Ordinary(tokens)).map_err(error)
            }
            TokenRequest::Reserved => match self.ordinary.try_acquire(Tokens::ONE) {
                Ok(()) => Ok(AcquiredTokens::Ordinary(Tokens::ONE)),
                Err(_) => self.reserve.try_acquire(Tokens::ONE).map(|()| AcquiredTokens::Reserve).map_err(error),
            },
            TokenRequest::Nothing if self.ordinary.is_closed() => Err(LimiterError::Closed),
            TokenRequest::Nothing => Ok(AcquiredTokens::Nothing),
            TokenRequest::TooMany => Err(LimiterError::TooMany),
        }
    }

    /// Acquires tokens released in the meantime, or enters the queue. Sets `waiter` and returns `None` if the caller is
    /// queued.
    pub(super) fn enqueue(
        &self,
        request: TokenRequest,
        waiter: &mut Option<WaiterId>,
        waker: &Waker,
    ) -> Option<Result<AcquiredTokens, LimiterError>> {
        let Some((semaphore, tokens, acquired)) = self.queue_for(request) else {
            return Some(self.try_acquire(request));
        };
        match semaphore.enqueue(tokens, waker) {
            EnqueueOutcome::Acquired => Some(Ok(acquired)),
            EnqueueOutcome::Refused(refused) => Some(Err(error(refused))),
            EnqueueOutcome::Queued(queued) => {
                *waiter = Some(queued);
                None
            }
        }
    }

    /// Returns the outcome of the wait once the wait has ended. By then the waiter has left the queue, and `waiter` is
    /// `None`.
    pub(super) fn poll_waiter(
        &self,
        request: TokenRequest,
        waiter: &mut Option<WaiterId>,
        waker: &Waker,
    ) -> Option<Result<AcquiredTokens, LimiterError>> {
        let (semaphore, _, acquired) = self.queue_for(request)?;
        semaphore.poll(waiter, waker).map(|outcome| match outcome {
            WaitOutcome::Acquired => Ok(acquired),
            WaitOutcome::Closed => Err(LimiterError::Closed),
            WaitOutcome::Expired => unreachable!("a limiter's grants have no time limit"),
            WaitOutcome::Evicted => unreachable!("a limiter serves its callers in FIFO order"),
        })
    }

    /// Removes a waiter from the queue. Tokens that were granted to it go to the next waiters.
    pub(super) fn cancel(&self, request: TokenRequest, waiter: WaiterId) {
        if let Some((semaphore, ..)) = self.queue_for(request) {
            semaphore.cancel(waiter, || None);
        }
    }

    /// Releases tokens if no caller is waiting for them, and the limiter is open.
    #[inline]
    pub(super) fn try_release(&self, tokens: AcquiredTokens) -> bool {
        match tokens {
            AcquiredTokens::Ordinary(tokens) => self.ordinary.try_release(tokens),
            AcquiredTokens::Reserve => self.reserve.try_release(Tokens::ONE),
            AcquiredTokens::Nothing => true,
        }
    }

    /// Returns `true` if the limiter is closed, and no token is held.
    pub(super) fn is_drained(&self) -> bool {
        self.both().into_iter().map(TokenSemaphore::snapshot).all(|now| now.is_closed && now.held() == 0)
    }

    /// Releases tokens, or grants them to the next waiters.
    pub(super) fn release(&self, tokens: AcquiredTokens) {
        match tokens {
            AcquiredTokens::Ordinary(tokens) => self.ordinary.release(tokens),
            AcquiredTokens::Reserve => self.reserve.release(Tokens::ONE),
            AcquiredTokens::Nothing => {}
        }
    }

    /// Returns the semaphore that a caller waits for, the number of tokens, and the tokens that the caller holds after
    /// the wait.
    fn queue_for(&self, request: TokenRequest) -> Option<(&TokenSemaphore, Tokens, AcquiredTokens)> {
        match request {
            TokenRequest::Reserved if self.reserve.total() > 0 => {
                Some((&self.reserve, Tokens::ONE, AcquiredTokens::Reserve))
            }
            TokenRequest::Reserved => self.queue_for(TokenRequest::ONE),
            TokenRequest::Tokens(tokens) => Some((&self.ordinary, tokens, AcquiredTokens::Ordinary(tokens))),
            TokenRequest::Nothing | TokenRequest::TooMany => None,
        }
    }
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
