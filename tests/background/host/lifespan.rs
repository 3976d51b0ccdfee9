//! Tests of [`lifespan`] and of the contexts of its closures.

use std::sync::{Arc, Mutex};

use onelane::background::{HostError, StartContext, StopContext, lifespan};
use tokio::time::{Instant, sleep, timeout};

use crate::host::actor::{SECOND, virtual_host};

#[tokio::test(start_paused = true)]
async fn start_and_stop_get_the_contexts_of_one_generation() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (started, stopped) = (Arc::clone(&log), Arc::clone(&log));
    let service = lifespan(
        "pool",
        move |cx: StartContext| {
            started.lock().unwrap().push(format!("{} {} {}", cx.name(), cx.generation(), cx.is_stopping()));
            async { Ok(()) }
        },
        move |cx: StopContext| {
            stopped.lock().unwrap().push(format!("{} {} {}", cx.name(), cx.generation(), cx.exit()));
            async { Ok(()) }
        },
    );
    let host = virtual_host().service(service).build().unwrap();
    host.start().await.unwrap();
    assert!(host.shutdown().await.unwrap().is_clean());
    assert_eq!(*log.lock().unwrap(), ["pool 1 false", "pool 1 stopped"]);
}

#[tokio::test(start_paused = true)]
async fn start_that_watches_for_the_stop_ends_at_once() {
    let connect = |cx: StartContext| async move {
        cx.stopping().await;
        assert!(cx.is_stopping() && cx.token().is_cancelled());
        Err("the host stopped first".into())
    };
    let host = Arc::new(virtual_host().service(lifespan("pool", connect, |_| async { Ok(()) })).build().unwrap());
    let handle = host.handle();
    let starting = tokio::spawn(async move { host.start().await });
    sleep(SECOND).await;
    let start = Instant::now();
    handle.request_shutdown();
    let error = timeout(SECOND * 100, starting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, HostError::StoppedWhileStarting { .. }), "{error:?}");
    assert!(start.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn stop_is_not_called_after_a_failed_start() {
    let fail = |_| async { Err("no connection".into()) };
    let service = lifespan("pool", fail, |cx: StopContext| async move { panic!("{cx:?}") });
    let host = virtual_host().service(service).build().unwrap();
    let error = host.start().await.unwrap_err();
    assert_eq!(error.service(), Some("pool"));
    assert!(error.to_string().contains("no connection"), "{error}");
}
