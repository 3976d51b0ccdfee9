//! [`PoolBuildError`], why a pool could not be built.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::config_error::ConfigError;

/// Why a [`CpuPool`](crate::offload::CpuPool) could not be built. Returned by
/// [`try_build`](crate::offload::CpuPoolBuilder::try_build).
///
/// `Display` names the pool and says what to do.
#[derive(Clone, Debug)]
pub struct PoolBuildError(Cause);

/// The kind of a [`PoolBuildError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PoolBuildErrorKind {
    /// A setting is out of range, or contradicts another one. [`PoolBuildError::config_error`] returns the details.
    InvalidSetting,
    /// The threads could not be started. [`source`](Error::source) returns the cause.
    NoThreads,
}

#[derive(Clone, Debug)]
enum Cause {
    Setting(ConfigError),
    Threads { pool: Cow<'static, str>, source: Arc<dyn Error + Send + Sync> },
}

impl PoolBuildError {
    pub(crate) fn threads(pool: Cow<'static, str>, source: impl Error + Send + Sync + 'static) -> Self {
        Self(Cause::Threads { pool, source: Arc::new(source) })
    }

    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> PoolBuildErrorKind {
        match self.0 {
            Cause::Setting(_) => PoolBuildErrorKind::InvalidSetting,
            Cause::Threads { .. } => PoolBuildErrorKind::NoThreads,
        }
    }

    /// Returns the name of the pool.
    #[must_use]
    pub fn pool(&self) -> &str {
        match &self.0 {
            Cause::Setting(error) => error.name(),
            Cause::Threads { pool, .. } => pool,
        }
    }

    /// Returns the setting that the builder does not accept, and what to do about it.
    #[must_use]
    pub fn config_error(&self) -> Option<&ConfigError> {
        match &self.0 {
            Cause::Setting(error) => Some(error),
            Cause::Threads { .. } => None,
        }
    }
}

impl From<ConfigError> for PoolBuildError {
    fn from(error: ConfigError) -> Self {
        Self(Cause::Setting(error))
    }
}

impl Error for PoolBuildError {
    /// Returns why the threads could not be started.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Cause::Setting(_) => None,
            Cause::Threads { source, .. } => Some(&**source),
        }
    }
}

impl fmt::Display for PoolBuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Cause::Setting(error) => error.fmt(f),
            Cause::Threads { pool, .. } => {
                let advice = "use fewer threads(), or raise the process's thread limit";
                write!(f, "pool `{pool}`: its threads could not be started: {advice}")
            }
        }
    }
}
