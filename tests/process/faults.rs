//! Tasks that end their worker.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use onelane::offload::process::{WorkerCounts, WorkerExit};
use onelane::{ProcessError, ProcessPool};

use crate::work::{Fault, add, fail, flood, send_garbage, sleep_ms};

/// Checks the error of a task that fails.
type Check = fn(&ProcessError) -> bool;

fn died(error: &ProcessError, exit: WorkerExit) -> bool {
    matches!(error, ProcessError::WorkerDied(death) if death.exit() == exit && death.peak_memory().unwrap() > 100_000)
}

const FAULTS: [(Fault, Check); 8] = [
    (Fault::Allocate, |error| matches!(error, ProcessError::MemoryLimit(_))),
    (Fault::Loop, |error| matches!(error, ProcessError::Timeout(_))),
    (Fault::Segfault, |error| died(error, WorkerExit::Signal(11))),
    (Fault::Abort, |error| died(error, WorkerExit::Signal(6))),
    (Fault::Exit, |error| died(error, WorkerExit::Code(3))),
    (Fault::Kill, |error| died(error, WorkerExit::Signal(9))),
    (Fault::Overflow, |error| died(error, WorkerExit::Signal(11))),
    (Fault::Panic, |error| {
        matches!(error, ProcessError::Panicked(panic) if panic.message() == "the image has no pixels"
            && panic.location().unwrap().contains("work.rs"))
    }),
];

#[tokio::test]
async fn fault_fails_its_task_and_no_other() {
    let pool = ProcessPool::builder("faults").workers(2).memory_limit(1 << 30).forward_stderr(false).build();
    for (fault, is_expected) in FAULTS {
        // One task runs in the other worker, and six are queued.
        let running = pool.task(sleep_ms, 50).start().unwrap();
        let failing = pool.task(fail, fault).timeout(Duration::from_millis(700)).start().unwrap();
        let queued: Vec<_> = (0..6).map(|number| pool.task(add, (number, 1)).start().unwrap()).collect();
        let error = failing.await.unwrap_err();
        assert!(is_expected(&error), "{fault:?}: {error:?}");
        assert!(running.await.is_ok(), "{fault:?}");
        let results = join_all(queued).await.into_iter().map(Result::unwrap);
        assert!(results.eq(1..7), "{fault:?}");
        // The pool has two workers again.
        let both = join_all([0, 1].map(|_| pool.run(sleep_ms, 30))).await;
        assert_ne!(both[0].as_ref().unwrap(), both[1].as_ref().unwrap());
    }
    let WorkerCounts { died, killed, .. } = pool.stats().workers;
    assert_eq!((died, killed), (5, 2));
}

#[tokio::test]
async fn errors_say_what_happened() {
    let pool = ProcessPool::builder("texts").workers(1).forward_stderr(false).build();
    let last_words = |(): ()| {
        eprintln!("libpng: IDAT is damaged");
        fail(Fault::Segfault)
    };
    let error = pool.run(last_words, ()).await.unwrap_err();
    let death = error.death().unwrap();
    assert_eq!(death.stderr(), "libpng: IDAT is damaged\n");
    assert!(death.ran_for() < Duration::from_secs(5));
    let text = error.to_string();
    assert!(text.contains("ended by SIGSEGV") && text.contains("MiB of memory") && text.contains("IDAT"), "{text}");

    let flood = |(): ()| {
        for line in 0..5_000 {
            eprintln!("line {line}");
        }
        fail(Fault::Abort)
    };
    let error = pool.run(flood, ()).await.unwrap_err();
    let stderr = error.death().unwrap().stderr();
    assert!(stderr.ends_with("line 4999\n") && stderr.len() == 4_096, "{}", stderr.len());
}

#[tokio::test]
async fn every_hundredth_of_ten_thousand_tasks_crashes_alone() {
    let pool = ProcessPool::builder("many").workers(2).forward_stderr(false).build();
    let task = |number: u32| {
        if number % 100 == 99 {
            std::process::abort();
        }
        number * 2
    };
    let results = join_all((0..10_000).map(|number| pool.run(task, number))).await;
    for (number, result) in (0..).zip(results) {
        match result {
            Ok(result) => assert!(number % 100 != 99 && result == number * 2),
            Err(error) => assert!(number % 100 == 99 && died(&error, WorkerExit::Signal(6)), "{number}: {error}"),
        }
    }
    assert_eq!(pool.stats().workers.died, 100);
}

#[tokio::test]
async fn worker_that_dies_at_start_is_an_error_with_its_last_words() {
    let initializer = || {
        eprintln!("no licence file");
        std::process::exit(9);
    };
    let pool = ProcessPool::builder("start").workers(1).forward_stderr(false).initializer(initializer).build();
    let error = pool.run(add, (1, 2)).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ProcessError::NoWorker { attempts: 3, .. }), "{error:?}");
    assert!(text.contains("exited with code 9") && text.contains("no licence file"), "{text}");
    let error = pool.run(add, (1, 2)).await.unwrap_err();
    assert!(matches!(error, ProcessError::NoWorker { .. }), "a later task tries again: {error:?}");

    let pool =
        ProcessPool::builder("panic").workers(1).forward_stderr(false).initializer(|| panic!("no model")).build();
    let text = pool.run(add, (1, 2)).await.unwrap_err().to_string();
    assert!(text.contains("its initializer panicked: no model"), "{text}");
}

#[tokio::test]
async fn worker_that_sends_garbage_is_killed_and_reported() {
    let pool = ProcessPool::builder("garbage").workers(1).max_reply(1 << 20).build();
    let header = |length: u64| [&[2][..], &length.to_le_bytes()].concat();
    let cases = [
        (Bytes::from_static(&[0xff; 100]), "no reply begins like this"),
        (header(u64::MAX).into(), "it is longer than max_reply allows"),
        (header((1 << 20) + 1).into(), "it is longer than max_reply allows"),
        ([&[6][..], &[0; 8]].concat().into(), "an attachment is too short"),
    ];
    for (garbage, expected) in cases {
        for sends in [send_garbage, flood] {
            let error = pool.run(sends, garbage.clone()).await.unwrap_err();
            let ProcessError::BadReply { reason, death } = &error else { panic!("{error:?}") };
            assert_eq!((*reason, death.exit()), (expected, WorkerExit::Signal(9)));
            assert_eq!(pool.run(add, (1, 2)).await.unwrap(), 3);
        }
    }
    assert_eq!(pool.stats().workers.killed, 8);
}
