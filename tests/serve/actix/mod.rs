//! actix-web servers.

mod background_tasks;
mod restarts;
mod server;
mod streams;
mod unwritten;
mod waiting;

use std::convert::Infallible;
use std::sync::Arc;

use actix_web::web::{Bytes, ServiceConfig};
use actix_web::{HttpResponse, web};
use futures::stream;
use tokio::time::sleep;

use super::{Log, MS, SLOW, note};

/// The routes of the app in `main.rs`.
pub(super) fn routes(app: &mut ServiceConfig, log: &Log) {
    let log = Arc::clone(log);
    let slow = move || {
        let log = Arc::clone(&log);
        async move {
            note(&log, "begins");
            sleep(SLOW).await;
            note(&log, "ends");
            "slow"
        }
    };
    let endless = || async {
        let chunks = stream::unfold((), |()| async {
            sleep(MS * 5).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b"data: x\n\n")), ()))
        });
        HttpResponse::Ok().content_type("text/event-stream").streaming(chunks)
    };
    app.route("/", web::get().to(|| async { "hello" }))
        .route("/slow", web::get().to(slow))
        .route("/endless", web::get().to(endless))
        .route("/big", web::get().to(|| async { vec![0_u8; 64 << 20] }))
        .route("/long", web::get().to(|| async { vec![0_u8; 16 << 20] }))
        .route("/body", web::post().to(|body: Bytes| async move { body.len().to_string() }));
}
