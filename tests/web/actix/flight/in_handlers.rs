//! Flights that a handler runs itself.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::get;
use actix_web::{HttpResponse, ResponseError};
use onelane::guard::FlightErrorKind;
use onelane::{FlightError, SingleFlight};

use super::Seen;
use support::actix::{Server, Work, assert_problem};
use support::client::eventually;

#[tokio::test]
async fn error_returned_by_a_handler_is_the_same_response() {
    static FLIGHT: SingleFlight<&str, &str, Infallible> =
        SingleFlight::builder("by hand").max_wait(Duration::from_millis(50)).build();

    type GuardedResponse = Result<&'static str, FlightError<Infallible>>;
    async fn late() -> GuardedResponse {
        FLIGHT.run("late", pending).await
    }
    async fn panicked() -> GuardedResponse {
        FLIGHT.run("panicked", || async { panic!("panic requested by the test") }).await
    }
    async fn crowded() -> GuardedResponse {
        Err(FlightError::from_kind(FlightErrorKind::TooManyWaiters))
    }
    async fn nested() -> GuardedResponse {
        Err(FlightError::from_kind(FlightErrorKind::WouldDeadlock))
    }
    let server = Server::start(|config| {
        config
            .route("/late", get().to(late))
            .route("/panicked", get().to(panicked))
            .route("/crowded", get().to(crowded))
            .route("/nested", get().to(nested));
    });
    for (path, status, retry_after, kind) in [
        ("/late", 503, Some("1"), "https://docs.rs/onelane/latest/onelane/web/index.html#timeout"),
        ("/panicked", 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#panicked"),
        ("/crowded", 503, Some("1"), "https://docs.rs/onelane/latest/onelane/web/index.html#too-many-waiters"),
        ("/nested", 500, None, "https://docs.rs/onelane/latest/onelane/web/index.html#would-deadlock"),
    ] {
        let problem = assert_problem(server.get(path).await.expect("no panic"), status, retry_after, kind).await;
        assert!(
            !problem.to_string().contains("panic requested by the test"),
            "details of the failure are not disclosed"
        );
    }
    assert_eq!(
        FlightError::<Infallible>::from_kind(FlightErrorKind::TooManyWaiters).status_code(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn error_of_the_work_itself_makes_its_own_response_for_all_that_share_it() {
    #[derive(Debug)]
    struct NoCoffee;

    impl fmt::Display for NoCoffee {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("no coffee")
        }
    }

    impl ResponseError for NoCoffee {
        fn status_code(&self) -> StatusCode {
            StatusCode::IM_A_TEAPOT
        }

        fn error_response(&self) -> HttpResponse {
            HttpResponse::build(self.status_code()).body("short and stout")
        }
    }

    let flight: Arc<SingleFlight<(), &str, NoCoffee>> = Arc::new(SingleFlight::new("by hand"));
    let work: Arc<Work> = Arc::default();
    let server = Server::start({
        let (flight, work) = (Arc::clone(&flight), Arc::clone(&work));
        move |config| {
            let (flight, work) = (Arc::clone(&flight), Arc::clone(&work));
            let brew = move || {
                let (flight, work) = (Arc::clone(&flight), Arc::clone(&work));
                async move {
                    let brewed = || async move {
                        work.run().await;
                        Err(NoCoffee)
                    };
                    flight.run((), brewed).await
                }
            };
            config.route("/", get().to(brew));
        }
    });
    let calls = [server.get("/"), server.get("/")];
    eventually("both requests wait", || flight.stats().waiting == 2).await;
    work.let_finish(1);
    for call in calls {
        assert_eq!(Seen::of(call.await.expect("no panic")).await, Seen::new(418, None, "short and stout"));
    }
    assert_eq!(work.started(), 1);
    assert_eq!(FlightError::failed(NoCoffee).status_code(), StatusCode::IM_A_TEAPOT);
}
