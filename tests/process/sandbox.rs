//! Workers in a sandbox.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, thread};

use onelane::offload::process::{ProcessPoolBuilder, Sandbox};
use onelane::{ProcessError, ProcessPool};
use rustix::process::{Pid, Signal, kill_process};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use support::waiting::PATIENCE;

use crate::processes::parent;
use crate::work::{add, allocate, pid, sum};

fn builder(sandbox: Sandbox) -> ProcessPoolBuilder {
    ProcessPool::builder("sandbox").workers(1).forward_stderr(false).sandbox(sandbox)
}

/// The error with which the system refused an operation, or `None` if the operation succeeded.
type Refusal = Option<String>;

fn refusal<T>(result: std::io::Result<T>) -> Refusal {
    result.err().map(|error| format!("{:?}", error.kind()))
}

fn read(path: PathBuf) -> Refusal {
    refusal(fs::read(path))
}

fn write(path: PathBuf) -> Refusal {
    refusal(fs::write(path, "written"))
}

fn connect(port: u16) -> Refusal {
    refusal(TcpStream::connect(("127.0.0.1", port)))
}

fn execute((): ()) -> Refusal {
    refusal(Command::new("/bin/true").status())
}

fn denied() -> Refusal {
    Some(format!("{:?}", ErrorKind::PermissionDenied))
}

/// Returns `true` if the kernel restricts files. Where it does not, a required sandbox must run no task.
async fn restricts_files() -> bool {
    match builder(Sandbox::required()).build().run(add, (1, 2)).await {
        Ok(sum) => sum == 3,
        Err(error) => {
            assert!(error.to_string().contains("the sandbox cannot restrict files"), "{error}");
            println!("this kernel has no Landlock");
            false
        }
    }
}

#[tokio::test]
async fn files_outside_of_the_paths_are_refused() {
    let directory = env::temp_dir().join(format!("onelane-sandbox-{}", pid(())));
    let (readable, writable) = (directory.join("readable"), directory.join("writable"));
    [&readable, &writable].into_iter().for_each(|path| fs::create_dir_all(path).unwrap());
    let [kept, secret, new] = [readable.join("kept"), directory.join("secret"), writable.join("new")];
    [&kept, &secret].into_iter().for_each(|path| fs::write(path, "before").unwrap());
    let pool = builder(Sandbox::best_effort().read(&readable).write(&writable)).build();
    let expected = if restricts_files().await { denied() } else { None };

    assert_eq!(pool.run(read, "/etc/passwd".into()).await.unwrap(), expected);
    assert_eq!(pool.run(read, secret.clone()).await.unwrap(), expected);
    assert_eq!(pool.run(write, kept.clone()).await.unwrap(), expected);
    assert_eq!(pool.run(read, kept.clone()).await.unwrap(), None);
    assert_eq!(pool.run(write, new.clone()).await.unwrap(), None);
    assert_eq!(pool.run(|path: PathBuf| refusal(fs::remove_file(path)), new).await.unwrap(), None);
    // A path may also lead to a single file.
    let pool = builder(Sandbox::best_effort().read(&kept)).build();
    assert_eq!(pool.run(read, kept).await.unwrap(), None);
    assert_eq!(pool.run(read, secret).await.unwrap(), expected);
    fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn sockets_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let pool = builder(Sandbox::best_effort()).build();
    assert_eq!(pool.run(connect, port).await.unwrap(), denied());
    assert_eq!(pool.run(|(): ()| refusal(UdpSocket::bind("127.0.0.1:0")), ()).await.unwrap(), denied());
    assert_eq!(pool.run(|(): ()| refusal(UnixDatagram::unbound()), ()).await.unwrap(), denied());
    let pool = builder(Sandbox::best_effort().allow_network()).build();
    assert_eq!(pool.run(connect, port).await.unwrap(), None);
}

#[tokio::test]
async fn programs_are_refused() {
    let pool = builder(Sandbox::best_effort().read("/")).build();
    assert_eq!(pool.run(execute, ()).await.unwrap(), denied());
    let pool = builder(Sandbox::best_effort().allow_execute().read("/")).build();
    assert_eq!(pool.run(execute, ()).await.unwrap(), None);
    let privileges = |(): ()| fs::read_to_string("/proc/self/status").unwrap().contains("NoNewPrivs:\t1");
    assert!(pool.run(privileges, ()).await.unwrap());
}

#[tokio::test]
async fn other_processes_get_no_signals() {
    let pool = builder(Sandbox::best_effort()).build();
    let kill = |process: i32| {
        let sent = kill_process(Pid::from_raw(process).unwrap(), Signal::CONT);
        refusal(sent.map_err(Into::into))
    };
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let has_scopes = restricts_files().await && numbers.next() >= Some(6) && numbers.next() >= Some(12);
    let expected = if has_scopes { denied() } else { None };
    assert_eq!(pool.run(kill, pid(())).await.unwrap(), expected, "{release}");
    assert_eq!(pool.run(|(): ()| pid(()) == parent(pid(())), ()).await.is_err(), has_scopes, "it cannot read /proc");
}

#[tokio::test]
async fn computing_is_not_restricted() {
    let pool = builder(Sandbox::best_effort()).memory_limit(1 << 30).build();
    assert_eq!(pool.run(sum::<u64>, (0..1_000).collect()).await.unwrap(), 499_500);
    assert_eq!(pool.run(allocate, 64 << 20).await.unwrap(), (64 << 20) / 4_096);
    let threads = |(): ()| thread::scope(|scope| scope.spawn(|| 7).join().unwrap());
    assert_eq!(pool.run(threads, ()).await.unwrap(), 7);
    let panicking = |(): ()| assert_eq!(pid(()), 0, "on purpose");
    let error = pool.run(panicking, ()).await.unwrap_err();
    assert!(matches!(error, ProcessError::Panicked(_)), "{error:?}");
}

#[tokio::test]
async fn required_sandbox_runs_nothing_without_its_kernel() {
    /// Makes the kernel look like one without Landlock.
    fn hide_landlock() {
        let hidden = [(libc::SYS_landlock_create_ruleset, Vec::new())].into_iter().collect();
        let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let arch = env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(hidden, SeccompAction::Allow, missing, arch).unwrap();
        apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
    }
    let error = builder(Sandbox::required()).initializer(hide_landlock).build().run(add, (1, 2)).await.unwrap_err();
    let ProcessError::NoWorker { reason, .. } = &error else { panic!("{error:?}") };
    assert!(reason.contains("the sandbox cannot restrict files"), "{reason}");

    let pool = builder(Sandbox::best_effort()).initializer(hide_landlock).build();
    assert_eq!(pool.run(read, "/etc/passwd".into()).await.unwrap(), None);
    assert_eq!(pool.run(execute, ()).await.unwrap(), denied(), "the rest is restricted");

    let starts_a_thread = || drop(thread::spawn(|| thread::sleep(PATIENCE)));
    let error = builder(Sandbox::required()).initializer(starts_a_thread).build().run(add, (1, 2)).await.unwrap_err();
    assert!(error.to_string().contains("threads of the initializer"), "{error}");
    assert_eq!(builder(Sandbox::best_effort()).initializer(starts_a_thread).build().run(add, (1, 2)).await.unwrap(), 3);

    let error = builder(Sandbox::best_effort().read("/no/such/path")).build().run(add, (1, 2)).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/path"), "{error}");
}
