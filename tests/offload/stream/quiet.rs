//! Streams that are read to their end emit no events.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use futures::StreamExt;
use onelane::BlockingPool;
use tracing::span::Id;
use tracing::subscriber::set_default;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::stream::source::next;
use support::waiting::{Gate, Wait, soon, until};

/// Counts events, and keeps tasks from returning: each blocks when it leaves the span of its caller.
#[derive(Clone)]
struct Subscribed {
    consumer: ThreadId,
    wait: Wait,
    events: Arc<Mutex<Vec<String>>>,
    left: Arc<AtomicUsize>,
}

impl<S: Subscriber> Layer<S> for Subscribed {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.events.lock().unwrap().push(format!("{event:?}"));
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        if thread::current().id() != self.consumer {
            self.left.fetch_add(1, Ordering::SeqCst);
            self.wait.block();
        }
    }
}

/// The first task has parked the iterator and has not returned yet when the second one starts.
#[tokio::test]
async fn task_that_is_about_to_return_is_not_reported_as_abandoned() {
    let gate = Gate::default();
    let subscribed = Subscribed {
        consumer: thread::current().id(),
        wait: gate.wait(),
        events: Arc::default(),
        left: Arc::default(),
    };
    let _default = set_default(tracing_subscriber::registry().with(subscribed.clone()));
    let pool = BlockingPool::new("quiet");
    let mut stream = tracing::info_span!("request").in_scope(|| pool.stream(0..3).max_items(2));
    assert_eq!(next(&mut stream).await, 0);
    until("the first task is about to return", || subscribed.left.load(Ordering::SeqCst) == 1).await;
    assert_eq!(next(&mut stream).await, 1);
    until("the second task is about to return", || subscribed.left.load(Ordering::SeqCst) == 2).await;
    gate.open();
    assert_eq!(next(&mut stream).await, 2);
    assert!(soon("the stream ends", stream.next()).await.is_none());
    assert_eq!(*subscribed.events.lock().unwrap(), [""; 0]);
    // Refused tasks do emit an event.
    pool.close();
    assert!(pool.run(|| ()).await.is_err());
    assert!(!subscribed.events.lock().unwrap().is_empty());
}
