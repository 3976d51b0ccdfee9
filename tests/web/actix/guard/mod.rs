//! The guard in actix-web, on real servers with two workers, called over real sockets.

mod disconnect;
mod extractor;
mod hold;
mod nested;
mod one_guard;
mod queue;
mod refusals;

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::{ServiceConfig, route, scope};
use futures::future::ready;
use onelane::guard::SharedGuard;
use onelane::web::GuardOptions;
use onelane::web::actix::GuardMiddleware;

use support::actix::Work;

fn post_of(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{}", "x".repeat(length))
}

/// An app in which every route does `work` behind `guard`.
fn guarded(
    guard: impl Into<SharedGuard>,
    options: GuardOptions,
    work: &Arc<Work>,
) -> impl Fn(&mut ServiceConfig) + Send + Clone + 'static {
    let (guard, work) = (guard.into(), Arc::clone(work));
    move |config| {
        let work = Arc::clone(&work);
        let handler = move || {
            let work = Arc::clone(&work);
            async move {
                work.run().await;
                "done"
            }
        };
        let middleware = GuardMiddleware::new(guard.clone()).options(options.clone());
        config.service(scope("").wrap(middleware).default_service(route().to(handler)));
    }
}

/// An app in which every route responds behind `guard` with the result of `answer`.
fn responding(
    guard: impl Into<SharedGuard>,
    options: GuardOptions,
    respond: impl Fn() -> HttpResponse + Send + Clone + 'static,
) -> impl Fn(&mut ServiceConfig) + Send + Clone + 'static {
    let guard = guard.into();
    move |config| {
        let respond = respond.clone();
        let handler = move || ready(respond());
        let middleware = GuardMiddleware::new(guard.clone()).options(options.clone());
        config.service(scope("").wrap(middleware).default_service(route().to(handler)));
    }
}
