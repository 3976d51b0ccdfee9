//! The order in which queued tasks start.

use std::sync::{Arc, Mutex};

use onelane::BlockingPool;
use onelane::offload::Priority;

use support::waiting::{Gate, soon};

#[tokio::test]
async fn tasks_start_by_priority_and_then_first_in_first_out() {
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
        soon("all tasks end", handle).await.unwrap();
    }
    let expected = [Priority::High, Priority::Normal, Priority::Low].map(|priority| [(priority, 0), (priority, 1)]);
    assert_eq!(*order.lock().unwrap(), expected.concat());
}

#[tokio::test]
async fn lower_priorities_are_not_starved_by_a_higher_one() {
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
    soon("the task of normal priority runs", normal).await.unwrap();
    for handle in low.into_iter().chain(high).chain(blocked) {
        soon("all tasks end", handle).await.unwrap();
    }
    let order = order.lock().unwrap();
    let positions = |wanted| order.iter().enumerate().filter(move |(_, priority)| **priority == wanted).map(|(n, _)| n);
    assert_eq!(
        positions(Priority::Low).take(3).collect::<Vec<_>>(),
        [7, 15, 23],
        "every eighth task is of a lower priority"
    );
    assert_eq!(positions(Priority::Normal).collect::<Vec<_>>(), [47], "after the older tasks of lower priority");
}
