//! tokio's cooperative scheduling.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use onelane::EndpointGuard;
use tokio::task::yield_now;

#[tokio::test(start_paused = true)]
async fn acquiring_a_free_guard_in_a_loop_yields_to_other_tasks() {
    let guard = EndpointGuard::new("cooperative");
    let others = Arc::new(AtomicUsize::new(0));
    let other = tokio::spawn({
        let others = Arc::clone(&others);
        async move {
            loop {
                others.fetch_add(1, Ordering::Relaxed);
                yield_now().await;
            }
        }
    });
    for _ in 0..1_000 {
        drop(guard.acquire().await.unwrap());
    }
    assert!(others.load(Ordering::Relaxed) > 1);
    other.abort();
}
