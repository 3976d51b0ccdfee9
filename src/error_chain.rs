//! [`ErrorChain`], which displays an error together with its sources.

use std::error::Error;
use std::{fmt, iter};

/// How many sources of an error are written. Real chains have a few; a chain that leads back into itself never ends.
const MAX_SOURCES: usize = 32;

/// Displays an error with its sources, `outer: inner: innermost`, and `...` in place of any further ones.
pub(crate) struct ErrorChain<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut sources = iter::successors(self.0.source(), |&error| error.source());
        sources.by_ref().take(MAX_SOURCES).try_for_each(|error| write!(f, ": {error}"))?;
        if sources.next().is_some() { f.write_str(": ...") } else { Ok(()) }
    }
}
