//! The tracing spans of services, which belong to no caller.

use onelane::background::{Every, periodic_blocking, service_fn};
use tracing::{Instrument, info_span};

use crate::host::actor::virtual_host;
use support::spans::{SpanNotes, enable_spans};
use support::waiting::until;

#[tokio::test]
async fn services_and_their_child_tasks_take_no_span_along() {
    let _spans = enable_spans();
    let notes = SpanNotes::default();
    let (noted, noted_call) = (notes.clone(), notes.clone());
    let service = service_fn("parent", move |cx| {
        let (outside, inside, in_child) = (noted.clone(), noted.clone(), noted.clone());
        async move {
            outside.note();
            let instrumented = async {
                inside.note();
                cx.spawn(async move { in_child.note() }).await
            };
            instrumented.instrument(info_span!("own")).await?;
            cx.stopping().await;
            Ok(())
        }
    });
    let calls = periodic_blocking("calls", Every::secs(3600), move |_| {
        let _spans = enable_spans();
        noted_call.note();
        Ok(())
    });
    let host = virtual_host().service(service).service(calls.after("parent")).build().unwrap();
    host.start().instrument(info_span!("caller")).await.unwrap();
    until("all have noted their spans", || notes.names().len() == 4).await;
    let mut names = notes.names();
    names.sort_unstable();
    assert_eq!(names, [None, None, None, Some("own")]);
    assert!(host.shutdown().await.unwrap().is_clean());
}
