//! Who goes first.

use std::sync::{Arc, Mutex};

use onelane::BlockingPool;
use onelane::offload::Priority;

use support::waiting::{Gate, soon};

#[tokio::test]
async fn tasks_begin_by_priority_and_then_in_their_order() {
    let (pool, gate) = (BlockingPool::builder("one").max_running(1).build(), Gate::default());
    let blocked = gate.fill(&pool, 1).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut handles = Vec::new();
    for n in 0..2 {
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            let order = order.clone();
            let task = pool.task(move |_| order.lock().unwrap().push((priority, n)));
            handles.push(task.priority(priority).start().unwrap());
        }
    }
    gate.open();
    for handle in handles.into_iter().chain(blocked) {
        soon("all end", handle).await.unwrap();
    }
    let expected = [Priority::High, Priority::Normal, Priority::Low].map(|priority| [(priority, 0), (priority, 1)]);
    assert_eq!(*order.lock().unwrap(), expected.concat());
}

#[tokio::test]
async fn lower_priorities_are_not_starved_by_those_that_come_again_and_again() {
    let (pool, gate) = (BlockingPool::builder("one").max_running(1).build(), Gate::default());
    let blocked = gate.fill(&pool, 1).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let submit = |priority| {
        let order = order.clone();
        pool.task(move |_| order.lock().unwrap().push(priority)).priority(priority).start().unwrap()
    };
    let low: Vec<_> = (0..5).map(|_| submit(Priority::Low)).collect();
    let normal = submit(Priority::Normal);
    let low: Vec<_> = low.into_iter().chain((0..5).map(|_| submit(Priority::Low))).collect();
    let high: Vec<_> = (0..100).map(|_| submit(Priority::High)).collect();
    gate.open();
    soon("the normal one runs", normal).await.unwrap();
    for handle in low.into_iter().chain(high).chain(blocked) {
        soon("all end", handle).await.unwrap();
    }
    let order = order.lock().unwrap();
    let places = |wanted| order.iter().enumerate().filter(move |(_, priority)| **priority == wanted).map(|(n, _)| n);
    assert_eq!(places(Priority::Low).take(3).collect::<Vec<_>>(), [7, 15, 23], "one in eight is of a lower one");
    assert_eq!(places(Priority::Normal).collect::<Vec<_>>(), [47], "after those that came before it");
}
