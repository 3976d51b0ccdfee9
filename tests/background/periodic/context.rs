//! Tests of what a call learns from its [`TickContext`].

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use onelane::background::{
    Every, ExitKind, FirstCall, Overlap, Placement, Service, ServiceHost, TickContext, periodic,
};
use tokio::time::{Instant, advance, sleep, timeout};

use crate::periodic::{SECOND, Seconds, eventually, rate, started, ticks};

/// Creates a service that keeps the context of each call, and whose calls take that many seconds.
fn recording(every: Every, seconds: u64) -> (Service, Arc<Mutex<Vec<TickContext>>>) {
    let contexts: Arc<Mutex<Vec<TickContext>>> = Arc::default();
    let recorded = Arc::clone(&contexts);
    let service = periodic("tick", every, move |cx: TickContext| {
        recorded.lock().unwrap().push(cx);
        async move {
            sleep(seconds.seconds()).await;
            Ok(())
        }
    });
    (service, contexts)
}

/// Returns by how much two times differ, in whole seconds.
fn apart(earlier: SystemTime, later: SystemTime) -> u64 {
    (later.duration_since(earlier).unwrap() + SECOND / 2).as_secs()
}

fn is_prompt(cx: &TickContext) -> bool {
    cx.delay() < SECOND / 10
}

#[tokio::test(start_paused = true)]
async fn prompt_call_has_no_delay_and_is_numbered() {
    for every in [rate(10), Every::secs(10), rate(10).overlap(Overlap::Allow)] {
        let (service, contexts) = recording(every, 0);
        let host = started(service).await;
        sleep(25.seconds()).await;
        let contexts = contexts.lock().unwrap().clone();
        assert_eq!(contexts.iter().map(TickContext::number).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(contexts.iter().all(|cx| cx.name() == "tick" && is_prompt(cx) && !cx.is_triggered()), "{contexts:?}");
        let _ = host.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn queued_call_knows_when_it_was_due() {
    let (service, contexts) = recording(rate(10).overlap(Overlap::Queue), 14);
    let host = started(service).await;
    // The call due at 10 s begins at 14 s.
    sleep(15.seconds()).await;
    let queued = contexts.lock().unwrap()[1].clone();
    assert_eq!(queued.delay().as_secs(), 4);
    assert_eq!(apart(queued.due(), ticks(&host.handle()).last_started().unwrap()), 4);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn call_that_makes_up_for_missed_ones_is_due_at_the_latest_of_them() {
    let (service, contexts) = recording(rate(10), 0);
    let host = started(service).await;
    sleep(SECOND).await;
    // Simulates a blocked runtime: the clock advances while no task is polled.
    advance(46.seconds()).await;
    sleep(SECOND).await;
    let delays: Vec<u64> = contexts.lock().unwrap().iter().map(|cx| cx.delay().as_secs()).collect();
    assert_eq!(delays, [0, 7]);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn triggered_call_is_due_when_it_was_first_triggered() {
    let (service, contexts) = recording(rate(100), 10);
    let host = started(service).await;
    sleep(4.seconds()).await;
    host.handle().trigger_now("tick").unwrap();
    sleep(2.seconds()).await;
    host.handle().trigger_now("tick").unwrap();
    sleep(5.seconds()).await;
    let contexts = contexts.lock().unwrap().clone();
    assert_eq!(contexts.iter().map(TickContext::is_triggered).collect::<Vec<_>>(), [false, true]);
    assert_eq!((contexts[1].delay().as_secs(), contexts[1].number()), (6, 2));
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn scheduled_call_that_serves_a_trigger_is_not_triggered() {
    let (service, contexts) = recording(rate(10).first_call(FirstCall::AfterInterval), 0);
    let host = started(service).await;
    sleep(SECOND).await;
    advance(8.seconds()).await;
    host.handle().trigger_now("tick").unwrap();
    advance(SECOND).await;
    sleep(SECOND).await;
    let contexts = contexts.lock().unwrap().clone();
    assert!(contexts.len() == 1 && !contexts[0].is_triggered(), "{contexts:?}");
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn call_knows_how_earlier_calls_ended() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let exits = Arc::clone(&seen);
    let service = periodic("tick", rate(10), move |cx| {
        let text = |exit: Option<&ExitKind>| exit.map(ToString::to_string).unwrap_or_default();
        exits.lock().unwrap().push((text(cx.last_exit()), text(cx.last_failure())));
        async move { if cx.number() == 1 { Err("no connection".into()) } else { Ok(()) } }
    });
    let host = started(service).await;
    sleep(25.seconds()).await;
    let failure = "failed: no connection";
    let expected = [("", ""), (failure, failure), ("completed", failure)].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(*seen.lock().unwrap(), expected);
    let _ = host.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn call_that_watches_for_the_stop_ends_at_once() {
    for overlap in [Overlap::Skip, Overlap::Allow] {
        let stopping = Arc::new(Mutex::new(Vec::new()));
        let observed = Arc::clone(&stopping);
        let service = periodic("tick", rate(1_000).overlap(overlap), move |cx| {
            let observed = Arc::clone(&observed);
            async move {
                let states = |cx: &TickContext| (cx.is_stopping(), cx.token().is_cancelled());
                observed.lock().unwrap().push(states(&cx));
                cx.stopping().await;
                observed.lock().unwrap().push(states(&cx));
                Ok(())
            }
        });
        let host = started(service).await;
        sleep(SECOND).await;
        let start = Instant::now();
        let report = timeout(100.seconds(), host.shutdown()).await.unwrap().unwrap();
        assert!(report.is_clean() && start.elapsed() < SECOND, "{overlap:?}: {report:?}");
        assert_eq!(*stopping.lock().unwrap(), [(false, false), (true, true)]);
        assert_eq!(ticks(&host.handle()).failures(), 0);
    }
}

#[tokio::test]
async fn cron_call_is_due_at_the_time_that_the_expression_matches() {
    let (service, contexts) = recording(Every::cron("* * * * * *").unwrap().max_runs(2), 0);
    let host = ServiceHost::builder().service(service.placement(Placement::Thread)).build().unwrap();
    host.start().await.unwrap();
    eventually(|| contexts.lock().unwrap().len() == 2).await;
    let contexts = contexts.lock().unwrap().clone();
    for cx in &contexts {
        let since_1970 = cx.due().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since_1970, Duration::from_secs(since_1970.as_secs()), "{cx:?}");
    }
    assert!(contexts[1].due() > contexts[0].due());
    let _ = host.shutdown().await.unwrap();
}
