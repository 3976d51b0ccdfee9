//! New versions may add variants, so a match needs a wildcard.

use onelane::background::HostPhase;
use onelane::guard::AcquireErrorKind;
use onelane::offload::{Priority, Progress};

fn kind(kind: AcquireErrorKind) {
    match kind {
        AcquireErrorKind::Busy
        | AcquireErrorKind::QueueFull
        | AcquireErrorKind::TooManyKeys
        | AcquireErrorKind::Timeout
        | AcquireErrorKind::GrantExpired
        | AcquireErrorKind::WouldDeadlock
        | AcquireErrorKind::Closed
        | AcquireErrorKind::BlockingInAsync => {}
    }
}

fn progress(progress: Progress) {
    match progress {
        Progress::NotStarted | Progress::Running | Progress::Stopped => {}
    }
}

fn phase(phase: HostPhase) {
    match phase {
        HostPhase::Built
        | HostPhase::Starting
        | HostPhase::Running
        | HostPhase::Draining
        | HostPhase::Stopping
        | HostPhase::Stopped => {}
    }
}

fn priority(priority: Priority) {
    match priority {
        Priority::Low | Priority::Normal | Priority::High => {}
    }
}

fn main() {}
