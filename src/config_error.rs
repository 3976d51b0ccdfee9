//! [`ConfigError`], the error of a builder.

use std::fmt;

/// A setting that a builder does not accept. Returned by the `try_build` methods, for values that come from a
/// configuration; `build` panics instead.
///
/// `Display` gives the name, the setting and what to do: ``"guard `export`: permits(0) admits no caller: …"``.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    kind: &'static str,
    name: &'static str,
    setting: &'static str,
    problem: &'static str,
}

impl ConfigError {
    pub(crate) const fn new(kind: &'static str, name: &'static str, (setting, problem): Problem) -> Self {
        Self { kind, name, setting, problem }
    }

    /// Returns the name of the guard, flight, limiter or pool that was to be built.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name
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
        write!(f, "{kind} `{name}`: {problem}")
    }
}

impl std::error::Error for ConfigError {}
