//! Guards in front of routes, for axum, tower services (tonic, hyper) and actix-web, and handlers that run on a pool.
//!
//! | I want | use |
//! |---|---|
//! | one request at a time on axum routes | [`axum::GuardLayer`] |
//! | the same on any other tower service | [`tower::GuardLayer`] |
//! | the same in actix-web | [`actix::GuardMiddleware`] |
//! | one request at a time per user, tenant or document | [`keyed`](tower::GuardLayerFor::keyed) of the guard layers |
//! | one response for identical concurrent requests | the flight layers: [shared responses](#shared-responses) |
//! | a server that loses no request when it stops | [`axum::serve`](axum::serve()) |
//! | work after the response, like FastAPI's `BackgroundTasks` | [`BackgroundTasks`] |
//! | WebSockets and event streams that end with the server | [`axum::websocket`](axum::websocket()), [`until_draining`](crate::background::HostHandle::until_draining) |
//! | a permit for a part of a handler | [`EndpointGuard`](crate::EndpointGuard) in the handler, with `?` |
//! | a permit as an argument of a handler | [`Guarded`] |
//! | a handler that blocks, like FastAPI's `def` endpoints | [`axum::blocking_handler`], [`actix::blocking_handler`] |
//! | a handler that computes | [`axum::cpu_handler`], [`actix::cpu_handler`] |
//! | a handler that may crash, hang or take all memory | [`axum::process_handler`], [`actix::process_handler`] |
//! | a server that ends without losing a request | [`axum::serve`](axum::serve()), [`actix::serve`](actix::serve()) |
//! | work after the response | [`BackgroundTasks`] |
//! | [reports](crate::watch::Watch) that name a blocking route | [`axum::WatchLayer`], [`actix::WatchMiddleware`] |
//! | the same for any other tower service | [`tower::WatchLayer`] |
//! | `/livez`, `/readyz` and `/startupz` for an orchestrator | [`axum::probes`], [`actix::probes`] |
//!
//! # Refusals
//!
//! A request that is refused gets a response; a refusal is never an error of the service. The response's body is RFC
//! 9457's `application/problem+json`. [`GuardOptions::on_refusal`] changes any part of the response.
//!
//! A gRPC call, whose content type begins with `application/grpc`, gets the refusal as a gRPC status without a body
//! ("Trailers-Only"): 400 becomes `INVALID_ARGUMENT`, 409 `ABORTED`, 429 `RESOURCE_EXHAUSTED`, 499 `CANCELLED`, 500
//! `INTERNAL`, 503 `UNAVAILABLE` and 504 `DEADLINE_EXCEEDED`. The detail is the message, and the time of `Retry-After`
//! is also sent as `grpc-retry-pushback-ms` (gRFC A6).
//!
//! When the guard refuses the request ([`AcquireError`](crate::AcquireError)):
//!
//! | error | status | `type` | `Retry-After` |
//! |---|---|---|---|
//! | [`Busy`](crate::guard::AcquireErrorKind::Busy): the guard has no queue | 503 | <span id="busy">`busy`</span> | computed |
//! | [`QueueFull`](crate::guard::AcquireErrorKind::QueueFull) | 503 | <span id="queue-full">`queue-full`</span> | computed |
//! | [`TooManyKeys`](crate::guard::AcquireErrorKind::TooManyKeys) | 503 | <span id="too-many-keys">`too-many-keys`</span> | computed |
//! | [`Timeout`](crate::guard::AcquireErrorKind::Timeout): no permit within `max_wait` | 503 | <span id="timeout">`timeout`</span> | computed |
//! | [`GrantExpired`](crate::guard::AcquireErrorKind::GrantExpired) | 503 | <span id="grant-expired">`grant-expired`</span> | 1 |
//! | [`Closed`](crate::guard::AcquireErrorKind::Closed) | 503 | <span id="closed">`closed`</span> | |
//! | [`WouldDeadlock`](crate::guard::AcquireErrorKind::WouldDeadlock) | 500 | <span id="would-deadlock">`would-deadlock`</span> | |
//! | [`BlockingInAsync`](crate::guard::AcquireErrorKind::BlockingInAsync) | 500 | <span id="blocking-in-async">`blocking-in-async`</span> | |
//! | [`NotLocal`](crate::guard::AcquireErrorKind::NotLocal) | 500 | <span id="not-local">`not-local`</span> | |
//! | [`NotConnected`](crate::guard::AcquireErrorKind::NotConnected) | 503 | <span id="not-connected">`not-connected`</span> | |
//! | [`Unavailable`](crate::guard::AcquireErrorKind::Unavailable) | 503 | <span id="store-unavailable">`store-unavailable`</span> | 1 |
//! | the guard is distributed, and its lease was [lost](crate::backend::OnLost) while the handler ran | 503 | <span id="lease-lost">`lease-lost`</span> | 1 |
//!
//! A status of 500 means a bug in the service. A computed `Retry-After` estimates the time until every caller that
//! waits now has been served: the mean hold time × (waiting + 1) ÷ permits, rounded up to whole seconds, from 1 to
//! 3,600. Its value is 1 until a hold time has been measured.
//!
//! Behind a keyed layer, `Busy`, `QueueFull` and `Timeout` concern a single key. The status is then 429 where keys
//! stand for clients, and 409 where they stand for resources ([`KeyKind`]). A handler that acquires a key's permit
//! itself also chooses the status: `.map_err(|error| Refusal::from(error).with_status(429))?`.
//!
//! When the request was to share the response of a flight ([`FlightError`](crate::FlightError)):
//!
//! | error | status | `type` | `Retry-After` |
//! |---|---|---|---|
//! | [`TooManyWaiters`](crate::guard::FlightErrorKind::TooManyWaiters), or 32 runs without a response | 503 | <span id="too-many-waiters">`too-many-waiters`</span> | 1 |
//! | [`Timeout`](crate::guard::FlightErrorKind::Timeout) | 503 | `timeout` | 1 |
//! | [`Panicked`](crate::guard::FlightErrorKind::Panicked), the shared work | 500 | <span id="panicked">`panicked`</span> | |
//! | [`Closed`](crate::guard::FlightErrorKind::Closed) | 503 | `closed` | |
//! | [`WouldDeadlock`](crate::guard::FlightErrorKind::WouldDeadlock) | 500 | `would-deadlock` | |
//! | the response ended early while it was read to be shared | 500 | <span id="answer-broken">`answer-broken`</span> | |
//!
//! When a pool did not run the work, or the work produced no result ([`OffloadError`](crate::OffloadError)):
//!
//! | error | status | `type` | `Retry-After` |
//! |---|---|---|---|
//! | [`Full`](crate::offload::OffloadErrorKind::Full): no thread is free and the queue is full | 503 | <span id="pool-full">`pool-full`</span> | 1 |
//! | [`QueueTimeout`](crate::offload::OffloadErrorKind::QueueTimeout): after `max_wait` | 503 | `timeout` | 1 |
//! | [`Timeout`](crate::offload::OffloadErrorKind::Timeout) before the work began | 503 | `timeout` | 1 |
//! | [`Timeout`](crate::offload::OffloadErrorKind::Timeout) after the work began | 504 | <span id="took-too-long">`took-too-long`</span> | |
//! | [`Cancelled`](crate::offload::OffloadErrorKind::Cancelled) by the service | 503 | <span id="cancelled">`cancelled`</span> | |
//! | [`Closed`](crate::offload::OffloadErrorKind::Closed) | 503 | `closed` | |
//! | [`RuntimeShutdown`](crate::offload::OffloadErrorKind::RuntimeShutdown) | 503 | <span id="shutting-down">`shutting-down`</span> | |
//! | [`Panicked`](crate::offload::OffloadErrorKind::Panicked), on a pool or in the handler | 500 | `panicked` | |
//! | [`NoThread`](crate::offload::OffloadErrorKind::NoThread): the system has none left | 503 | <span id="no-thread">`no-thread`</span> | 1 |
//! | [`NoRuntime`](crate::offload::OffloadErrorKind::NoRuntime): a bug in the service | 500 | <span id="no-runtime">`no-runtime`</span> | |
//! | [`WouldDeadlock`](crate::offload::OffloadErrorKind::WouldDeadlock): a bug in the service | 500 | `would-deadlock` | |
//!
//! When a task of a process pool has no result ([`ProcessError`](crate::ProcessError)):
//!
//! | error | status | `type` | `Retry-After` |
//! |---|---|---|---|
//! | [`NotStarted`](crate::ProcessError::NotStarted) | as above | as above | as above |
//! | [`Timeout`](crate::ProcessError::Timeout) | 504 | `took-too-long` | |
//! | [`MemoryLimit`](crate::ProcessError::MemoryLimit), [`CpuLimit`](crate::ProcessError::CpuLimit) | 500 | <span id="over-limit">`over-limit`</span> | |
//! | [`Panicked`](crate::ProcessError::Panicked) | 500 | `panicked` | |
//! | [`NoWorker`](crate::ProcessError::NoWorker) | 503 | <span id="no-worker">`no-worker`</span> | |
//! | [`Cancelled`](crate::ProcessError::Cancelled) by the service | 503 | `cancelled` | |
//! | any other: a crash, a bad reply, values that can't be converted | 500 | <span id="failed">`failed`</span> | |
//! | none: the response is a stream, or needs the request: a bug in the service | 500 | `answer-broken` | |
//!
//! The text of a refusal contains neither what the worker wrote nor the message of its panic. The reason of the refusal
//! contains both.
//!
//! The 504 is also the response of work that [stops](crate::offload::Cancelled) because of its timeout. It has no
//! `Retry-After`, because the same request would take as long again.
//!
//! When a handler has [`BackgroundTasks`]:
//!
//! | reason | status | `type` | `Retry-After` |
//! |---|---|---|---|
//! | the queue of the tasks is full | 503 | <span id="background-tasks-full">`background-tasks-full`</span> | 1 |
//! | no `serve` of this crate serves the app | 500 | <span id="no-background-tasks">`no-background-tasks`</span> | |
//!
//! When the request itself is the reason:
//!
//! | reason | status | `type` | `Retry-After` |
//! |---|---|---|---|
//! | it has no key ([`RequestKey::Refuse`]) | 400 | <span id="key-missing">`key-missing`</span> | |
//! | its body ended early while the request waited | 400 | <span id="body-unreadable">`body-unreadable`</span> | |
//! | its client disconnected while the request waited | 499 | <span id="client-gone">`client-gone`</span> | |
//!
//! No client receives the 499. The status comes from nginx and is meant for logs.
//!
//! An [`AcquireError`](crate::AcquireError), a [`FlightError`](crate::FlightError), an
//! [`OffloadError`](crate::OffloadError) or a [`ProcessError`](crate::ProcessError) that a handler returns becomes the
//! same response, in axum and in actix-web. If a flight's work failed, its error determines the response: see
//! [`FlightError`](crate::FlightError).
//!
//! # Shared responses
//!
//! A flight layer ([`axum::FlightLayer`], [`tower::FlightLayer`], [`actix::FlightMiddleware`]) serves one of the
//! requests that ask for the same thing at the same time, and gives its response to all of them: the status, the
//! headers and the body. Two requests are the same if they agree in method, host, path, query and the [key
//! headers](FlightOptions::key_header).
//!
//! **The key must contain everything that distinguishes users**, or one user gets the response of another. The layer
//! itself takes these precautions:
//!
//! | a request that is served alone, at once | reason |
//! |---|---|
//! | has a method other than GET and HEAD, or a body | it may change something |
//! | has `Authorization`, `Proxy-Authorization` or `Cookie` | its response may be for one user (RFC 9111, 3.5) |
//! | has `Range`, `If-…` or `Upgrade` | its response is a part, or the result of a comparison |
//!
//! A header that is part of the key or [ignored](FlightOptions::ignore_header) does not count here.
//!
//! | a response that only one request gets; the others are then served alone | reason |
//! |---|---|
//! | `Set-Cookie`, `Cache-Control: private` or `no-store` | it is for one user (RFC 9111, 3 and 5.2.2) |
//! | `Vary: *` | it may differ for each request (RFC 9111, 4.1) |
//! | 206, streams, announced trailers, bodies over [`max_body`](FlightOptions::max_body) | it is not in memory |
//!
//! For ten seconds after such a response, requests with the same key don't wait for each other.
//!
//! | a response after which the other requests join the next run | requests that get it | reason |
//! |---|---|---|
//! | `Vary` names headers that are not part of the key | those with the same values | it differs (RFC 9111, 4.1) |
//! | 4xx other than 404, 405 and 410; 511 | one | it concerns one client, such as a 401, 403 or 429 |
//! | an error of the service that is not a response | one | it can't be cloned |
//! | a body that ends early | one, as a 500 | it is not complete |
//!
//! One of the requests that join the next run leads it, and its response is shared by the same rules, so these requests
//! still run one at a time. A request that has joined 32 runs without getting a response is refused
//! (`too-many-waiters`). [`max_wait`](FlightOptions::max_wait) limits the total wait of a request over all its runs,
//! and [`max_waiters`](FlightOptions::max_waiters) does not refuse a request that joins the next run.
//!
//! A shared response has no extensions. Trailers that no `Trailer` header announced are dropped.
//!
//! `Cache-Status` (RFC 9211) reports what happened: `onelane; fwd=miss` for the request that was served,
//! `onelane; fwd=miss; collapsed` for the requests that share its response, and `onelane; fwd=bypass` for a request
//! that was served alone.
//!
//! Every request that is served alone runs at once. A flight layer does not limit concurrency; put a guard behind it
//! where a limit is needed.
//!
//! If a client disconnects, its request leaves the run, and the other requests still get the response. If all clients
//! disconnect, the handler is dropped, or finishes if the flight is [`detached`](FlightOptions::detached). In axum and
//! tower, the layer watches the `ClientLink` of each request itself. The request that is served represents all clients
//! of the run: its `ClientLink` keeps the address of its own client, but reports that client as connected. So a guard
//! or a pool behind the layer continues as long as any client of the run is connected.
//!
//! A handler with several clients runs in its own task, outside the task-locals of outer layers, and inside the guards
//! of the client that it was called for. A guard around the flight layer admits each of the clients separately, so put
//! the guard behind the flight layer.
//!
//! A layer on a route and the same layer on its router act as one layer: the inner layer passes the request through. A
//! tower layer is always ready. The service behind the layer becomes ready when a run begins, so waiting requests take
//! up no capacity of a limit behind the layer.
//!
//! A [`ServiceHost`](crate::ServiceHost) that [manages](crate::background::ServiceHostBuilder::manage) a clone of the
//! layer closes the layer during shutdown, waits for its runs, and shows the layer by name in the status.
//!
//! # Clients that disconnect
//!
//! A request whose client disconnects while the request *waits* leaves the queue and never runs, once the server
//! notices that the client has disconnected. Servers notice this at different times:
//!
//! | server | when it notices that a client has disconnected |
//! |---|---|
//! | axum and hyper, HTTP/1 | once the whole request has been read |
//! | axum and hyper, HTTP/2 | at once |
//! | actix-web, HTTP/1 | when the connection is reset; with `h1_allow_half_closed(false)`, when it is closed |
//! | actix-web, HTTP/2 | never: the request waits and runs, and the response is discarded |
//!
//! Over HTTP/1, the guard layer reads the body of a request while the request waits, up to 64 KiB
//! ([`read_ahead`](GuardOptions::read_ahead)). For pipelined requests, and for bodies that are larger but fit into the
//! kernel's buffers (about 100 kB), serve with [`axum::serve`](axum::serve()) or with a
//! [`WatchedListener`](axum::WatchedListener). For bodies that are larger
//! still, raise `read_ahead`; otherwise only a reset is noticed.
//!
//! Behind two guards, a request that waits for the second is a handler that runs for the first. If its client
//! disconnects, the first guard lets it continue, and the second notices only with a `WatchedListener`.
//!
//! If the client disconnects while a handler behind a guard *runs*, the handler continues to its end and holds its
//! permit: see [`OnDisconnect`].
//!
//! The table also holds for handlers on a pool, with one difference: their extractors have run before they wait, and
//! nothing is read ahead. So in axum, a [`WatchedListener`](axum::WatchedListener) is needed where no extractor has
//! read a large body. A function that has begun can't be stopped, but it can
//! [see](crate::offload::TaskContext::current) that its client has disconnected. Behind a guard, the function keeps its
//! permit until it returns.
//!
//! Only a function in a worker process ([`ProcessHandler`]) is stopped, because the worker is killed. Behind a guard,
//! this needs a server that watches the connection, and the permit is released once the worker has ended.

//! # Time limits
//!
//! | limit | counts | at the limit |
//! |---|---|---|
//! | [`max_wait`](crate::guard::GuardBuilder::max_wait) of the guard | the wait | the client gets a 503, the handler never runs |
//! | a timeout layer *behind* the guard layer | the handler | the handler is dropped, its permit is released |
//! | a timeout layer *around* the guard layer | both | the wait ends, or the handler continues[^around] |
//!
//! [^around]: A waiting request leaves the queue. A running handler holds its permit, as after a disconnect.
//!
//! So put a timeout layer behind the guard layer, and limit the wait with `max_wait`. In axum, a layer that is added
//! first is behind one that is added later:
//!
//! ```
//! # #[cfg(feature = "axum")]
//! # fn app() -> axum::Router {
//! use std::time::Duration;
//!
//! use ::axum::{Router, error_handling::HandleErrorLayer, http::StatusCode, routing::post};
//! use onelane::EndpointGuard;
//! use onelane::web::axum::GuardLayer;
//! use tower::{BoxError, ServiceBuilder, timeout::TimeoutLayer};
//!
//! static REPORT: EndpointGuard = EndpointGuard::builder("report").max_wait(Duration::from_secs(10)).build();
//!
//! let time_limit = ServiceBuilder::new()
//!     .layer(HandleErrorLayer::new(async |_: BoxError| StatusCode::GATEWAY_TIMEOUT))
//!     .layer(TimeoutLayer::new(Duration::from_secs(5)));
//! Router::new().route("/report", post(async || "done")).layer(time_limit).layer(GuardLayer::new(&REPORT))
//! # }
//! ```
//!
//! Around the guard layer, a timeout layer releases the permit only with [`OnDisconnect::Cancel`].

#[cfg(feature = "actix-web")]
pub mod actix;
mod admission;
#[cfg(feature = "axum")]
pub mod axum;
#[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
mod background_tasks;
mod body_hold;
#[cfg(feature = "tower")]
mod client_link;
mod flight;
#[cfg(any(feature = "axum", feature = "actix-web"))]
mod guarded;
#[cfg(all(feature = "offload", any(feature = "axum", feature = "actix-web")))]
mod handler;
mod layer_settings;
mod noted_handler;
mod options;
mod refusal;
#[cfg(any(feature = "axum", feature = "actix-web"))]
mod request_guard;
mod request_head;
mod request_key;
mod response_note;
#[cfg(all(feature = "watch", any(feature = "axum", feature = "actix-web")))]
mod route_labels;
#[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
mod serve;
#[cfg(feature = "tower")]
pub mod tower;

#[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
pub use self::background_tasks::{
    BackgroundTask, BackgroundTasks, BackgroundTasksConfig, BackgroundTasksFull, RunOn, TaskOutput, TaskStart, WhenFull,
};
#[cfg(feature = "tower")]
pub use self::client_link::ClientLink;
pub use self::flight::FlightOptions;
#[cfg(any(feature = "axum", feature = "actix-web"))]
pub use self::guarded::{GuardSource, Guarded};
#[cfg(all(feature = "cpu", any(feature = "axum", feature = "actix-web")))]
pub use self::handler::cpu_handler_pool;
#[cfg(all(feature = "offload", any(feature = "axum", feature = "actix-web")))]
pub use self::handler::{HandlerFn, PoolArgument, PoolArguments, PoolHandler, handler_pool};
#[cfg(all(feature = "process", any(feature = "axum", feature = "actix-web")))]
pub use self::handler::{ProcessArgument, ProcessHandler};
pub use self::options::{GuardOptions, Hold, OnDisconnect};
pub use self::refusal::{Refusal, RefusalReason, set_problem_type_base};
#[cfg(any(feature = "axum", feature = "actix-web"))]
pub use self::request_guard::{RequestGuard, RequestPermit};
pub use self::request_head::RequestHead;
pub use self::request_key::{KeyKind, RequestKey};
#[cfg(all(feature = "background", any(feature = "axum", feature = "actix-web"), unix))]
pub use self::serve::ServeConfig;
#[cfg(all(feature = "background", feature = "axum", unix))]
pub use self::serve::ServedStream;
