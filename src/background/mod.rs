//! Beside requests: services that start before the first request and stop after the last.
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

mod blocking;
mod closures;
mod context;
mod error;
mod generation;
mod host;
mod periodic;
mod placement;
mod probe;
#[cfg(feature = "hyper")]
mod probe_server;
mod restart;
mod service;
mod signals;
mod spec;
mod status;
mod supervisor;

pub use blocking::BlockingService;
pub use closures::{blocking_fn, lifespan, service_fn};
pub use context::{BlockingContext, RunContext, StartContext, StopContext};
pub use error::{BuildError, ExitReason, HostError, StartPhase};
pub use host::{HostHandle, ServiceHost, ServiceHostBuilder, Supervision, TriggerError};
pub use periodic::TickStatus;
pub use placement::Placement;
#[cfg(any(feature = "axum", feature = "actix-web"))]
pub(crate) use probe::Probe;
pub use probe::ProbeAnswer;
pub use restart::{Backoff, Intensity, Restart};
pub use service::{BackgroundService, BoxError, ServiceResult};
pub use spec::Service;
pub use status::{
    CleanUp, Exit, ExitKind, HostEvent, HostEvents, HostPhase, HostStatus, ServiceReport, ServiceState, ServiceStatus,
    SharedError, ShutdownReport, TimeLimit, Trigger,
};

pub use crate::panic::Panic;
