//! A cron job of several real processes, whose leaders are killed and stopped.

use std::convert::Infallible;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::time::SystemTime;
use std::{env, process};

use futures::future::join_all;
use onelane::ServiceHost;
use onelane::backend::Host;
use onelane::background::{Every, ServiceResult, TickContext, periodic};
use rustix::process::Signal;
use support::http::eventually;
use support::process::Example;
use support::runtimes::multi_thread;

use super::host::TestDirectory;
use super::{domain, guard};

const DIRECTORY: &str = "ONELANE_TEST_LEADERS";

/// Processes of a host, each with a cron job that runs every second and writes a line.
struct Processes {
    directory: TestDirectory,
    running: Vec<Example>,
}

impl Processes {
    /// Returns the second of each call, and the process that made the call.
    fn calls(&self) -> Vec<(u64, u32)> {
        let log = fs::read_to_string(format!("{}/log", self.directory.path())).unwrap_or_default();
        let call = |line: &str| {
            let (second, process) = line.split_once(' ').unwrap();
            (second.parse().unwrap(), process.parse().unwrap())
        };
        log.lines().map(call).collect()
    }

    /// Waits for a call of a process that was not the leader before, and removes this process from the list.
    async fn next_leader(&mut self, former: &[u32]) -> Example {
        let leader = |calls: Vec<(u64, u32)>| calls.last().map(|call| call.1).filter(|leader| !former.contains(leader));
        eventually("a process takes over", || leader(self.calls()).is_some()).await;
        let leader = leader(self.calls()).unwrap();
        let at = self.running.iter().position(|process| process.id() == leader).unwrap();
        self.running.swap_remove(at)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cron_job_of_three_processes_is_called_once_although_its_leaders_die() {
    let directory = TestDirectory::new();
    let path = directory.path();
    let variables = [(DIRECTORY, path.as_str())];
    let start = || Example::of_test("leader_processes::program_of_the_test_above", &variables);
    let running = join_all((0..3).map(|_| start())).await;
    let mut processes = Processes { directory, running };

    let killed = processes.next_leader(&[]).await;
    killed.signal(Signal::KILL);
    let mut stopped = processes.next_leader(&[killed.id()]).await;
    stopped.signal(Signal::TERM);
    assert_eq!(stopped.exit_code().await, Some(0), "{}", stopped.printed());
    let mut last = processes.next_leader(&[killed.id(), stopped.id()]).await;
    last.signal(Signal::TERM);
    assert_eq!(last.exit_code().await, Some(0), "{}", last.printed());

    let calls = processes.calls();
    assert!(calls.is_sorted_by(|(one, _), (next, _)| one < next), "a job is called twice: {calls:?}");
}

/// Does nothing unless the test above starts it in a child process.
#[test]
#[allow(clippy::print_stdout, reason = "the parent waits for the line")]
fn program_of_the_test_above() {
    let Ok(directory) = env::var(DIRECTORY) else { return };
    let log = OpenOptions::new().create(true).append(true).open(format!("{directory}/log")).unwrap();
    let call = move |cx: TickContext| {
        let second = cx.due().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        // The line is one write, which a kill does not cut.
        (&log).write_all(format!("{second} {}\n", process::id()).as_bytes()).unwrap();
        async { ServiceResult::Ok(()) }
    };
    let report = multi_thread(2).block_on(async {
        let locks = domain(|domain| domain);
        let host = ServiceHost::builder()
            .service(locks.connect(Host::new(&directory)))
            .service(periodic("report", Every::cron("* * * * * *").unwrap(), call).guard(guard(locks)))
            .build()
            .unwrap();
        let handle = host.handle();
        let server = async move {
            println!("listening on http://127.0.0.1:1");
            handle.draining().cancelled().await;
            Ok::<(), Infallible>(())
        };
        host.run_until(server).await.unwrap()
    });
    assert!(report.is_clean(), "{report:?}");
}
