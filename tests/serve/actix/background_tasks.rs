//! Work after the responses of actix-web.

use std::io;
use std::sync::Arc;

use actix_web::body::BoxBody;
use actix_web::dev::ServiceResponse;
use actix_web::error::ErrorImATeapot;
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, ServiceConfig};
use actix_web::{App, HttpResponse, test};
use onelane::web::{BackgroundTasks, ServeConfig};
use support::http::{self, Client, eventually};
use tokio::time::sleep;

use crate::background_tasks::noting;
use crate::{Log, MS, TestServer, note, notes};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_after_the_response_to_an_error_of_a_handler_or_a_middleware() {
    let log = Log::default();
    let noted = Arc::clone(&log);
    let routes = move |app: &mut ServiceConfig| {
        let log = Arc::clone(&noted);
        let handler = move |tasks: BackgroundTasks| {
            tasks.add_task(noting(&log, "response")).unwrap();
            async { Err::<&str, _>(io::Error::other("on purpose")) }
        };
        let fails = from_fn(|request, next: Next<BoxBody>| async move {
            next.call(request).await?;
            Err::<ServiceResponse, _>(ErrorImATeapot("on purpose"))
        });
        app.route("/handler", web::to(handler.clone()));
        app.service(web::resource("/middleware").wrap(fails).route(web::to(handler)));
    };
    let server = TestServer::actix(routes, ServeConfig::new()).await;
    for (path, status) in [("/handler", 500), ("/middleware", 418)] {
        let mut client = Client::sending(server.address, http::get(path)).await;
        assert_eq!(client.response().await.status, status);
    }
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(notes(&log), ["response", "response"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_start_after_a_response_without_a_body_and_after_a_stream() {
    let log = Log::default();
    let noted = Arc::clone(&log);
    let routes = move |app: &mut ServiceConfig| {
        let [a, b] = [&noted, &noted].map(Arc::clone);
        let no_content = move |tasks: BackgroundTasks| {
            tasks.add_task(noting(&a, "no content")).unwrap();
            async { HttpResponse::NoContent().finish() }
        };
        let stream = move |tasks: BackgroundTasks| {
            tasks.add_task(noting(&b, "stream")).unwrap();
            let log = Arc::clone(&b);
            async move {
                let chunks = futures::stream::unfold(0, move |n| {
                    let log = Arc::clone(&log);
                    async move {
                        sleep(MS * 5).await;
                        note(&log, format!("chunk {n}"));
                        (n < 2).then(|| (Ok::<_, io::Error>(web::Bytes::from_static(b"chunk")), n + 1))
                    }
                });
                HttpResponse::Ok().streaming(chunks)
            }
        };
        app.route("/no-content", web::to(no_content)).route("/stream", web::to(stream));
    };
    let server = TestServer::actix(routes, ServeConfig::new()).await;
    let mut client = Client::sending(server.address, http::get("/no-content")).await;
    assert_eq!(client.head().await.lines().next(), Some("HTTP/1.1 204 No Content"));
    eventually("the task runs", || notes(&log) == ["no content"]).await;
    let mut client = Client::sending(server.address, http::get("/stream")).await;
    client.until("0\r\n\r\n").await;
    let expected = ["no content", "chunk 0", "chunk 1", "chunk 2", "stream"];
    eventually("the task runs", || notes(&log) == expected).await;
    let (report, _) = server.stop().await;
    assert!(report.is_clean(), "{report:?}");
}

#[actix_web::test]
async fn app_without_the_server_says_what_is_missing() {
    let app = App::new().route("/", web::get().to(|_: BackgroundTasks| async { "response" }));
    let app = test::init_service(app).await;
    let response = test::call_service(&app, test::TestRequest::get().to_request()).await;
    assert_eq!(response.status(), 500);
    let body = String::from_utf8(test::read_body(response).await.to_vec()).unwrap();
    assert!(body.contains("no-background-tasks") && body.contains("serve the app with the serve function"), "{body}");
}
