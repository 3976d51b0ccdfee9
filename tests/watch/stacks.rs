//! The stacks of blocked workers.

use std::env;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, Once, mpsc};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use onelane::watch::{Blocked, Hint, Report, Stack, Watch, WatchError, register_thread, watch};
use rustix::process::{Signal, getpid, kill_process};
use support::runtimes::{current_thread, multi_thread};
use support::waiting::{Gate, MS, PATIENCE};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::inbox::{Inbox, THRESHOLD};

const BLOCK: Duration = Duration::from_millis(300);
const LINE_OF_SLEEP: u32 = line!() + 4;

#[inline(never)]
fn sleeps_in_a_helper() {
    sleep(BLOCK);
}

/// Waits until the debug information of the program has been read. Reports have no stack before that.
fn wait_for_symbols() {
    static READ: Once = Once::new();
    READ.call_once(|| {
        let (inbox, runtime, gate) = (Inbox::default(), multi_thread(1), Gate::default());
        let _watch = inbox.builder().threshold(MS * 20).capture_stacks().start(runtime.handle()).unwrap();
        let wait = gate.wait();
        runtime.spawn(watch("first", async move { wait.block() }));
        with_stack(&inbox);
    });
}

fn watched(inbox: &Inbox, runtime: &Handle) -> Watch {
    wait_for_symbols();
    inbox.builder().threshold(THRESHOLD).capture_stacks().start(runtime).unwrap()
}

/// Returns a runtime whose workers are known.
fn registered() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).on_thread_park(register_thread).enable_all().build().unwrap();
    // Both workers have parked.
    sleep(MS * 100);
    runtime
}

/// Returns all reports of blocks, including those that repeat one.
fn all_blocked(inbox: &Inbox) -> Vec<Blocked> {
    let blocked = |report| if let Report::Blocked(blocked) = report { Some(blocked) } else { None };
    inbox.all().into_iter().filter_map(blocked).collect()
}

/// Returns the first report with a stack. The threads of a busy machine may answer late.
fn with_stack(inbox: &Inbox) -> Blocked {
    let start = Instant::now();
    loop {
        if let Some(blocked) = all_blocked(inbox).into_iter().find(|blocked| blocked.stack().is_some()) {
            return blocked;
        }
        assert!(start.elapsed() < PATIENCE, "{:?}", inbox.all());
        // A watch measures real time.
        sleep(MS);
    }
}

fn assert_names_the_helper(blocked: &Blocked) {
    let stack = blocked.stack().unwrap();
    let culprit = stack.culprit().unwrap();
    assert_eq!(culprit.function(), Some("watch::stacks::sleeps_in_a_helper"), "{stack}");
    assert_eq!(blocked.hint(), Hint::Sleep, "{stack}");
    assert!(blocked.to_string().contains("watch::stacks::sleeps_in_a_helper"), "{blocked}");
    let has = |name: &str| stack.frames().iter().any(|frame| frame.function().is_some_and(|it| it.contains(name)));
    assert!(!has("tokio::runtime") && !has("on_signal") && !has("clone"), "{stack}");
}

/// Runs the test with this name in a separate process. In that process, runs `body`.
fn in_own_process(name: &str, body: impl FnOnce()) {
    const IS_CHILD: &str = "ONELANE_TEST_STACKS";
    if env::var_os(IS_CHILD).is_some() {
        return body();
    }
    let mut command = Command::new(env::current_exe().unwrap());
    let Output { status, stdout, stderr } =
        command.args(["--exact", &format!("stacks::{name}"), "--nocapture"]).env(IS_CHILD, "1").output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(status.success() && stdout.contains("1 passed"), "{stdout}{stderr}");
}

#[test]
fn report_names_the_function_that_blocks() {
    for runtime in [multi_thread(2), current_thread()] {
        let inbox = Inbox::default();
        let _watch = watched(&inbox, runtime.handle());
        runtime.block_on(async {
            tokio::spawn(watch("import", async { sleeps_in_a_helper() })).await.unwrap();
        });
        assert_names_the_helper(&with_stack(&inbox));
    }
}

#[test]
fn report_names_the_line_that_blocks() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = watched(&inbox, runtime.handle());
    runtime.spawn(watch("import", async { sleeps_in_a_helper() }));
    let blocked = with_stack(&inbox);
    let culprit = blocked.stack().unwrap().culprit().unwrap();
    let file = culprit.file().expect("the test is built with line tables");
    assert!(file.ends_with("watch/stacks.rs"), "{culprit}");
    assert_eq!(culprit.line(), Some(LINE_OF_SLEEP), "{culprit}");
}

#[test]
fn task_without_label_has_a_stack_on_a_thread_that_is_registered() {
    let (inbox, runtime) = (Inbox::default(), registered());
    let _watch = watched(&inbox, runtime.handle());
    let gate = Gate::default();
    let wait = gate.wait();
    runtime.spawn(async move { wait.block() });
    let blocked = with_stack(&inbox);
    gate.open();
    assert_eq!((blocked.label(), blocked.hint()), (None, Hint::Thread), "{}", blocked.stack().unwrap());
    let stack = blocked.stack().unwrap().to_string();
    assert!(stack.contains("task_without_label_has_a_stack"), "{stack}");
}

#[test]
fn handler_of_axum_is_the_culprit() {
    async fn report() -> &'static str {
        sleep(BLOCK);
        "done"
    }
    let (inbox, runtime) = (Inbox::default(), registered());
    let _watch = watched(&inbox, runtime.handle());
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().route("/report", axum::routing::get(report));
    let app = app.layer(onelane::web::axum::WatchLayer::new());
    runtime.spawn(axum::serve(listener, app).into_future());
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"GET /report HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let blocked = with_stack(&inbox);
    assert_eq!(blocked.label(), Some("GET /report"));
    let stack = blocked.stack().unwrap();
    let culprit = stack.culprit().unwrap().function().unwrap();
    assert!(culprit.starts_with("watch::stacks::handler_of_axum_is_the_culprit::report"), "{stack}");
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(response.ends_with("done"), "{response}");
}

#[test]
fn handler_of_actix_is_the_culprit() {
    async fn report() -> &'static str {
        sleep(BLOCK);
        "done"
    }
    let inbox = Inbox::default();
    wait_for_symbols();
    let (address, addresses) = mpsc::channel();
    let reports = inbox.clone();
    thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let factory = move || {
                // The factory runs on each worker, and each worker has its own runtime.
                Box::leak(Box::new(watched(&reports, &Handle::current())));
                let labels = onelane::web::actix::WatchMiddleware::new();
                actix_web::App::new().wrap(labels).route("/report", actix_web::web::get().to(report))
            };
            let server = actix_web::HttpServer::new(factory).workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
            address.send(server.addrs()[0]).unwrap();
            server.run().await.unwrap();
        });
    });
    let mut client = TcpStream::connect(addresses.recv().unwrap()).unwrap();
    client.write_all(b"GET /report HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let blocked = with_stack(&inbox);
    assert_eq!(blocked.label(), Some("GET /report"));
    let stack = blocked.stack().unwrap();
    let culprit = stack.culprit().unwrap().function().unwrap();
    assert!(culprit.starts_with("watch::stacks::handler_of_actix_is_the_culprit::report"), "{stack}");
}

/// Blocks a worker with `block` until `end` is called, and returns the hint and the stack of the report.
fn hint_of(block: impl FnOnce() + Send + 'static, end: impl FnOnce()) -> (Hint, Stack) {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = watched(&inbox, runtime.handle());
    let task = runtime.spawn(watch("blocks", async { block() }));
    let blocked = with_stack(&inbox);
    end();
    // The system call returns the right result after the interruption.
    runtime.block_on(task).unwrap();
    (blocked.hint(), blocked.stack().unwrap().clone())
}

#[track_caller]
fn assert_hint(expected: Hint, (hint, stack): (Hint, Stack)) {
    assert_eq!(hint, expected, "{stack}");
}

#[test]
fn thread_that_waits_for_a_mutex_has_the_hint_lock() {
    let mutex = Arc::new(Mutex::new(7));
    let guard = mutex.lock().unwrap();
    let shared = Arc::clone(&mutex);
    assert_hint(Hint::Lock, hint_of(move || assert_eq!(*shared.lock().unwrap(), 7), || drop(guard)));
}

#[test]
fn thread_that_reads_a_socket_has_the_hint_io() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    let read = move || {
        let mut bytes = [0; 5];
        socket.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    };
    assert_hint(Hint::Io, hint_of(read, || peer.write_all(b"hello").unwrap()));
}

#[test]
fn thread_that_reads_a_file_has_the_hint_io() {
    let path = env::temp_dir().join(format!("onelane-stacks-{}", std::process::id()));
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let pipe = path.clone();
    let read = move || assert_eq!(std::fs::read_to_string(pipe).unwrap(), "hello");
    assert_hint(Hint::Io, hint_of(read, || std::fs::write(&path, "hello").unwrap()));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn thread_that_waits_for_a_channel_has_the_hint_thread() {
    let (sender, receiver) = mpsc::channel();
    assert_hint(Hint::Thread, hint_of(move || assert_eq!(receiver.recv(), Ok(7)), || sender.send(7).unwrap()));
}

#[test]
fn thread_that_waits_for_a_process_has_the_hint_child_process() {
    let run = || assert!(Command::new("sleep").arg("0.5").status().unwrap().success());
    assert_hint(Hint::ChildProcess, hint_of(run, || ()));
}

#[test]
fn thread_that_computes_has_the_hint_computing() {
    let (stop, stopped) = mpsc::channel();
    let compute = move || {
        let mut sum = 0_u64;
        while stopped.try_recv() != Ok(()) {
            sum = (0..100_000).fold(sum, |sum, number| sum.wrapping_mul(31).wrapping_add(std::hint::black_box(number)));
        }
    };
    assert_hint(Hint::Computing, hint_of(compute, || stop.send(()).unwrap()));
}

#[test]
fn two_watches_share_the_handler() {
    let (inbox, other) = (Inbox::default(), Inbox::default());
    let runtimes = [multi_thread(1), multi_thread(1)];
    let _watches = [watched(&inbox, runtimes[0].handle()), watched(&other, runtimes[1].handle())];
    for runtime in &runtimes {
        runtime.spawn(watch("import", async { sleeps_in_a_helper() }));
    }
    assert_names_the_helper(&with_stack(&inbox));
    assert_names_the_helper(&with_stack(&other));
}

#[test]
fn signal_from_elsewhere_has_no_effect() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = watched(&inbox, runtime.handle());
    let task = runtime.spawn(watch("import", async { sleeps_in_a_helper() }));
    while !task.is_finished() {
        kill_process(getpid(), Signal::URG).unwrap();
        thread::yield_now();
    }
    assert_names_the_helper(&with_stack(&inbox));
}

#[test]
fn thread_that_blocks_the_signal_is_reported_without_stack() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = watched(&inbox, runtime.handle());
    runtime.spawn(watch("blocks the signal", async {
        mask(libc::SIG_BLOCK);
        // The report at four times the threshold has waited for a stack by then, and no further report is due.
        sleep(THRESHOLD * 7);
        // The handler runs now, after the watch has given up.
        mask(libc::SIG_UNBLOCK);
    }));
    inbox.wait_for_recovered(1);
    let blocked = all_blocked(&inbox);
    assert!(blocked.iter().all(|blocked| blocked.stack().is_none() && blocked.hint() == Hint::Unknown), "{blocked:?}");
    assert!(blocked[0].blocked_for() < THRESHOLD * 6, "{blocked:?}");
    runtime.spawn(watch("import", async { sleeps_in_a_helper() }));
    assert_names_the_helper(&with_stack(&inbox));
}

#[expect(unsafe_code, reason = "the mask of a thread has no safe interface")]
fn mask(how: libc::c_int) {
    // SAFETY: Zeros are a valid set, and both pointers are valid.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, libc::SIGURG);
        assert_eq!(libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()), 0);
    }
}

#[test]
fn handler_that_is_installed_later_works_beside_the_handler_of_the_watch() {
    in_own_process("handler_that_is_installed_later_works_beside_the_handler_of_the_watch", || {
        let (inbox, runtime) = (Inbox::default(), multi_thread(2));
        let _watch = watched(&inbox, runtime.handle());
        let listening = || signal(SignalKind::from_raw(libc::SIGURG)).unwrap();
        let mut urgent = runtime.block_on(async { listening() });
        runtime.spawn(watch("import", async { sleeps_in_a_helper() }));
        assert_names_the_helper(&with_stack(&inbox));
        kill_process(getpid(), Signal::URG).unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, urgent.recv()).await }).unwrap();
        // A second watch finds the handler of tokio, which calls the handler of the first watch.
        let (second, other) = (Inbox::default(), multi_thread(1));
        let _second = watched(&second, other.handle());
        other.spawn(watch("import", async { sleeps_in_a_helper() }));
        assert_names_the_helper(&with_stack(&second));
    });
}

#[test]
fn stacks_are_refused_if_another_handler_is_installed() {
    in_own_process("stacks_are_refused_if_another_handler_is_installed", || {
        let runtime = current_thread();
        let _urgent = runtime.block_on(async { signal(SignalKind::from_raw(libc::SIGURG)).unwrap() });
        let error = Watch::builder().capture_stacks().build().unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, WatchError::StacksUnavailable(_)) && text.contains("SIGURG"), "{text}");
        Watch::builder().build().unwrap();
    });
}

/// A program with a timer that fires a thousand times a second, and with processes that come and go.
#[test]
fn stacks_are_captured_among_signals_and_forks() {
    in_own_process("stacks_are_captured_among_signals_and_forks", || {
        let (inbox, runtime) = (Inbox::default(), multi_thread(2));
        let _watch = watched(&inbox, runtime.handle());
        let mut alarms = runtime.block_on(async { signal(SignalKind::alarm()).unwrap() });
        start_timer();
        for _ in 0..5 {
            let task = runtime.spawn(watch("import", async { sleeps_in_a_helper() }));
            while !task.is_finished() {
                assert!(Command::new("true").status().unwrap().success());
            }
        }
        let reports = inbox.wait_for_recovered(5);
        assert!(reports.iter().all(|recovered| recovered.total() >= THRESHOLD), "{reports:?}");
        assert_names_the_helper(&with_stack(&inbox));
        runtime.block_on(async { tokio::time::timeout(PATIENCE, alarms.recv()).await }).unwrap();
    });
}

#[expect(unsafe_code, reason = "timers have no safe interface")]
fn start_timer() {
    let millisecond = libc::timeval { tv_sec: 0, tv_usec: 1_000 };
    let timer = libc::itimerval { it_interval: millisecond, it_value: millisecond };
    // SAFETY: The pointer is valid, and the call may leave out the pointer for the old timer.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }, 0);
}
