//! Blocking iterators as streams, compared with smol's streams and with a task for each item.

use std::future::Future;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use futures::StreamExt;
use onelane::stream_blocking;
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;

/// Sums one item per iteration.
fn bench_stream<F: Future<Output = u64>>(c: &mut Criterion, variant: &str, sum: impl Fn(u64) -> F) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    c.benchmark_group("stream_item").throughput(Throughput::Elements(1)).bench_function(variant, |b| {
        b.iter_custom(|iterations| {
            runtime.block_on(async {
                let start = Instant::now();
                assert_eq!(sum(iterations).await, iterations * (iterations - 1) / 2);
                start.elapsed().max(Duration::from_nanos(1))
            })
        });
    });
}

pub(crate) fn stream_item(c: &mut Criterion) {
    bench_stream(c, "onelane", |items| {
        stream_blocking(0..items).fold(0, async |sum, item| sum + item.expect("the iterator does not panic"))
    });
    bench_stream(c, "blocking_unblock", |items| blocking::Unblock::new(0..items).fold(0, async |sum, item| sum + item));
    bench_stream(c, "spawn_blocking_per_item", async |items| {
        let (mut iter, mut sum) = (0..items, 0);
        loop {
            let (returned, item) = spawn_blocking(move || {
                let item = iter.next();
                (iter, item)
            })
            .await
            .expect("the iterator does not panic");
            iter = returned;
            match item {
                Some(item) => sum += item,
                None => return sum,
            }
        }
    });
}
