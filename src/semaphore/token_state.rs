//! [`TokenState`], the state of a lane that lends tokens, and [`Tokens`], how many a caller asks for.
//!
//! ```text
//!  63  62         32 31         0
//! ┌──┬──────────────┬────────────┐
//! │ C│   waiting    │ free + 2³¹ │
//! └──┴──────────────┴────────────┘
//! ```
//!
//! The number of free tokens has a sign: a total that shrinks below what is borrowed makes it negative, a debt that
//! those who give back pay first. It stands at the bottom, moved up by 2³¹, so that it neither carries nor borrows.
//! One comparison tells whether a caller may pass: with anyone waiting or the lane closed (`C`), the word is larger
//! than any number of tokens.

use std::iter::Chain;
use std::num::NonZeroU32;
use std::task::Waker;
use std::{option, vec};

use super::state::{Next, State};
use crate::sync::atomic::AtomicU32;

/// The most tokens that a lane can lend.
pub(crate) const MAX_TOKENS: usize = (1 << 31) - 1;
/// The most callers that can wait for tokens.
pub(crate) const MAX_WAITING_FOR_TOKENS: usize = (1 << 31) - 1;

const NONE_FREE: u64 = 1 << 31;
const ONE_WAITING: u64 = 1 << 32;

/// How many tokens a caller asks for: from 1 to [`MAX_TOKENS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tokens(NonZeroU32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenState(u64);

/// Those who wait and whose tokens came back together.
#[derive(Debug, Default)]
pub(crate) struct Several {
    /// Most often it is one: no memory is taken for it.
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

    fn bits(self) -> u64 {
        self.0.get().into()
    }
}

impl TokenState {
    /// The bits of a word of which every one of `total` tokens is free. `total` is at most [`MAX_TOKENS`].
    pub(super) const fn all_free(total: usize) -> u64 {
        NONE_FREE + total as u64
    }

    pub(super) fn free(self) -> i64 {
        (self.0 % ONE_WAITING) as i64 - NONE_FREE as i64
    }

    /// More wait than so many, more is borrowed than there is, or the lane is closed.
    pub(super) fn wants_back(self, beside: usize) -> bool {
        // The first of these is what there is most often: nobody waits, and nothing else is the case.
        self.0.wrapping_sub(NONE_FREE) >= NONE_FREE && (self.waiting() > beside || self.free() < 0 || self.is_closed())
    }

    /// The total has changed by so many.
    pub(super) fn resized(self, by: i64) -> Self {
        Self(self.0.wrapping_add_signed(by))
    }
}

impl State for TokenState {
    type Weight = Tokens;
    type Permits = ();
    type Next = Several;
    /// The total.
    type Beside = AtomicU32;

    const CLOSED: u64 = 1 << 63;

    fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn bits(self) -> u64 {
        self.0
    }

    fn waiting(self) -> usize {
        (self.0 >> 32) as usize & MAX_WAITING_FOR_TOKENS
    }

    #[inline]
    fn admits(self, (): (), tokens: Tokens) -> bool {
        // Too few free are a number below zero, which wraps.
        self.0.wrapping_sub(NONE_FREE + tokens.bits()) <= MAX_TOKENS as u64 - tokens.bits()
    }

    fn has_room(self, (): (), tokens: Tokens) -> bool {
        self.free() >= i64::from(tokens.0.get())
    }

    #[inline]
    fn is_quiet(self) -> bool {
        self.0 < ONE_WAITING
    }

    #[inline]
    fn entered(self, tokens: Tokens) -> Self {
        Self(self.0 - tokens.bits())
    }

    #[inline]
    fn freed(tokens: Tokens) -> u64 {
        tokens.bits()
    }

    fn joined(self) -> Self {
        Self(self.0 + ONE_WAITING)
    }

    fn stopped_waiting(self, callers: usize) -> Self {
        Self(self.0 - ONE_WAITING * callers as u64)
    }

    #[inline]
    fn count(_: &AtomicU32, _: Self) {}
}

impl Next for Several {
    fn push(&mut self, waker: Waker) {
        match self.first {
            None => self.first = Some(waker),
            Some(_) => self.others.push(waker),
        }
    }
}

impl IntoIterator for Several {
    type Item = Waker;
    type IntoIter = Chain<option::IntoIter<Waker>, vec::IntoIter<Waker>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.others)
    }
}
