//! Watches.

use std::sync::mpsc;
use std::thread::sleep;
use std::time::Instant;

use onelane::watch::{Report, Watch, watch};
use support::runtimes::multi_thread;
use support::waiting::PATIENCE;

use crate::{SHORT, quiet_panic};

pub(crate) fn scenario() {
    let (sender, recovered) = mpsc::channel();
    let (captures, captured) = mpsc::channel();
    let builder = Watch::builder().threshold(SHORT).on_report(move |report| {
        match report {
            Report::Blocked(blocked) if blocked.repeats() == 0 => captures.send(blocked.stack().is_some()).unwrap(),
            Report::Recovered(_) => sender.send(()).unwrap(),
            _ => {}
        }
        quiet_panic();
    });
    #[cfg(target_os = "linux")]
    let builder = builder.capture_stacks();
    let runtime = multi_thread(1);
    let _watch = builder.start(runtime.handle()).unwrap();
    runtime.spawn(async move { sleep(SHORT * 10) });
    recovered.recv_timeout(PATIENCE).unwrap();
    let start = Instant::now();
    // Reports have no stack until the debug information has been read.
    while start.elapsed() < PATIENCE {
        runtime.spawn(watch("scenario", async move { sleep(SHORT * 10) }));
        recovered.recv_timeout(PATIENCE).unwrap();
        if captured.try_iter().any(|has_stack| has_stack) {
            break;
        }
    }
}
