//! [`Order`], which determines the waiter that is served first.

/// The order in which waiting callers are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Order {
    /// First in, first out: the caller that has waited longest is served first.
    #[default]
    Fifo,
    /// Last in, first out: the caller that arrived last is served first.
    ///
    /// Under overload the newest caller is the most likely to still want the response. The drawback is that the oldest
    /// caller may never be served: set a `max_wait` as well.
    ///
    /// If the queue is full, the caller that would be served last is refused: a new caller evicts the caller that has
    /// waited longest, whose wait ends at once. (.NET's rate limiters with `QueueProcessingOrder.NewestFirst` do the
    /// same.) A caller that has been granted a permit keeps it. Without a queue, the new caller is refused.
    Lifo,
}
