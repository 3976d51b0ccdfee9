//! `assert_never_blocks`.

use std::thread::sleep;
use std::time::Duration;

use onelane::run_blocking;
use onelane::watch::assert_never_blocks;
use support::waiting::{MS, PATIENCE};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn future_that_waits_does_not_block() {
    let waits = async {
        tokio::time::sleep(MS * 20).await;
        run_blocking(|| sleep(MS * 20)).await.unwrap()
    };
    assert_never_blocks(PATIENCE, waits).await;
}

#[tokio::test(start_paused = true)]
async fn time_of_a_paused_clock_does_not_count() {
    assert_never_blocks(PATIENCE, tokio::time::sleep(Duration::from_secs(3_600))).await;
}

#[tokio::test]
async fn panic_names_the_assertion_and_what_to_do() {
    let blocks = async { sleep(MS * 60) };
    let (file, line) = (file!(), line!() + 1);
    let asserted = tokio::spawn(assert_never_blocks(MS * 50, blocks));
    let panic = asserted.await.unwrap_err().into_panic();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains(&format!("{file}:{line}")), "{message}");
    assert!(message.contains("one poll took ") && message.contains("run_blocking"), "{message}");
}
