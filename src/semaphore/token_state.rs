//! [`TokenState`], the state of a semaphore of tokens, and [`Tokens`], the number of tokens that a caller acquires.
//!
//! ```text
//!  63  62         32 31              0
//! ┌──┬──────────────┬─────────────────┐
//! │ C│   waiting    │ available + 2³¹ │
//! └──┴──────────────┴─────────────────┘
//! ```
//!
//! The number of available tokens is signed. A total that shrinks below the number of held tokens makes it negative:
//! releases pay this debt first. The number occupies the bottom bits, offset by 2³¹, so that it neither carries nor
//! borrows. One comparison decides whether a caller is admitted: if a caller is waiting or the semaphore is closed
//! (`C`), the state is larger than any number of tokens.

use std::iter::Chain;
use std::num::NonZeroU32;
use std::task::Waker;
use std::{option, vec};

use super::state::{SemaphoreState, WakerSet};
use crate::sync::atomic::AtomicU32;

/// The maximum number of tokens of a semaphore.
pub(crate) const MAX_TOKENS: usize = (1 << 31) - 1;
/// The maximum number of callers that can wait for tokens.
pub(crate) const MAX_WAITING_FOR_TOKENS: usize = (1 << 31) - 1;

const NONE_AVAILABLE: u64 = 1 << 31;
const ONE_WAITING: u64 = 1 << 32;

/// The number of tokens that a caller acquires, from 1 to [`MAX_TOKENS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tokens(NonZeroU32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenState(u64);

/// The wakers of the waiters to which one operation granted tokens.
#[derive(Debug, Default)]
pub(crate) struct TokenWakers {
    /// Most releases wake one waiter, for which no memory is allocated.
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl Tokens {
    pub(crate) const ONE: Self = Self(NonZeroU32::MIN);

    pub(crate) const fn new(tokens: usize) -> Option<Self> {
        if tokens > MAX_TOKENS {
            return None;
        }
        match NonZeroU32::new(tokens as u32) {
            Some(tokens) => Some(Self(tokens)),
            None => None,
        }
    }

    pub(crate) const fn count(self) -> usize {
        self.0.get() as usize
    }

    fn to_bits(self) -> u64 {
        self.0.get().into()
    }
}

impl TokenState {
    /// Returns the bits of a state in which all `total` tokens are available. `total` is at most [`MAX_TOKENS`].
    pub(super) const fn all_available(total: usize) -> u64 {
        NONE_AVAILABLE + total as u64
    }

    pub(super) fn available(self) -> i64 {
        (self.0 % ONE_WAITING) as i64 - NONE_AVAILABLE as i64
    }

    /// Returns `true` if more than `own_waiters` callers are waiting, more tokens are held than exist, or the semaphore
    /// is closed.
    pub(super) fn should_release(self, own_waiters: usize) -> bool {
        // The first comparison decides the common case, in which all three conditions are false.
        self.0.wrapping_sub(NONE_AVAILABLE) >= NONE_AVAILABLE
            && (self.waiting() > own_waiters || self.available() < 0 || self.is_closed())
    }

    /// Returns the state after the total has changed by `by` tokens.
    pub(super) fn resized(self, by: i64) -> Self {
        Self(self.0.wrapping_add_signed(by))
    }
}

impl SemaphoreState for TokenState {
    type Weight = Tokens;
    type Permits = ();
    type Wakers = TokenWakers;
    /// The total.
    type Extra = AtomicU32;

    const CLOSED: u64 = 1 << 63;

    fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn to_bits(self) -> u64 {
        self.0
    }

    fn waiting(self) -> usize {
        (self.0 >> 32) as usize & MAX_WAITING_FOR_TOKENS
    }

    #[inline]
    fn admits(self, (): (), tokens: Tokens) -> bool {
        // If too few are available, the difference is negative and wraps.
        self.0.wrapping_sub(NONE_AVAILABLE + tokens.to_bits()) <= MAX_TOKENS as u64 - tokens.to_bits()
    }

    fn has_room(self, (): (), tokens: Tokens) -> bool {
        self.available() >= i64::from(tokens.0.get())
    }

    #[inline]
    fn is_uncontended(self) -> bool {
        self.0 < ONE_WAITING
    }

    #[inline]
    fn acquired(self, tokens: Tokens) -> Self {
        Self(self.0 - tokens.to_bits())
    }

    #[inline]
    fn release_delta(tokens: Tokens) -> u64 {
        tokens.to_bits()
    }

    fn enqueued(self) -> Self {
        Self(self.0 + ONE_WAITING)
    }

    fn dequeued(self, waiters: usize) -> Self {
        Self(self.0 - ONE_WAITING * waiters as u64)
    }

    #[inline]
    fn count_grant(_: &AtomicU32, _: Self) {}
}

impl WakerSet for TokenWakers {
    fn push(&mut self, waker: Waker) {
        match self.first {
            None => self.first = Some(waker),
            Some(_) => self.others.push(waker),
        }
    }
}

impl IntoIterator for TokenWakers {
    type Item = Waker;
    type IntoIter = Chain<option::IntoIter<Waker>, vec::IntoIter<Waker>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.others)
    }
}
