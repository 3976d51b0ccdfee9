//! [`Inbox`], which collects the reports of a watch.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use onelane::watch::{Blocked, Recovered, Report, Watch, WatchBuilder};
use tokio::runtime::Handle;

use crate::waiting::{MS, PATIENCE};

/// The threshold of most tests. It is above the time for which a thread of a busy machine waits for a processor.
pub const THRESHOLD: Duration = Duration::from_millis(100);

/// The reports of a watch, each with its time.
#[derive(Clone, Debug, Default)]
pub struct Inbox(Arc<Mutex<Vec<(Instant, Report)>>>);

impl Inbox {
    /// Starts a watch whose reports the inbox collects.
    pub fn watch(&self, runtime: &Handle) -> Watch {
        self.builder().threshold(THRESHOLD).start(runtime).unwrap()
    }

    pub fn builder(&self) -> WatchBuilder {
        let inbox = self.clone();
        Watch::builder().on_report(move |report| inbox.take(report))
    }

    pub fn take(&self, report: &Report) {
        self.0.lock().unwrap().push((Instant::now(), report.clone()));
    }

    pub fn all(&self) -> Vec<Report> {
        self.0.lock().unwrap().iter().map(|(_, report)| report.clone()).collect()
    }

    /// Returns the first report of each block, with its time.
    pub fn blocked(&self) -> Vec<(Instant, Blocked)> {
        let first = |(at, report): &(Instant, Report)| match report {
            Report::Blocked(blocked) if blocked.repeats() == 0 => Some((*at, blocked.clone())),
            _ => None,
        };
        self.0.lock().unwrap().iter().filter_map(first).collect()
    }

    pub fn recovered(&self) -> Vec<Recovered> {
        let recovered = |report| if let Report::Recovered(recovered) = report { Some(recovered) } else { None };
        self.all().into_iter().filter_map(recovered).collect()
    }

    /// Waits on this thread until a block with the label has been reported. On a busy machine, the inbox may also
    /// contain reports of threads that waited for a processor.
    pub fn wait_for_label(&self, label: &str) -> Blocked {
        let find = || self.blocked().into_iter().map(|(_, blocked)| blocked).find(|it| it.label() == Some(label));
        self.wait_until(|| find().is_some());
        find().unwrap()
    }

    /// Waits on this thread until that many blocks have been reported.
    pub fn wait_for(&self, blocks: usize) -> Vec<Blocked> {
        self.wait_until(|| self.blocked().len() >= blocks);
        self.blocked().into_iter().map(|(_, blocked)| blocked).collect()
    }

    pub fn wait_for_recovered(&self, count: usize) -> Vec<Recovered> {
        self.wait_until(|| self.recovered().len() >= count);
        self.recovered()
    }

    fn wait_until(&self, is_true: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_true() {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.all());
            // A watch measures real time.
            std::thread::sleep(MS);
        }
    }
}
