//! [`CacheAligned`], a value that shares no cache line with others.

use std::ops::Deref;

/// Keeps a value that several threads write away from values that they only read. Each write takes the cache line from
/// the other processors, which take 100 to 300 ns to get it back.
///
/// Processors fetch lines of 64 bytes in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CacheAligned<T>(pub(crate) T);

impl<T> Deref for CacheAligned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
