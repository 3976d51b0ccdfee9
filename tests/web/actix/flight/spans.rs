//! The tracing span of a run's handler, which runs in its own task.

use std::cell::Cell;
use std::sync::Arc;

use actix_web::App;
use actix_web::dev::Service;
use actix_web::test::{TestRequest, init_service};
use actix_web::web::get;
use onelane::web::actix::FlightMiddleware;
use tracing::{Instrument, info_span};

use support::actix::Work;
use support::client::eventually;
use support::spans::{SpanNotes, enable_spans};

/// A middleware that instruments requests, such as that of tracing-actix-web, is around the flight.
#[actix_web::test]
async fn handler_of_a_run_stays_in_the_span_of_its_leader_whoever_waits() {
    for leader_disconnects in [false, true] {
        for all_disconnect in [false, true] {
            let _spans = enable_spans();
            let (flights, work, notes) =
                (FlightMiddleware::new("span"), Arc::new(Work::default()), SpanNotes::default());
            let (running, noted) = (Arc::clone(&work), notes.clone());
            let handler = move || {
                let (running, noted) = (Arc::clone(&running), noted.clone());
                async move {
                    let _note = noted.note_on_drop();
                    noted.note();
                    running.run().await;
                    noted.note();
                    "done"
                }
            };
            let requests = Cell::new(0);
            let app = App::new()
                .wrap(flights.clone())
                .wrap_fn(move |request, service| {
                    let number = requests.replace(requests.get() + 1);
                    service.call(request).instrument(if number == 0 {
                        info_span!("leader")
                    } else {
                        info_span!("other")
                    })
                })
                .default_service(get().to(handler));
            let app = init_service(app).await;
            let mut leader = tokio_test::task::spawn(app.call(TestRequest::get().to_request()));
            let mut follower = tokio_test::task::spawn(app.call(TestRequest::get().to_request()));
            assert!(leader.poll().is_pending() && follower.poll().is_pending());
            eventually("the handler runs", || work.inside() == 1).await;
            assert_eq!((flights.stats().waiting, notes.names()), (2, vec![Some("leader")]));
            if leader_disconnects {
                drop(leader);
            }
            if all_disconnect {
                drop(follower);
            }
            let is_cut = leader_disconnects && all_disconnect;
            if !is_cut {
                work.let_finish(1);
            }
            let expected = if is_cut { 2 } else { 3 };
            eventually("the handler has ended", || notes.names().len() == expected).await;
            assert_eq!(notes.names(), vec![Some("leader"); expected], "{leader_disconnects}, {all_disconnect}");
        }
    }
}
