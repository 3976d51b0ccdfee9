//! The `tracing` events of a service host, with one function for each event. A panic of a subscriber, or of the
//! `Display` of a service's error, does not end the supervisor.

use std::io;
use std::time::Duration;

use super::{CleanUp, Exit, ExitKind, HostPhase, ShutdownReport, Trigger};
use crate::rounded::rounded;
use crate::trace::emit;
use crate::watch::WatchError;

pub(crate) fn host_phase(phase: HostPhase) {
    emit!(DEBUG, %phase, "host phase changed");
}

pub(crate) fn host_stops(trigger: &Trigger) {
    emit!(INFO, %trigger, "host stopping");
}

pub(crate) fn host_is_forced(trigger: &Trigger) {
    emit!(WARN, %trigger, "shutdown forced: the host no longer waits for anything");
}

pub(crate) fn host_stopped(report: &ShutdownReport) {
    let (took, is_clean) = (rounded(report.took), report.is_clean());
    emit!(INFO, ?took, is_clean, "host stopped");
}

pub(crate) fn work_unfinished(report: &ShutdownReport) {
    for work in report.unfinished() {
        let (name, count) = (work.name(), work.count());
        emit!(ERROR, name, count, "work unfinished: the host could not wait for it");
    }
}

pub(crate) fn exiting_on_signal(signal: i32) {
    emit!(WARN, signal, "signal received after the host stopped: exiting at once");
}

#[cfg(feature = "probe-listener")]
pub(crate) fn probe_accept_failed(error: &io::Error) {
    emit!(WARN, %error, "accepting a probe connection failed: retrying shortly");
}

pub(crate) fn process_still_running(limit: Duration) {
    emit!(ERROR, ?limit, "process still running after its host stopped: exiting");
}

pub(crate) fn server_cut_off() {
    emit!(WARN, "server did not end in time and was dropped: does it watch HostHandle::draining?");
}

pub(crate) fn watch_unavailable(error: &WatchError) {
    emit!(WARN, %error, "host has no watch: blocked workers are not reported");
}

pub(crate) fn signals_unavailable(error: &io::Error) {
    emit!(ERROR, %error, "listening for signals failed");
}

pub(crate) fn service_started(service: &str, took: Duration) {
    emit!(DEBUG, service, took = ?rounded(took), "service started");
}

pub(crate) fn generation_ended(service: &str, exit: &Exit, clean_up: &CleanUp) {
    let (generation, exit_kind) = (exit.generation, &exit.kind);
    if exit.is_failure() || !clean_up.is_clean() {
        emit!(WARN, service, generation, exit = %exit_kind, %clean_up, "service failed");
    } else {
        emit!(DEBUG, service, generation, exit = %exit_kind, "service ended");
    }
}

pub(crate) fn service_completed(service: &str, exit: &Exit, is_critical: bool) {
    let (generation, ran_for) = (exit.generation, rounded(exit.ran_for));
    emit!(INFO, service, generation, ?ran_for, is_critical, "service completed: it is not started again");
}

pub(crate) fn tick_overdue(service: &str, limit: Duration) {
    emit!(WARN, service, ?limit, "blocking call of periodic service exceeds its timeout: waiting for its thread");
}

pub(crate) fn tick_failed(service: &str, exit: &ExitKind) {
    emit!(WARN, service, %exit, "call of periodic service failed");
}

pub(crate) fn backing_off(service: &str, failures: u32, delay: Duration) {
    emit!(INFO, service, failures, delay = ?rounded(delay), "service restarting");
}

pub(crate) fn given_up(service: &str) {
    emit!(ERROR, service, "host gave up on the service");
}

pub(crate) fn service_lost_lease(service: &str) {
    emit!(WARN, service, "service lost its lease: another process may run it");
}

pub(crate) fn heartbeat_missed(service: &str, limit: Duration) {
    emit!(WARN, service, ?limit, "service missed its heartbeat");
}

pub(crate) fn cut_off_service(service: &str, had: Option<Duration>) {
    match had {
        Some(had) => emit!(WARN, service, had = ?rounded(had), "no time left for the service to stop: dropping it"),
        None => emit!(WARN, service, "service did not stop in time: dropping it"),
    }
}

pub(crate) fn host_hurries(services: usize) {
    emit!(WARN, services, "time is short: asking all remaining services to stop at once");
}

pub(crate) fn service_not_dropped(service: &str) {
    emit!(ERROR, service, "service not dropped in time: a destructor or a thread of it is still running");
}

pub(crate) fn leaked(service: &str) {
    emit!(ERROR, service, "thread of the service is blocked: leaving the service behind");
}
