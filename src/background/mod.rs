//! Beside requests: services that start before the first request and stop after the last.
//!
//! | I want | use |
//! |---|---|
//! | a loop beside the requests that is restarted when it fails and shows when it is dead | [`BackgroundService`], or [`service_fn`] |
//! | the same with a client or callbacks that block | [`BlockingService`], or [`blocking_fn`] |
//! | a call every minute, or at three in the night | [`periodic`](periodic()) |
//! | something before the first request and something after the last | [`lifespan`] |
//! | all of them with a server around which they start and stop | [`ServiceHost::run_until`] |
//! | the same, with a server that I start and stop myself | [`ServiceHost::start`], [`ServiceHost::shutdown`] |
//! | to know how they are | [`HostHandle::status`], [`HostHandle::subscribe`] |
//! | one piece of work that nobody waits for, and that may be lost when the process ends | not this: `tokio::spawn` |
//! | some tasks that end together, within one function | not this: `tokio::task::JoinSet` |
//! | work that outlives the process | not this: a job queue |
//!
//! A plain `tokio::spawn` is enough where nobody has to know that the task has died, where nothing has to be released at its
//! end, and where the process may end in the middle of it.
//!
//! # The life of a host
//!
//! ```text
//!            start                    signal, shutdown,           the server has ended,
//!                                     a critical service          or takes too long
//!                                     is given up
//! Built ───▶ Starting ───▶ Running ──────────────────▶ Draining ──────────────────────▶ Stopping ───▶ Stopped
//!               │             readiness 200              503 from here on                  ▲   services in reverse
//!               ╰───────────── a critical service fails to start ──────────────────────────╯   order, then the report
//! ```
//!
//! # The life of a service
//!
//! ```text
//!                  dependencies       `start`                  told to stop,
//!                  are ready          is Ok                    or it ends
//! Registered ───────────▶ Starting ───────▶ Running ───────────────────────▶ Stopping ─ `stop` is over ─▶ Stopped
//!                            ▲                                                  │  │                      Completed
//!                            ╰───────── BackingOff ◀──── failed, restart ───────╯  ╰── given up ────────▶ Failed
//! ```
//!
//! One round of `start`, `run`, `stop` is a *generation*. `stop` is called exactly once for each `start` that returned `Ok`.
//!
//! # Rules
//!
//! | | rule | default |
//! |---|---|---|
//! | start | a service starts when all that it comes [`after`](Service::after) were ready once; the others at the same time | |
//! | start limit | a `start` that takes longer is dropped | 30 s a service, 2 min the host |
//! | failed start | of a critical service: what has started is stopped in reverse order, the server is never polled, the error names the service | |
//! | readiness | closed until proved open: `start` was `Ok` (or, with [`manual_ready`](Service::manual_ready), the service said so) in this generation, and all critical services are ready | |
//! | restart | after an error, a panic, or a missed heartbeat ([`Restart`]) | `OnFailure` |
//! | backoff | longer after each failure in a row ([`Backoff`]); a row ends after having been ready for [`stable_after`](Service::stable_after) | 1 s, doubled to 30 s, jitter a half; 30 s |
//! | giving up | more restarts than [`Intensity`] allows, or a thread that is stuck: a critical service stops the host, which ends with an error, a [`degradable`](Service::degradable) one shows in status and probes | 5 in 60 s; critical |
//! | together | [`restart_with`](Service::restart_with): stopped and begun anew with another service | |
//! | heartbeat | missed once, the generation is stopped and has failed | none expected |
//! | stop | a service is told when all that come after it have ended | |
//! | stop limit | told; after this, dropped where it awaits, and that is waited for; then `stop` | 5 s, and 2 s for `stop` |
//! | stuck | what blocks its thread can't be dropped: `stop` is called beside it, and it is reported as leaked. A blocked thread of the server's runtime keeps the process from ending: see [`exit_within`](ServiceHostBuilder::exit_within) | |
//! | deadline | all of it ends in time, whatever services do: the last fifth of the time (2 s at most) is kept for `stop` | 25 s |
//! | first signal | stops the host in good order; one that finds it stopping for another reason changes nothing | |
//! | second signal | nothing is waited for: what awaits is dropped, what blocks is left behind; exit code 130 or 143 | |
//! | a further signal, once all hosts of the process have ended | the process ends at once, if the last one had a [thread of its own](Supervision::OwnThread) | |
//! | children | tasks of [`RunContext::spawn`] end with their service | |
//! | exit code | 0 if every critical service has ended as it should and released what it held, else 1; [`ShutdownReport`] can be returned from `main` | |
//!
//! Words and rules are Erlang/OTP's where it has them (restart, intensity, generations in order, stop in reverse order),
//! systemd's (`after`, the stop limit, then force), and Kubernetes' (liveness, readiness, startup).
//!
//! # Who watches
//!
//! The supervisor has a small thread of its own, so a runtime that is stuck delays neither a stop nor a deadline. Ten times
//! a second it asks the server's runtime for a turn, while that is at work; the answer's delay is
//! [`HostStatus::runtime_lag`], and from 50 ms on a warning names the services that are being polled right then.
//!
//! # Probes
//!
//! Who runs the process asks it how it is, at three paths:
//!
//! | path | 200 while | otherwise 503 | in Kubernetes |
//! |---|---|---|---|
//! | `/livez` | the process answers, whatever its services do, and also while it stops | | a failure restarts the container |
//! | `/readyz` | the host [runs](HostPhase::Running), and every critical service [is ready](ServiceStatus::is_ready) | before the start has finished, while a critical service is not ready, and from the first moment of the stop on | a failure keeps requests away |
//! | `/startupz` | the start has finished; it stays so | before | until it succeeds, the other two are not asked |
//!
//! A service that hangs is restarted by its [heartbeat](Service::heartbeat), so nothing is asked of services at `/livez`: a
//! process that is restarted because a database is away comes back to the same.
//!
//! | where | made by | answers while the server's runtime is stuck |
//! |---|---|---|
//! | routes of the app | [`web::axum::probes`](crate::web::axum::probes), [`web::actix::probes`](crate::web::actix::probes) | no |
//! | a port of its own, on the host's thread (feature `hyper`) | [`probe_listener`](ServiceHostBuilder::probe_listener) | yes |
//! | a server of another kind | [`HostStatus::probe`] | |
//!
//! So a runtime that is stuck for good fails a liveness probe that is one of the routes, and passes one on the own port, while
//! on the own port `/readyz` falls at once when the process is told to end. Choose the routes for liveness if a restart is
//! what helps you, and the own port for all others, or where long computations block the runtime now and then.
//!
//! `?verbose` answers with a line for each service, and `?exclude=NAME`, any number of times, asks for the others only, as
//! kube-apiserver does. A service that is not ready and degradable is shown, and does not count:
//!
//! ```text
//! $ curl 'localhost:8081/readyz?verbose&exclude=index'
//! [+]pool ok
//! [+]search ok (degraded: one of three shards is away)
//! [-]mailer failed: backing off for 2s after 3 failures (degradable)
//! [+]index excluded: not ready: warming up
//! readyz check passed
//! ```
//!
//! Errors and panics of services are withheld: they are in the status and in the log. A name to exclude that no service has
//! is told in a line that begins with `warn:`. Answers are plain text with `Cache-Control: no-store`. HEAD is answered as
//! GET is, other methods with 405.
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
//!     livenessProbe:   # on the app's port where probes are its routes
//!       httpGet: { path: /livez, port: probes }
//!       periodSeconds: 10
//!       failureThreshold: 3
//! terminationGracePeriodSeconds: 30    # more than the host's shutdown_timeout
//! ```
//!
//! # In actix-web
//!
//! Under `#[actix_web::main]` the services of [`Placement::Shared`] run on the one thread of the system; under
//! `#[tokio::main]` on tokio's workers, beside those of actix. The server stops on the host's signal, and not on its own, with
//! `HttpServer::shutdown_signal(handle.draining().cancelled_owned())`.
//!
//! # Logs
//!
//! Events of `tracing` with the target `onelane` and the field `service`: failures and what was cut off at `warn`, services
//! that were given up or leaked at `error`, restarts and the stop of the host at `info`, the rest at `debug`.

mod blocking;
mod closures;
mod context;
mod control;
mod error;
mod generation;
mod host;
mod own_runtime;
mod periodic;
mod placement;
mod probe;
#[cfg(feature = "hyper")]
mod probe_server;
mod random;
mod restart;
mod service;
mod signals;
mod spec;
mod status;
mod supervisor;
mod trace;

pub use blocking::BlockingService;
pub use closures::{blocking_fn, lifespan, service_fn};
pub use context::{BlockingContext, RunContext, StartContext, StopContext};
pub use error::{BuildError, ExitReason, HostError, StartPhase};
pub use host::{HostHandle, ServiceHost, ServiceHostBuilder, Supervision, TriggerError};
#[cfg(feature = "croner")]
pub use periodic::CronError;
pub use periodic::{Every, First, Overlap, periodic};
pub use placement::Placement;
#[cfg(any(feature = "axum", feature = "actix-web"))]
pub(crate) use probe::Probe;
pub use probe::ProbeAnswer;
pub use restart::{Backoff, Intensity, Restart};
pub use service::{BackgroundService, BoxError, ServiceResult};
pub use spec::Service;
pub use status::{
    CleanUp, Exit, ExitKind, HostEvent, HostEvents, HostPhase, HostStatus, ServiceReport, ServiceState, ServiceStatus,
    SharedError, ShutdownReport, TickStatus, TimeLimit, Trigger,
};

pub use crate::panic::Panic;
