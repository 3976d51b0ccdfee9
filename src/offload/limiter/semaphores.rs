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
    /// Only requests for a reserved token use the reserve, and each acquires one token. The total of the reserve
    /// shrinks only if a permit is forgotten.
    reserve: TokenSemaphore,
    /// `true` if the limiter was created with a reserve. A caller must not change its queue while it waits, so a
    /// reserve that has shrunk to zero is still used.
    has_reserve: bool,
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
pub(super) struct AcquiredTokens {
    ordinary: Option<Tokens>,
    reserve: Option<Tokens>,
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
    pub(super) const NOTHING: Self = Self { ordinary: None, reserve: None };
    pub(super) const ONE: Self = Self::ordinary(Tokens::ONE);
    /// One token of the reserve.
    const RESERVED: Self = Self { ordinary: None, reserve: Some(Tokens::ONE) };

    const fn ordinary(tokens: Tokens) -> Self {
        Self { ordinary: Some(tokens), reserve: None }
    }

    #[inline]
    pub(super) fn count(self) -> usize {
        count(self.ordinary) + count(self.reserve)
    }

    /// Returns the tokens of both values together.
    pub(super) fn merge(self, other: Self) -> Self {
        // A semaphore never has more tokens in use than its largest number of tokens.
        let sum = |left, right| Tokens::new(count(left) + count(right));
        Self { ordinary: sum(self.ordinary, other.ordinary), reserve: sum(self.reserve, other.reserve) }
    }

    /// Removes and returns `tokens` tokens, those of the reserve last. Returns `None` if there are fewer tokens.
    pub(super) fn split(&mut self, tokens: usize) -> Option<Self> {
        let from_reserve = tokens.saturating_sub(count(self.ordinary));
        let remaining_reserve = count(self.reserve).checked_sub(from_reserve)?;
        let from_ordinary = tokens - from_reserve;
        let remaining_ordinary = count(self.ordinary) - from_ordinary;
        *self = Self { ordinary: Tokens::new(remaining_ordinary), reserve: Tokens::new(remaining_reserve) };
        Some(Self { ordinary: Tokens::new(from_ordinary), reserve: Tokens::new(from_reserve) })
    }
}

#[inline]
fn count(tokens: Option<Tokens>) -> usize {
    tokens.map_or(0, Tokens::count)
}

impl LimiterSemaphores {
    const_unless_loom! {
        /// Both numbers are at most [`MAX_TOKENS`](crate::semaphore::MAX_TOKENS).
        pub(super) fn new(total: usize, reserve: usize) -> Self {
            let ordinary = TokenSemaphore::with_total(total);
            Self { ordinary, reserve: TokenSemaphore::with_total(reserve), has_reserve: reserve > 0 }
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
            TokenRequest::Tokens(tokens) => match self.ordinary.try_acquire(tokens) {
                Ok(()) => Ok(AcquiredTokens::ordinary(tokens)),
                Err(refused) => Err(self.error_of(refused, tokens)),
            },
            TokenRequest::Reserved => match self.ordinary.try_acquire(Tokens::ONE) {
                Ok(()) => Ok(AcquiredTokens::ONE),
                Err(_) => self.reserve.try_acquire(Tokens::ONE).map(|()| AcquiredTokens::RESERVED).map_err(error),
            },
            TokenRequest::Nothing if self.ordinary.is_closed() => Err(LimiterError::Closed),
            TokenRequest::Nothing => Ok(AcquiredTokens::NOTHING),
            TokenRequest::TooMany => Err(LimiterError::TooMany),
        }
    }

    /// Returns the error of a caller that requested `tokens` ordinary tokens without waiting.
    fn error_of(&self, refused: SemaphoreRefusal, tokens: Tokens) -> LimiterError {
        match error(refused) {
            // A total of zero is a pause. The tokens may be available after the pause.
            LimiterError::WouldBlock if (1..tokens.count()).contains(&self.ordinary.total()) => {
                LimiterError::AboveTotal
            }
            error => error,
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
            AcquiredTokens { ordinary: Some(tokens), reserve: None } => self.ordinary.try_release(tokens),
            AcquiredTokens { ordinary: None, reserve: Some(tokens) } => self.reserve.try_release(tokens),
            AcquiredTokens { ordinary: None, reserve: None } => true,
            // The release of one semaphore could succeed, and that of the other could fail.
            AcquiredTokens { ordinary: Some(_), reserve: Some(_) } => false,
        }
    }

    /// Returns `true` if the limiter is closed, and no token is held.
    pub(super) fn is_drained(&self) -> bool {
        self.both().into_iter().map(TokenSemaphore::snapshot).all(|now| now.is_closed && now.held() == 0)
    }

    /// Releases tokens, or grants them to the next waiters.
    pub(super) fn release(&self, tokens: AcquiredTokens) {
        match (tokens.ordinary, tokens.reserve) {
            (Some(tokens), None) => self.ordinary.release(tokens),
            (None, Some(tokens)) => self.reserve.release(tokens),
            (None, None) => {}
            (Some(ordinary), Some(reserve)) => {
                let mut panics = FirstPanic::default();
                panics.run(|| self.ordinary.release(ordinary));
                panics.finish(|| self.reserve.release(reserve));
            }
        }
    }

    /// Removes held tokens: the totals shrink by the same numbers.
    pub(super) fn forget(&self, tokens: AcquiredTokens) {
        if let Some(tokens) = tokens.ordinary {
            self.ordinary.forget(tokens);
        }
        if let Some(tokens) = tokens.reserve {
            self.reserve.forget(tokens);
        }
    }

    /// Returns the semaphore that a caller waits for, the number of tokens, and the tokens that the caller holds after
    /// the wait.
    fn queue_for(&self, request: TokenRequest) -> Option<(&TokenSemaphore, Tokens, AcquiredTokens)> {
        match request {
            TokenRequest::Reserved if self.has_reserve => Some((&self.reserve, Tokens::ONE, AcquiredTokens::RESERVED)),
            TokenRequest::Reserved => self.queue_for(TokenRequest::ONE),
            TokenRequest::Tokens(tokens) => Some((&self.ordinary, tokens, AcquiredTokens::ordinary(tokens))),
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
