//! What the crate tells `tracing`, under the target `onelane`: one function an event, none of them on a path without
//! waiting.

use std::io;
use std::time::Duration;

use crate::background::{CleanUp, Exit, ExitKind, HostPhase, ShutdownReport, Trigger};
use crate::guard::AcquireError;
use crate::panic::catch;

const TARGET: &str = "onelane";

pub(crate) fn refused(guard: &str, error: &AcquireError) {
    match error {
        AcquireError::WouldDeadlock | AcquireError::BlockingInAsync => {
            tracing::error!(target: TARGET, guard, %error, "caller refused: a mistake in the service");
        }
        _ => tracing::debug!(target: TARGET, guard, %error, "caller refused"),
    }
}

pub(crate) fn expired(guard: &str, turns: usize) {
    tracing::warn!(target: TARGET, guard, turns, "turns were not taken in time and went to others");
}

pub(crate) fn detached(guard: &str) {
    tracing::debug!(target: TARGET, guard, "caller left: its run goes on");
}

pub(crate) fn cut_off(guard: &str, reason: &str) {
    tracing::warn!(target: TARGET, guard, reason, "run dropped before its end");
}

#[cfg(any(feature = "tower", feature = "actix-web"))]
pub(crate) fn overrun(guard: &str) {
    let message = "response body took longer than body_hold_max: the next request goes on beside it";
    tracing::warn!(target: TARGET, guard, message);
}

#[cfg(feature = "actix-web")]
pub(crate) fn stream_on_pool() {
    let message =
        "a handler on a pool has answered with a stream, which can't leave its thread: let an async one do it";
    tracing::error!(target: TARGET, message);
}

/// Tells of a host. The `Display` of a service's error may panic, and so may who listens: neither takes the supervisor with
/// it. The panic hook has shown it by then.
fn tell(event: impl FnOnce()) {
    let _ = catch(event);
}

pub(crate) fn host_phase(phase: HostPhase) {
    tell(|| tracing::debug!(target: TARGET, %phase, "host goes on to its next phase"));
}

pub(crate) fn host_stops(trigger: &Trigger) {
    tell(|| tracing::info!(target: TARGET, %trigger, "host stops"));
}

pub(crate) fn host_is_forced(trigger: &Trigger) {
    tell(|| tracing::warn!(target: TARGET, %trigger, "stop is forced: nothing is waited for any more"));
}

pub(crate) fn host_stopped(report: &ShutdownReport) {
    let (took, is_clean) = (report.took, report.is_clean());
    tell(|| tracing::info!(target: TARGET, ?took, is_clean, "host has stopped"));
}

pub(crate) fn exits_at_once(signal: i32) {
    tell(|| tracing::warn!(target: TARGET, signal, "a signal after the host has stopped: the process ends at once"));
}

#[cfg(feature = "hyper")]
pub(crate) fn no_connection(error: &io::Error) {
    tell(|| tracing::warn!(target: TARGET, %error, "no probe can be accepted for a moment"));
}

pub(crate) fn process_is_stuck(limit: Duration) {
    tracing::error!(target: TARGET, ?limit, "the process has not ended after its host has: it is ended");
}

pub(crate) fn server_cut_off() {
    let message = "the server has not ended in time and is dropped: does it listen to HostHandle::draining?";
    tracing::warn!(target: TARGET, message);
}

pub(crate) fn no_signals(error: &io::Error) {
    tell(|| tracing::error!(target: TARGET, %error, "signals can't be listened to"));
}

pub(crate) fn service_started(service: &str, took: Duration) {
    tell(|| tracing::debug!(target: TARGET, service, ?took, "service has started"));
}

pub(crate) fn generation_ended(service: &str, exit: &Exit, clean_up: &CleanUp) {
    let (generation, exit_kind) = (exit.generation, &exit.kind);
    if exit.is_failure() || !clean_up.is_clean() {
        tell(
            || tracing::warn!(target: TARGET, service, generation, exit = %exit_kind, %clean_up, "service has failed"),
        );
    } else {
        tell(|| tracing::debug!(target: TARGET, service, generation, exit = %exit_kind, "service has ended"));
    }
}

pub(crate) fn tick_failed(service: &str, exit: &ExitKind) {
    tell(|| tracing::warn!(target: TARGET, service, %exit, "a call of the periodic service has failed"));
}

pub(crate) fn backing_off(service: &str, failures: u32, delay: Duration) {
    tell(|| tracing::info!(target: TARGET, service, failures, ?delay, "service will be started again"));
}

pub(crate) fn given_up(service: &str) {
    tell(|| tracing::error!(target: TARGET, service, "service is given up"));
}

pub(crate) fn heartbeat_missed(service: &str, limit: Duration) {
    tell(|| tracing::warn!(target: TARGET, service, ?limit, "service has missed its heartbeat"));
}

pub(crate) fn cut_off_service(service: &str) {
    tell(|| tracing::warn!(target: TARGET, service, "service has not stopped in time: it is dropped where it waits"));
}

pub(crate) fn leaked(service: &str) {
    tell(|| tracing::error!(target: TARGET, service, "service blocks its thread and is left behind"));
}

pub(crate) fn runtime_lags(lag: Duration, in_poll: &[&str]) {
    tell(|| tracing::warn!(target: TARGET, ?lag, ?in_poll, "the server's runtime gives no turn: something blocks it"));
}
