//! The adapters.

use std::convert::Infallible;
use std::sync::Arc;

use actix_web::{App, HttpResponse, test, web};
use bytes::Bytes;
use futures::stream;
use http::request::Parts;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Empty, StreamBody};
use onelane::KeyedGuard;
use onelane::web::GuardOptions;
use onelane::web::actix::blocking_handler;
use onelane::web::tower::{GuardLayer, GuardRequestBody};
use support::waiting::until;
use tower::{Layer, ServiceExt, service_fn};

use crate::SHORT;

pub(crate) async fn scenario() {
    let guard = Arc::new(KeyedGuard::<u8>::new("slow readers"));
    let respond = service_fn(|_: Request<GuardRequestBody<Empty<Bytes>>>| async {
        let body = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        Ok::<_, Infallible>(Response::new(body))
    });
    let options = GuardOptions::new().body_hold_max(SHORT);
    let service = GuardLayer::keyed(&guard, |_: &Parts| Some(7)).options(options).layer(respond);
    let response = service.oneshot(Request::new(Empty::new())).await.unwrap();
    until("the body has taken too long", || guard.stats().overrun == 1).await;
    drop(response);

    tokio::task::spawn_blocking(|| {
        actix_web::rt::System::new().block_on(async {
            let streams = || HttpResponse::Ok().streaming(stream::iter([Ok::<_, std::io::Error>(Bytes::from("a"))]));
            let app = test::init_service(App::new().route("/", web::get().to(blocking_handler(streams)))).await;
            let response = test::call_service(&app, test::TestRequest::get().uri("/").to_request()).await;
            assert_eq!(response.status(), 500);
        });
    })
    .await
    .unwrap();

    #[cfg(target_os = "linux")]
    {
        let pool = onelane::ProcessPool::builder("streams").workers(1).build();
        let streams = |()| axum::body::Body::from_stream(stream::iter([Ok::<_, Infallible>("a")]));
        let handler = onelane::web::axum::process_handler(&pool, streams);
        let app = axum::Router::new().route("/", axum::routing::get(handler));
        let response = app.oneshot(Request::new(axum::body::Body::empty())).await.unwrap();
        assert_eq!(response.status(), 500);
    }
}
