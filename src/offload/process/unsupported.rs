//! The counterpart of `linux` for systems on which process pools can't be built.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::codec::Message;
use super::error::ProcessError;
use super::function::Function;
use super::settings::ProcessSettings;
use super::stats::WorkerCounts;
use crate::config_error::Problem;
use crate::offload::limiter::SharedLimiter;

pub(super) fn worker_guard() {}

/// Never used, since no pool is built.
#[derive(Debug, Default)]
pub(super) struct KillSwitch(Option<Infallible>);

impl KillSwitch {
    pub(super) fn fire(&self) {
        if let Some(never) = self.0 {
            match never {}
        }
    }
}

pub(super) struct Call<'a> {
    pub(super) function: Function,
    pub(super) label: &'a str,
    pub(super) deadline: Option<Instant>,
    pub(super) cpu_limit: Option<Duration>,
}

/// A type without a value, since no pool is built.
#[derive(Debug)]
pub(super) struct WorkerSet(Infallible);

impl WorkerSet {
    pub(super) fn check_support(_: &ProcessSettings) -> Result<(), Problem> {
        Err(("process", "process pools need Linux: use a CpuPool on this system"))
    }

    pub(super) fn new(_: ProcessSettings, _: SharedLimiter) -> Arc<Self> {
        unreachable!("check_support() has returned an error")
    }

    pub(super) fn run<R>(
        &self,
        _: &Call<'_>,
        _: impl FnOnce(&mut Message) -> Result<(), String>,
        _: impl FnOnce(&[u8], Vec<Bytes>) -> Result<R, String>,
        _: &KillSwitch,
    ) -> Result<R, ProcessError> {
        match self.0 {}
    }

    pub(super) fn close(&self) {
        match self.0 {}
    }

    pub(super) fn counts(&self) -> WorkerCounts {
        match self.0 {}
    }
}
