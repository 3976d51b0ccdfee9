//! Labels of polls.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::sleep;
use std::time::Duration;

use futures::FutureExt;
use onelane::watch::{Label, register_thread, watch};
use support::runtimes::multi_thread;
use support::waiting::{Gate, spin_until};
use tokio::task::block_in_place;

use crate::inbox::{Inbox, THRESHOLD};

const BLOCK: Duration = Duration::from_millis(300);

#[test]
fn innermost_label_is_reported_and_the_outer_one_afterwards() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    let inner = || watch("inner", async { sleep(BLOCK) });
    let outer = async move {
        inner().await;
        tokio::time::sleep(BLOCK).await;
        // In the same poll, the inner future ends, and the outer future continues to block.
        let _ = watch("inner, ended", async {}).now_or_never();
        sleep(BLOCK);
    };
    runtime.block_on(runtime.spawn(watch("outer", outer))).unwrap();
    inbox.wait_for_recovered(2);
    let labels: Vec<_> = inbox.blocked().iter().map(|(_, blocked)| blocked.label()).collect();
    assert_eq!(labels, [Some("inner"), Some("outer")]);
}

/// Many short polls inside a long one are not progress of the worker.
#[test]
fn long_poll_that_polls_many_labelled_futures_is_reported() {
    for has_label in [true, false] {
        let (inbox, runtime) = (Inbox::default(), multi_thread(1));
        let _watch = inbox.watch(runtime.handle());
        let outer = async {
            for _ in 0..40 {
                let _ = watch("part", async { sleep(Duration::from_millis(10)) }).now_or_never();
            }
        };
        let task = if has_label { runtime.spawn(watch("outer", outer)) } else { runtime.spawn(outer) };
        runtime.block_on(task).unwrap();
        let recovered = inbox.wait_for_recovered(1);
        assert!(recovered[0].total() > Duration::from_millis(300), "{recovered:?}");
    }
}

/// The thread in `block_in_place` has handed its worker over. The report names the thread that took over the worker.
#[test]
fn worker_that_was_handed_over_is_reported_with_the_label_of_its_new_thread() {
    let (inbox, runtime, gate) = (Inbox::default(), multi_thread(1), Gate::default());
    let _watch = inbox.watch(runtime.handle());
    let (in_place, wait) = (gate.wait(), gate.wait());
    runtime.spawn(watch("in place", async move { block_in_place(|| in_place.block()) }));
    spin_until(|| gate.inside() == 1);
    // The watch has sampled the poll first, and then the worker without that poll.
    sleep(BLOCK);
    runtime.spawn(async {});
    sleep(BLOCK);
    runtime.spawn(watch("blocks", async move { wait.block() }));
    inbox.wait_for_label("blocks");
    assert!(inbox.blocked().iter().all(|(_, blocked)| blocked.label() != Some("in place")), "{:?}", inbox.all());
}

/// The watch can't know which of the two threads is the worker, so it names neither.
#[test]
fn worker_that_is_handed_over_and_blocked_at_once_is_reported_without_a_wrong_label() {
    let (inbox, runtime, gate) = (Inbox::default(), multi_thread(1), Gate::default());
    // The watch samples every 20 ms. The threshold is far above the time that both polls need to begin.
    let _watch = inbox.watch(runtime.handle());
    let (in_place, wait) = (gate.wait(), gate.wait());
    runtime.spawn(watch("in place", async move { block_in_place(|| in_place.block()) }));
    runtime.spawn(watch("blocks", async move { wait.block() }));
    assert_ne!(inbox.wait_for(1)[0].label(), Some("in place"));
}

/// The watch knows only the first thread. The stack of that thread would name the wrong function.
#[cfg(target_os = "linux")]
#[test]
fn stack_of_a_thread_that_handed_its_worker_over_is_not_reported() {
    let builder = tokio::runtime::Builder::new_multi_thread().worker_threads(1).on_thread_park(register_thread).build();
    let (inbox, runtime, gate) = (Inbox::default(), builder.unwrap(), Gate::default());
    let builder = inbox.builder().threshold(THRESHOLD).capture_stacks();
    let _watch = builder.start(runtime.handle()).unwrap();
    // The debug information has been read, and the worker has parked.
    sleep(BLOCK * 5);
    let (in_place, wait) = (gate.wait(), gate.wait());
    runtime.spawn(async move {
        tokio::spawn(async move { wait.block() });
        block_in_place(|| in_place.block());
    });
    spin_until(|| gate.inside() == 2);
    let blocked = inbox.wait_for(1).remove(0);
    assert!(blocked.stack().is_none(), "{blocked:?}");
}

/// Slots outlive their threads. The slot of a thread that has ended must not describe the next thread.
/// The thread that gave the worker away is idle, and its slot must not hide the thread that took the worker over.
#[test]
fn thread_that_took_a_worker_over_is_known_once_it_has_parked() {
    let builder = tokio::runtime::Builder::new_multi_thread().worker_threads(1).on_thread_park(register_thread).build();
    let (inbox, runtime, gate) = (Inbox::default(), builder.unwrap(), Gate::default());
    let _watch = inbox.watch(runtime.handle());
    for _ in 0..3 {
        runtime.block_on(runtime.spawn(async { block_in_place(|| sleep(BLOCK)) })).unwrap();
    }
    // The worker has parked on its present thread.
    sleep(BLOCK);
    let wait = gate.wait();
    runtime.spawn(async move { wait.block() });
    let blocked = inbox.wait_for(1).remove(0);
    assert!(blocked.thread().is_some(), "{blocked:?}");
}

/// The poll of the label takes 10 ms. Only together do the polls block the worker.
#[test]
fn label_of_a_short_poll_has_no_statistics_of_a_long_one() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let watches = inbox.watch(runtime.handle());
    let outer = async {
        for _ in 0..40 {
            let _ = watch("part", async { sleep(Duration::from_millis(10)) }).now_or_never();
        }
    };
    runtime.block_on(runtime.spawn(outer)).unwrap();
    inbox.wait_for_recovered(1);
    let stats = watches.stats();
    assert!(stats.labels.iter().all(|stats| stats.label != "part"), "{stats:?}");
}

#[test]
fn threads_that_have_ended_are_not_named() {
    let inbox = Inbox::default();
    for round in 0..20 {
        let runtime = multi_thread(2);
        let watches = inbox.watch(runtime.handle());
        runtime.block_on(runtime.spawn(watch("ended", async {}))).unwrap();
        drop(runtime);
        let runtime = multi_thread(1);
        watches.add(runtime.handle());
        if round % 10 == 0 {
            runtime.block_on(runtime.spawn(async { sleep(BLOCK) })).unwrap();
        }
    }
    inbox.wait_for_recovered(2);
    assert!(inbox.blocked().iter().all(|(_, blocked)| blocked.label().is_none()), "{:?}", inbox.all());
}

#[test]
fn label_ends_with_a_poll_that_panics() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    let panics = async {
        // `resume_unwind` skips the panic hook, which would take long to print a backtrace.
        let future = watch("panics", async { resume_unwind(Box::new(())) });
        let result: Result<Option<()>, _> = catch_unwind(AssertUnwindSafe(|| future.now_or_never()));
        assert!(result.is_err());
        sleep(BLOCK);
    };
    runtime.block_on(runtime.spawn(panics)).unwrap();
    inbox.wait_for_recovered(1);
    assert_eq!(inbox.blocked()[0].1.label(), None);
}

#[test]
fn labels_with_equal_texts_are_equal() {
    let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(|| Label::new("shared".to_owned()))).collect();
    let labels: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(labels.iter().all(|label| *label == Label::new("shared")), "{labels:?}");
    assert_ne!(Label::new("shared"), Label::new("other"));
    assert_eq!(Label::new("other").to_string(), "other");
}
