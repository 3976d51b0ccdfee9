//! [`ProcessSettings`], the configuration of a process pool.

use std::borrow::Cow;
use std::time::Duration;

#[cfg(feature = "landlock")]
use super::sandbox::Sandbox;

#[derive(Clone, Debug)]
pub(super) struct ProcessSettings {
    pub(super) name: Cow<'static, str>,
    pub(super) timeout: Option<Duration>,
    pub(super) kill_grace: Duration,
    pub(super) cpu_limit: Option<Duration>,
    pub(super) start_timeout: Duration,
    pub(super) initializer: Option<fn()>,
    pub(super) memory_limit: Option<u64>,
    pub(super) max_tasks_per_worker: Option<u64>,
    pub(super) recycle_above: Option<u64>,
    pub(super) min_idle: usize,
    pub(super) idle_timeout: Duration,
    pub(super) max_reply: usize,
    pub(super) forwards_stderr: bool,
    pub(super) clears_environment: bool,
    #[cfg(feature = "landlock")]
    pub(super) sandbox: Option<Sandbox>,
}

impl ProcessSettings {
    pub(super) fn new(name: Cow<'static, str>) -> Self {
        Self {
            name,
            timeout: None,
            kill_grace: Duration::ZERO,
            cpu_limit: None,
            start_timeout: Duration::from_secs(10),
            initializer: None,
            memory_limit: None,
            max_tasks_per_worker: None,
            recycle_above: None,
            min_idle: 0,
            idle_timeout: Duration::from_secs(60),
            max_reply: 256 << 20,
            forwards_stderr: true,
            clears_environment: false,
            #[cfg(feature = "landlock")]
            sandbox: None,
        }
    }
}
