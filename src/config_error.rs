//! [`ConfigError`], the error of a builder.

use std::borrow::Cow;
use std::fmt;

/// A setting that a builder does not accept. Returned by the `try_…` methods, such as `try_build`, for values that come
/// from a configuration; the methods without `try_` panic instead.
///
/// `Display` contains the name, the problem and what to do: ``"guard `export`: permits(0) admits no caller: …"``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    kind: &'static str,
    name: Cow<'static, str>,
    setting: &'static str,
    problem: &'static str,
}

impl ConfigError {
    pub(crate) const fn new(kind: &'static str, name: &'static str, (setting, problem): Problem) -> Self {
        Self { kind, name: Cow::Borrowed(name), setting, problem }
    }

    /// Creates the error of a pool whose name may come from a configuration.
    #[cfg(feature = "offload")]
    pub(crate) fn named(kind: &'static str, name: Cow<'static, str>, (setting, problem): Problem) -> Self {
        Self { kind, name, setting, problem }
    }

    /// Returns the name of the guard, flight or pool that was to be built. Empty for a limiter, which has no name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the setting: the name of the builder's method, such as `"permits"`.
    #[must_use]
    pub fn setting(&self) -> &str {
        self.setting
    }
}

/// A setting that is out of range, and what to do about it.
pub(crate) type Problem = (&'static str, &'static str);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, problem, .. } = self;
        if name.is_empty() {
            return write!(f, "{kind}: {problem}");
        }
        write!(f, "{kind} `{name}`: {problem}")
    }
}

impl std::error::Error for ConfigError {}
