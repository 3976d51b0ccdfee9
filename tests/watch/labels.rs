//! Labels of polls.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::sleep;
use std::time::Duration;

use futures::FutureExt;
use onelane::watch::{Label, watch};
use support::runtimes::multi_thread;

use crate::inbox::Inbox;

const BLOCK: Duration = Duration::from_millis(200);

#[test]
fn innermost_label_is_reported_and_the_outer_one_afterwards() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    let inner = || watch("inner", async { sleep(BLOCK) });
    let outer = async move {
        inner().await;
        tokio::time::sleep(BLOCK).await;
        // In one poll: the inner future ends, and the outer one blocks on.
        let _ = watch("inner, ended", async {}).now_or_never();
        sleep(BLOCK);
    };
    runtime.block_on(runtime.spawn(watch("outer", outer))).unwrap();
    inbox.wait_for_recovered(2);
    let labels: Vec<_> = inbox.blocked().iter().map(|(_, blocked)| blocked.label()).collect();
    assert_eq!(labels, [Some("inner"), Some("outer")]);
}

/// Many short polls in one long one are no progress of the worker.
#[test]
fn long_poll_that_polls_many_labelled_futures_is_reported() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    let outer = async {
        for _ in 0..40 {
            let _ = watch("part", async { sleep(Duration::from_millis(10)) }).now_or_never();
        }
    };
    runtime.block_on(runtime.spawn(watch("outer", outer))).unwrap();
    inbox.wait_for_recovered(1);
}

#[test]
fn label_ends_with_a_poll_that_panics() {
    let (inbox, runtime) = (Inbox::default(), multi_thread(1));
    let _watch = inbox.watch(runtime.handle());
    let panics = async {
        // Without the hook, which takes its time to print a backtrace.
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
