//! A guard in actix-web: the middleware, the extractor, errors as responses.
//!
//! ```no_run
//! use actix_web::{App, HttpServer, web};
//! use onelane::EndpointGuard;
//! use onelane::web::actix::GuardMiddleware;
//!
//! static REPORT: EndpointGuard = EndpointGuard::new("report");
//!
//! #[actix_web::main]
//! async fn main() -> std::io::Result<()> {
//!     let app = || {
//!         App::new().service(
//!             web::resource("/report")
//!                 .wrap(GuardMiddleware::new(&REPORT))
//!                 .route(web::post().to(|| async { "one request at a time here" })),
//!         )
//!     };
//!     // So that a client that closes its connection counts as gone, also while its request waits.
//!     HttpServer::new(app).h1_allow_half_closed(false).bind("127.0.0.1:3000")?.run().await
//! }
//! ```
//!
//! # Clients that leave
//!
//! By default actix-web takes a client that closes its connection for one that has merely finished sending: it goes on
//! serving it, its requests in the queue too. Only a reset connection counts as gone. Set
//! `HttpServer::h1_allow_half_closed(false)`, and a request whose client leaves gives up its place in the queue at once.
//!
//! With one exception: a request that waits with more of its body unread than actix-web's buffers hold (64 KiB and
//! more) keeps its place, as actix-web looks at its connection again only when the body is read.

mod body;
mod extract;
mod future;
mod middleware;
mod response;

pub use self::body::GuardBody;
pub use self::extract::GuardedFuture;
pub use self::future::GuardFuture;
pub use self::middleware::{GuardMiddleware, GuardService};
