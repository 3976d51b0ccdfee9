//! What a host owns when the process ends: files are flushed and locks are released, in every process.

#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use std::{env, thread};

use onelane::background::{BackgroundService, Placement, RunContext, Service, ServiceHost, ServiceResult};
use support::runtimes::multi_thread;

const DIRECTORY: &str = "ONELANE_TEST_RELEASED";
const PROCESSES: usize = 200;

/// A service that owns a buffered file.
struct Writer(String, Mutex<BufWriter<File>>);

impl Writer {
    fn new(name: &str, directory: &Path) -> Self {
        Self(name.to_owned(), Mutex::new(BufWriter::new(File::create(directory.join(name)).unwrap())))
    }
}

impl BackgroundService for Writer {
    fn name(&self) -> &str {
        &self.0
    }

    async fn run(&self, cx: RunContext) -> ServiceResult {
        self.1.lock().unwrap().write_all(b"written")?;
        cx.stopping().await;
        Ok(())
    }
}

/// A service that owns a lock file. Its destructor takes a while.
struct LockFile(PathBuf);

impl BackgroundService for LockFile {
    fn name(&self) -> &str {
        "lock"
    }

    async fn run(&self, cx: RunContext) -> ServiceResult {
        cx.stopping().await;
        Ok(())
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // A destructor cannot await.
        thread::sleep(Duration::from_millis(20));
        fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn every_process_leaves_complete_files_and_no_locks() {
    let root = env::temp_dir().join(format!("onelane-released-{}", std::process::id()));
    for process in 0..PROCESSES {
        let directory = root.join(process.to_string());
        fs::create_dir_all(&directory).unwrap();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "released::program_of_the_test_above"]).env(DIRECTORY, &directory);
        let status = command.stdout(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(0), "process {process}");
        for name in ["shared", "thread"] {
            assert_eq!(fs::read_to_string(directory.join(name)).unwrap(), "written", "{name} of process {process}");
        }
        assert!(!directory.join("lock").exists(), "process {process}");
    }
    fs::remove_dir_all(root).unwrap();
}

/// Does nothing unless the test above starts it in a child process.
#[test]
#[allow(clippy::exit, reason = "its parent reads the exit code")]
fn program_of_the_test_above() {
    let Some(directory) = env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let lock = directory.join("lock");
    fs::write(&lock, "").unwrap();
    let runtime = multi_thread(2);
    let report = runtime.block_on(async {
        let host = ServiceHost::builder()
            .service(LockFile(lock))
            .service(Writer::new("shared", &directory))
            .service(Service::new(Writer::new("thread", &directory)).placement(Placement::Thread))
            .build()
            .unwrap();
        let handle = host.handle();
        // All services have run once.
        let server = async move {
            let written = || ["shared", "thread"].iter().all(|name| handle.status().service(name).unwrap().is_ready());
            support::waiting::until("the services run", written).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok::<(), std::io::Error>(())
        };
        host.run_until(server).await.unwrap()
    });
    // Without waiting for anything, as a process ends.
    std::process::exit(report.exit_code().into());
}
