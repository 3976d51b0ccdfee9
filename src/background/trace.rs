//! The `tracing` events of a service host: one function for each event.

use std::io;
use std::time::Duration;

use super::{CleanUp, Exit, ExitKind, HostPhase, ShutdownReport, Trigger};
use crate::panic::catch;
use crate::trace::TARGET;

/// Emits an event. The `Display` of a service's error may panic, and so may a subscriber: neither panic may end the
/// supervisor. The panic hook has already reported it.
fn emit(event: impl FnOnce()) {
    let _ = catch(event);
}

pub(crate) fn host_phase(phase: HostPhase) {
    emit(|| tracing::debug!(target: TARGET, %phase, "host goes on to its next phase"));
}

pub(crate) fn host_stops(trigger: &Trigger) {
    emit(|| tracing::info!(target: TARGET, %trigger, "host stops"));
}

pub(crate) fn host_is_forced(trigger: &Trigger) {
    emit(|| tracing::warn!(target: TARGET, %trigger, "stop is forced: nothing is waited for any more"));
}

pub(crate) fn host_stopped(report: &ShutdownReport) {
    let (took, is_clean) = (report.took, report.is_clean());
    emit(|| tracing::info!(target: TARGET, ?took, is_clean, "host has stopped"));
}

pub(crate) fn exits_at_once(signal: i32) {
    emit(|| tracing::warn!(target: TARGET, signal, "a signal after the host has stopped: the process ends at once"));
}

#[cfg(feature = "hyper")]
pub(crate) fn no_connection(error: &io::Error) {
    emit(|| tracing::warn!(target: TARGET, %error, "no probe can be accepted for a moment"));
}

pub(crate) fn process_is_stuck(limit: Duration) {
    tracing::error!(target: TARGET, ?limit, "the process has not ended after its host has: it is ended");
}

pub(crate) fn server_cut_off() {
    let message = "the server has not ended in time and is dropped: does it listen to HostHandle::draining?";
    tracing::warn!(target: TARGET, message);
}

pub(crate) fn no_signals(error: &io::Error) {
    emit(|| tracing::error!(target: TARGET, %error, "signals can't be listened to"));
}

pub(crate) fn service_started(service: &str, took: Duration) {
    emit(|| tracing::debug!(target: TARGET, service, ?took, "service has started"));
}

pub(crate) fn generation_ended(service: &str, exit: &Exit, clean_up: &CleanUp) {
    let (generation, exit_kind) = (exit.generation, &exit.kind);
    if exit.is_failure() || !clean_up.is_clean() {
        emit(
            || tracing::warn!(target: TARGET, service, generation, exit = %exit_kind, %clean_up, "service has failed"),
        );
    } else {
        emit(|| tracing::debug!(target: TARGET, service, generation, exit = %exit_kind, "service has ended"));
    }
}

pub(crate) fn tick_failed(service: &str, exit: &ExitKind) {
    emit(|| tracing::warn!(target: TARGET, service, %exit, "a call of the periodic service has failed"));
}

pub(crate) fn backing_off(service: &str, failures: u32, delay: Duration) {
    emit(|| tracing::info!(target: TARGET, service, failures, ?delay, "service will be started again"));
}

pub(crate) fn given_up(service: &str) {
    emit(|| tracing::error!(target: TARGET, service, "service is given up"));
}

pub(crate) fn heartbeat_missed(service: &str, limit: Duration) {
    emit(|| tracing::warn!(target: TARGET, service, ?limit, "service has missed its heartbeat"));
}

pub(crate) fn cut_off_service(service: &str) {
    emit(|| tracing::warn!(target: TARGET, service, "service has not stopped in time: it is dropped where it waits"));
}

pub(crate) fn leaked(service: &str) {
    emit(|| tracing::error!(target: TARGET, service, "service blocks its thread and is left behind"));
}

pub(crate) fn runtime_lags(lag: Duration, in_poll: &[&str]) {
    emit(|| tracing::warn!(target: TARGET, ?lag, ?in_poll, "the server's runtime gives no turn: something blocks it"));
}
