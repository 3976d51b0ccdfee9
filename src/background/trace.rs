//! The `tracing` events of a service host, one function each.

use std::io;
use std::time::Duration;

use super::{CleanUp, Exit, ExitKind, HostPhase, ShutdownReport, Trigger};
use crate::panic::catch;
use crate::trace::TARGET;

/// Emits an event. Both the `Display` of a service's error and a subscriber may panic, which must not end the
/// supervisor. The panic hook has already reported such a panic.
fn emit(event: impl FnOnce()) {
    let _ = catch(event);
}

pub(crate) fn host_phase(phase: HostPhase) {
    emit(|| tracing::debug!(target: TARGET, %phase, "host phase changed"));
}

pub(crate) fn host_stops(trigger: &Trigger) {
    emit(|| tracing::info!(target: TARGET, %trigger, "host stopping"));
}

pub(crate) fn host_is_forced(trigger: &Trigger) {
    emit(|| tracing::warn!(target: TARGET, %trigger, "shutdown forced: the host no longer waits for anything"));
}

pub(crate) fn host_stopped(report: &ShutdownReport) {
    let (took, is_clean) = (report.took, report.is_clean());
    emit(|| tracing::info!(target: TARGET, ?took, is_clean, "host stopped"));
}

pub(crate) fn work_unfinished(report: &ShutdownReport) {
    for work in report.unfinished() {
        let (name, count) = (work.name(), work.count());
        emit(|| tracing::error!(target: TARGET, name, count, "work unfinished: the host could not wait for it"));
    }
}

pub(crate) fn exiting_on_signal(signal: i32) {
    emit(|| tracing::warn!(target: TARGET, signal, "signal received after the host stopped: exiting at once"));
}

#[cfg(feature = "probe-listener")]
pub(crate) fn probe_accept_failed(error: &io::Error) {
    emit(|| tracing::warn!(target: TARGET, %error, "accepting a probe connection failed: retrying shortly"));
}

pub(crate) fn process_still_running(limit: Duration) {
    emit(|| tracing::error!(target: TARGET, ?limit, "process still running after its host stopped: exiting"));
}

pub(crate) fn server_cut_off() {
    let message = "server did not end in time and was dropped: does it watch HostHandle::draining?";
    emit(|| tracing::warn!(target: TARGET, message));
}

pub(crate) fn signals_unavailable(error: &io::Error) {
    emit(|| tracing::error!(target: TARGET, %error, "listening for signals failed"));
}

pub(crate) fn service_started(service: &str, took: Duration) {
    emit(|| tracing::debug!(target: TARGET, service, ?took, "service started"));
}

pub(crate) fn generation_ended(service: &str, exit: &Exit, clean_up: &CleanUp) {
    let (generation, exit_kind) = (exit.generation, &exit.kind);
    if exit.is_failure() || !clean_up.is_clean() {
        emit(|| tracing::warn!(target: TARGET, service, generation, exit = %exit_kind, %clean_up, "service failed"));
    } else {
        emit(|| tracing::debug!(target: TARGET, service, generation, exit = %exit_kind, "service ended"));
    }
}

pub(crate) fn tick_failed(service: &str, exit: &ExitKind) {
    emit(|| tracing::warn!(target: TARGET, service, %exit, "call of periodic service failed"));
}

pub(crate) fn backing_off(service: &str, failures: u32, delay: Duration) {
    emit(|| tracing::info!(target: TARGET, service, failures, ?delay, "service restarting"));
}

pub(crate) fn given_up(service: &str) {
    emit(|| tracing::error!(target: TARGET, service, "host gave up on the service"));
}

pub(crate) fn heartbeat_missed(service: &str, limit: Duration) {
    emit(|| tracing::warn!(target: TARGET, service, ?limit, "service missed its heartbeat"));
}

pub(crate) fn cut_off_service(service: &str) {
    emit(|| tracing::warn!(target: TARGET, service, "service did not stop in time: dropping it"));
}

pub(crate) fn leaked(service: &str) {
    emit(|| tracing::error!(target: TARGET, service, "service blocks its thread: leaving the thread running"));
}

pub(crate) fn runtime_lags(lag: Duration, in_poll: &[&str]) {
    emit(|| tracing::warn!(target: TARGET, ?lag, ?in_poll, "server runtime is blocked: tasks are not polled in time"));
}
