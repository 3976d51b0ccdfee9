//! [`Order`], who of those that wait goes first.

/// Who of those that wait goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// Who came first.
    #[default]
    Fifo,
    /// Who came last. Under overload the newest caller is the one most likely to still be there, at the price that
    /// the oldest may never get a turn: set a `max_wait` with it.
    Lifo,
}
