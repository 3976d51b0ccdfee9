//! Streams that end with a panic.

use std::iter::once_with;

use onelane::offload::OffloadError;
use onelane::stream_blocking;

use crate::stream::source::{Source, Watch, last, next};

fn message(error: OffloadError) -> String {
    assert!(error.pool().is_some());
    let panic = error.into_panic().unwrap();
    assert!(panic.location().unwrap().contains(".rs:"));
    let message = panic.message().to_owned();
    let payload = panic.into_payload().unwrap();
    assert_eq!(
        payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref().copied()),
        Some(&*message)
    );
    message
}

#[tokio::test]
async fn panic_of_the_iterator_is_the_last_item() {
    let watch = Watch::default();
    let mut stream = stream_blocking(Source::new(&watch).panic_at(600));
    for item in 0..600 {
        assert_eq!(next(&mut stream).await, item);
    }
    assert_eq!(message(last(&mut stream).await), "no item 600");
    assert!(watch.dropped().is_some());
    assert_eq!(watch.produced(), 601);
}

#[tokio::test]
async fn panic_in_into_iter_is_the_only_item() {
    struct PanicOnIntoIter;
    impl IntoIterator for PanicOnIntoIter {
        type Item = u8;
        type IntoIter = std::iter::Empty<u8>;

        fn into_iter(self) -> Self::IntoIter {
            panic!("no iterator")
        }
    }
    assert_eq!(message(last(&mut stream_blocking(PanicOnIntoIter)).await), "no iterator");
    assert_eq!(message(last(&mut stream_blocking(once_with(|| panic!("no item")).map(|()| 7))).await), "no item");
}

#[tokio::test]
async fn panic_when_the_iterator_is_dropped_is_the_last_item() {
    let watch = Watch::default();
    let mut stream = stream_blocking(Source::new(&watch).end(1).panic_when_dropped());
    assert_eq!(next(&mut stream).await, 0);
    assert_eq!(message(last(&mut stream).await), "the drop panics");
}

#[tokio::test]
async fn first_of_two_panics_is_the_last_item() {
    let watch = Watch::default();
    let mut stream = stream_blocking(Source::new(&watch).panic_at(1).panic_when_dropped());
    assert_eq!(next(&mut stream).await, 0);
    assert_eq!(message(last(&mut stream).await), "no item 1");
}

#[tokio::test]
async fn panic_when_an_item_is_measured_is_the_last_item() {
    let watch = Watch::default();
    let size = |item: &usize| if *item == 2 { panic!("no size") } else { 1 };
    let mut stream = stream_blocking(Source::new(&watch)).max_bytes(100, size);
    assert_eq!((next(&mut stream).await, next(&mut stream).await), (0, 1));
    assert_eq!(message(last(&mut stream).await), "no size");
    assert!(watch.dropped().is_some());
}
