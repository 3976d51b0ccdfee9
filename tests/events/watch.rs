//! Watches.

use std::sync::mpsc;
use std::thread::sleep;

use onelane::watch::{Report, Watch, watch};
use support::runtimes::multi_thread;
use support::waiting::PATIENCE;

use crate::{SHORT, quiet_panic};

pub(crate) fn scenario() {
    let (sender, recovered) = mpsc::channel();
    let builder = Watch::builder().threshold(SHORT).on_report(move |report| {
        if let Report::Recovered(_) = report {
            sender.send(()).unwrap();
        }
        quiet_panic();
    });
    #[cfg(target_os = "linux")]
    let builder = builder.capture_stacks();
    let runtime = multi_thread(1);
    let _watch = builder.start(runtime.handle()).unwrap();
    let blocks = || sleep(SHORT * 10);
    runtime.spawn(async move { blocks() });
    recovered.recv_timeout(PATIENCE).unwrap();
    runtime.spawn(watch("scenario", async move { blocks() }));
    recovered.recv_timeout(PATIENCE).unwrap();
}
