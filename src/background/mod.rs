//! Background services: they start before a server's first request and stop after its last.
//!
//! | I want | use |
//! |---|---|
//! | a loop that is restarted when it fails | [`BackgroundService`], or [`service_fn`] |
//! | the same, for blocking code | [`BlockingService`], or [`blocking_fn`] |
//! | a call every minute, or at 3 a.m. | [`periodic`](periodic()), or [`periodic_blocking`] |
//! | code before the first request and after the last | [`lifespan`] |
//! | a server that starts and stops together with its services | [`ServiceHost::run_until`] |
//! | the same, where I start and stop the server myself | [`ServiceHost::start`], [`ServiceHost::shutdown`] |
//! | the current state of the services | [`HostHandle::status`], [`HostHandle::subscribe`] |
//! | a task that may be lost when the process ends | `tokio::spawn` |
//! | several tasks that end together, inside one function | `tokio::task::JoinSet` |
//! | work that outlives the process | a job queue |
//!
//! A plain `tokio::spawn` is sufficient if nothing has to notice that the task died, if nothing has to be released at
//! its end, and if the process may end in the middle of it.
//!
//! # The life of a host
//!
//! ```text
//!            start                    signal, shutdown,           the server has ended,
//!                                     or the host gives up        or exceeds its timeout
//!                                     on a critical service
//! Built ───▶ Starting ───▶ Running ──────────────────▶ Draining ──────────────────────▶ Stopping ───▶ Stopped
//!               │             readiness 200              503 from here on                  ▲   services in reverse
//!               ╰───────────── a critical service fails to start ──────────────────────────╯   order, then the report
//! ```
//!
//! # The life of a service
//!
//! ```text
//!                  dependencies       `start`                  asked to stop,
//!                  are ready          is Ok                    or it ends
//! Registered ───────────▶ Starting ───────▶ Running ───────────────────────▶ Stopping ─── `stop` ends ──▶ Stopped
//!                            ▲                                                  │  │                      Completed
//!                            ╰───────── BackingOff ◀──── failed, restart ───────╯  ╰── host gives up ───▶ Failed
//! ```
//!
//! One sequence of `start`, `run` and `stop` is a *generation*. `stop` is called exactly once for each `start` that
//! returned `Ok`, unless the report says that it was [skipped](CleanUp::Skipped).
//!
//! # Starting
//!
//! A service starts once every service that it names with [`after`](Service::after) has been ready. Services that do
//! not depend on each other start concurrently.
//!
//! If the `start` of a critical service fails, the services that have started are stopped in reverse order, the server
//! is never polled, and the error names the service.
//!
//! A service is not ready until it proves otherwise. It becomes ready in each generation when `start` returns `Ok` or,
//! with [`manual_ready`](Service::manual_ready), when it calls [`ready`](RunContext::ready). The host is ready while
//! all critical services are.
//!
//! # Restarting
//!
//! | | rule | default |
//! |---|---|---|
//! | [`Restart`] | restart after an error, a panic or a missed heartbeat | `OnFailure` |
//! | [`Backoff`] | wait longer after each consecutive failure | 1 s, doubled up to 30 s, plus up to half |
//! | [`stable_after`](Service::stable_after) | being ready for this long resets the count of failures | 30 s |
//! | [`Intensity`] | the host gives up on the service at more restarts than this | 5 in 60 s |
//! | [`heartbeat`](Service::heartbeat) | a missed heartbeat stops the generation, which has failed | none expected |
//! | [`restart_with`](Service::restart_with) | stop and restart together with another service | none |
//!
//! The host also gives up on a service that blocks its thread and does not stop. If it gives up on a critical service,
//! the host stops and returns an error. If it gives up on a [`degradable`](Service::degradable) service, the status and
//! the probes show it, and the host continues.
//!
//! # Stopping
//!
//! A service is asked to stop once all services that depend on it have ended. If it does not end in time, its future is
//! dropped at the await point where it waits. Then `stop` is called. Tasks spawned with [`RunContext::spawn`] end with
//! their service.
//!
//! Each service is dropped once it and the services that depend on it have ended. [`ServiceHost::run_until`] and
//! [`ServiceHost::shutdown`] return when all services have been dropped: files are flushed, ports are free. The report
//! names a service [that was not](ServiceReport::is_dropped).
//!
//! | limit | default |
//! |---|---|
//! | [`start_timeout`](Service::start_timeout): one call of `start` | 30 s |
//! | [`startup_timeout`](ServiceHostBuilder::startup_timeout): the start of all services | 2 min |
//! | [`drain_timeout`](ServiceHostBuilder::drain_timeout): the server, after the host began to drain | 10 s |
//! | [`stop_timeout`](Service::stop_timeout): `run`, after it was asked to stop | 5 s |
//! | [`cleanup_timeout`](Service::cleanup_timeout): one call of `stop`, and then the destructors | 2 s |
//! | [`shutdown_timeout`](ServiceHostBuilder::shutdown_timeout): the whole shutdown, whatever services do | 25 s |
//!
//! No phase of a shutdown takes the time of a later one, whatever `shutdown_timeout` is. The last fifth, but at most 2
//! s, is reserved for `stop`. The fifth before it, but at most the longest `stop_timeout`, is reserved for services,
//! and the one before that, but at most 2 s, for work that the server leaves. The server has the rest, but at most
//! `drain_timeout`. When the last fifth begins, all services that are left are asked to stop at once: they have at
//! least a quarter of it, and `stop` has until a tenth of it is left.
//!
//! A future whose thread is blocked cannot be dropped. `stop` is then called concurrently with it, and the service is
//! reported as [leaked](ExitKind::Leaked), also if another task blocks the thread: a `stop` that blocks the only thread
//! of the server's runtime keeps the services that it depends on from ending. A blocked thread of the server's runtime
//! keeps the process from ending: see [`exit_within`](ServiceHostBuilder::exit_within).
//!
//! The first signal shuts the host down in order. If the host is already stopping for another reason, that signal has
//! no effect. A second signal forces the shutdown: the host waits for nothing, drops every future that awaits, and
//! leaves blocked threads running. The exit code is then 130 or 143. Another signal, once all hosts of the process have
//! ended, ends the process immediately if the last host had its [own thread](Supervision::OwnThread).
//!
//! The [exit code](ShutdownReport::exit_code) is 0 if [the stop was clean](ShutdownReport::is_clean): every critical
//! service ended as intended, released what it held and was dropped, the server ended in time, and no work was left. A
//! forced stop is not clean. Otherwise the code is 1. A [`ShutdownReport`] can be returned from `main`.
//!
//! Names and rules follow Erlang/OTP where it has them (restart, intensity, ordered generations, stop in reverse
//! order), systemd (`after`, a time limit before force is used), and Kubernetes (liveness, readiness, startup).
//!
//! # Supervision
//!
//! The supervisor runs on its own small thread, so a blocked server runtime delays neither a shutdown nor a deadline.
//!
//! With its own thread, the host also starts a [watch](crate::watch), which has another small thread. The watch reports
//! a worker of the server's runtime that is blocked for 100 ms. The report names the service that blocks the worker, or
//! the route behind a [layer](crate::watch). [`HostStatus::blocked`], [`HostStatus::runtime_lag`] and the verbose
//! responses of the probes show the results, too. With [`actix::serve`](crate::web::actix::serve()), the watch also
//! covers the runtimes of the workers. If a watch of the program already has the server's runtime, the host uses that
//! watch. [`ServiceHostBuilder::watch`] sets a watch with another threshold or with a callback.
//!
//! # Probes
//!
//! An orchestrator such as Kubernetes checks the process at three paths:
//!
//! | path | 200 while | consequence of a failure in Kubernetes |
//! |---|---|---|
//! | `/livez` | the process responds | the container is restarted |
//! | `/readyz` | the host [is running](HostPhase::Running) and all critical services are ready | no new requests |
//! | `/startupz` | the start has finished, and from then on | the other two are not checked yet |
//!
//! Otherwise the response is 503. `/livez` stays at 200 whatever the services do, and also while the process stops.
//! `/readyz` fails until the start has finished, while a critical service [is not ready](ServiceStatus::is_ready), and
//! from the beginning of the shutdown.
//!
//! A [missed heartbeat](Service::heartbeat) already restarts a service that hangs, so `/livez` does not check services.
//! If a process is restarted because a database is unavailable, the new process is in the same situation.
//!
//! | where | provided by | responds while the server's runtime is blocked |
//! |---|---|---|
//! | routes of an axum app | [`web::axum::probes`](crate::web::axum::probes) | no |
//! | routes of an actix-web app | [`web::actix::probes`](crate::web::actix::probes) | no |
//! | a dedicated port (feature `probe-listener`) | [`probe_listener`](ServiceHostBuilder::probe_listener) | yes |
//! | any other server | [`HostStatus::probe`] | |
//!
//! The dedicated port is served by the host's thread. If the server's runtime is blocked for good, a liveness probe on
//! a route fails, and one on the dedicated port passes. In exchange, `/readyz` on the dedicated port fails as soon as
//! the process is asked to end. Use the routes for liveness if a restart is the right remedy for a blocked runtime. Use
//! the dedicated port for the other probes, and for liveness if long computations block the runtime now and then.
//!
//! `?verbose` adds one line per service to the response, and `?exclude=NAME`, which may be repeated, leaves services
//! out of the check, as in kube-apiserver. A degradable service that is not ready is shown, but does not fail the
//! check:
//!
//! ```text
//! $ curl 'localhost:8081/readyz?verbose&exclude=index'
//! [+]pool ok
//! [+]search ok (degraded: one of three shards is down)
//! [-]mailer failed: backing off for 2s after 3 failures (degradable)
//! [+]index excluded: not ready: warming up
//! readyz check passed
//! ```
//!
//! Errors and panics of services are withheld: they are in the status and in the log. Lines that begin with `warn:`
//! name the blocked workers of the runtime, and list excluded names that no service has. Responses are plain text with
//! `Cache-Control: no-store`. HEAD is supported like GET, and other methods get 405.
//!
//! With `probe_listener(TcpListener::bind("0.0.0.0:8081")?)`:
//!
//! ```yaml
//! containers:
//!   - name: app
//!     ports:
//!       - { name: http, containerPort: 3000 }
//!       - { name: probes, containerPort: 8081 }
//!     startupProbe:    # up to 120 seconds, the host's startup_timeout
//!       httpGet: { path: /startupz, port: probes }
//!       periodSeconds: 2
//!       failureThreshold: 60
//!     readinessProbe:
//!       httpGet: { path: /readyz, port: probes }
//!       periodSeconds: 2
//!       failureThreshold: 1
//!     livenessProbe:   # use the app's port if the probes are routes
//!       httpGet: { path: /livez, port: probes }
//!       periodSeconds: 10
//!       failureThreshold: 3
//! terminationGracePeriodSeconds: 30    # longer than the host's shutdown_timeout
//! ```
//!
//! # actix-web
//!
//! Under `#[actix_web::main]`, services with [`Placement::Shared`] run on the system's single thread. Under
//! `#[tokio::main]` they run on tokio's workers, alongside those of actix. With the feature `actix-web`,
//! `web::actix::serve` runs the server and drains it. To make another server stop when the host drains instead of on
//! its own signals, use `HttpServer::shutdown_signal(handle.server_may_end())`.
//!
//! # Logs
//!
//! The host emits `tracing` events with the target `onelane` and the field `service`. Failures, and anything that was
//! dropped after a timeout, are logged at `warn`. Services that the host gave up on, that were leaked or that were not
//! dropped, and work that was left unfinished, are logged at `error`. Restarts, services that complete, and the
//! shutdown of the host are logged at `info`, everything else at `debug`. See [all events](crate::docs::events).
//!
//! Services, their child tasks and the calls of periodic services belong to no caller: they take along neither a span
//! nor a subscriber that is set for a scope. A service that wants a span instruments its own futures.

mod blocking;
mod closures;
mod context;
mod control;
mod error;
mod generation;
mod host;
mod host_watch;
#[cfg(feature = "guard")]
mod lock_service;
mod periodic;
mod placement;
mod probe;
#[cfg(feature = "probe-listener")]
mod probe_server;
mod restart;
mod service;
mod service_guard;
mod signals;
mod spec;
mod status;
mod supervisor;
mod trace;

pub use blocking::BlockingService;
pub use closures::{blocking_fn, lifespan, service_fn};
pub use context::{BlockingContext, RunContext, StartContext, StopContext};
pub use error::{BuildError, ExitReason, HostError, StartPhase};
pub use host::{HostHandle, ServiceHost, ServiceHostBuilder, Supervision, TriggerError, UntilDraining};
#[cfg(feature = "cron")]
pub use periodic::CronError;
pub use periodic::{Every, FirstCall, Overlap, TickContext, periodic, periodic_blocking};
pub use placement::Placement;
#[cfg(any(feature = "axum", feature = "actix-web"))]
pub(crate) use probe::Probe;
pub use probe::ProbeAnswer;
pub use restart::{Backoff, Intensity, Restart};
pub use service::{BackgroundService, BoxError, ServiceResult};
pub use spec::Service;
pub use status::{
    CleanUp, Exit, ExitKind, HostEvent, HostEvents, HostPhase, HostStatus, ServiceReport, ServiceState, ServiceStatus,
    SharedError, ShutdownReport, TickStatus, TimeLimit, Trigger, UnfinishedWork,
};
