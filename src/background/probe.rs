//! [`HostStatus::probe`], the responses of `/livez`, `/readyz` and `/startupz`. The probe is a pure function from a
//! status and a query to a status code and a body. The web adapters and `probe_server` serve the responses.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use super::status::{ExitKind, HostPhase, HostStatus, ServiceState, ServiceStatus};
use crate::rounded::rounded;

/// The response to a probe, for any kind of server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeAnswer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl ProbeAnswer {
    /// The headers of each response: plain text that is never cached, and that browsers must not interpret as another
    /// type.
    pub const HEADERS: &'static [(&'static str, &'static str)] = &[
        ("content-type", "text/plain; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ];

    /// Returns the status code: 200 if the check passed, 503 if not.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns the plain text of the response.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// Returns the plain text of the response, without copying it.
    #[must_use]
    pub fn into_body(self) -> String {
        self.body
    }

    /// Returns `true` if the check passed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status == 200
    }
}

impl HostStatus {
    /// Answers a probe: `/livez`, `/readyz` or `/startupz`, with an optional query. Returns `None` for other paths.
    ///
    /// [The module documentation](crate::background#probes) describes what each probe checks, and the parameters of the
    /// query. Use this method in servers for which this crate has no adapter, and send [`ProbeAnswer::HEADERS`] with
    /// each response.
    ///
    /// # Examples
    ///
    /// ```
    /// use onelane::background::{ServiceHost, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cache = service_fn("cache", |cx| async move {
    ///     cx.degraded("half of the cache is cold");
    ///     Ok(cx.stopping().await)
    /// });
    /// let host = ServiceHost::builder().service(cache).build()?;
    /// let probe = |path| host.status().probe(path).map(|answer| answer.status());
    /// assert_eq!([probe("/livez"), probe("/readyz"), probe("/startupz")], [Some(200), Some(503), Some(503)]);
    ///
    /// host.start().await?;
    /// assert_eq!([probe("/livez"), probe("/readyz"), probe("/startupz")], [Some(200), Some(200), Some(200)]);
    /// assert_eq!(probe("/health"), None);
    /// # while host.status().probe("/readyz?verbose").unwrap().body().starts_with("[+]cache ok\n") {
    /// #     tokio::task::yield_now().await;
    /// # }
    /// let verbose = host.status().probe("/readyz?verbose").expect("the path is a probe");
    /// assert_eq!(verbose.body(), "[+]cache ok (degraded: half of the cache is cold)\nreadyz check passed\n");
    ///
    /// host.shutdown().await?;
    /// assert_eq!([probe("/livez"), probe("/readyz"), probe("/startupz")], [Some(200), Some(503), Some(200)]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn probe(&self, path_and_query: &str) -> Option<ProbeAnswer> {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let probe = Probe::ALL.into_iter().find(|probe| probe.path() == path)?;
        Some(probe.answer(self, query))
    }
}

/// One of the three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    Live,
    Ready,
    Startup,
}

impl Probe {
    pub(crate) const ALL: [Self; 3] = [Self::Live, Self::Ready, Self::Startup];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Live => "/livez",
            Self::Ready => "/readyz",
            Self::Startup => "/startupz",
        }
    }

    pub(crate) fn answer(self, host: &HostStatus, query: &str) -> ProbeAnswer {
        let check = ProbeCheck::new(self, host, query);
        let passes = check.passes();
        let body = match (check.is_verbose, passes) {
            (true, _) => check.to_string(),
            (false, true) => "ok".to_owned(),
            (false, false) => format!("{} check failed", check.name()),
        };
        ProbeAnswer { status: if passes { 200 } else { 503 }, body }
    }

    /// Returns `true` if the service passes the check.
    fn is_healthy(self, service: &ServiceStatus) -> bool {
        match self {
            Self::Live => true,
            Self::Ready => service.is_ready(),
            Self::Startup => service.start_duration.is_some() || matches!(service.state, ServiceState::Standby { .. }),
        }
    }

    /// Returns `true` if the check fails when the service is unhealthy. A host runs without a degradable service, and
    /// its start continues as soon as the first attempt to start that service has ended.
    fn requires(self, host: &HostStatus, service: &ServiceStatus) -> bool {
        match self {
            Self::Live => false,
            Self::Ready => service.is_critical,
            Self::Startup => {
                let was_tried = service.last_exit.is_some() || service.is_ended();
                !host.has_started && (service.is_critical || !was_tried)
            }
        }
    }
}

/// A probe of one status, with the parameters of the query.
struct ProbeCheck<'a> {
    probe: Probe,
    host: &'a HostStatus,
    is_verbose: bool,
    /// Sorted, so that the response does not depend on the order of the parameters.
    excluded: BTreeSet<String>,
}

impl<'a> ProbeCheck<'a> {
    fn new(probe: Probe, host: &'a HostStatus, query: &str) -> Self {
        let mut check = Self { probe, host, is_verbose: false, excluded: BTreeSet::new() };
        for pair in query.split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("verbose", _) => check.is_verbose = true,
                ("exclude", name) => drop(check.excluded.insert(percent_decoded(name))),
                _ => {}
            }
        }
        check
    }

    fn name(&self) -> &'static str {
        &self.probe.path()[1..]
    }

    /// Returns the services that the probe checks.
    fn services(&self) -> impl Iterator<Item = &'a ServiceStatus> {
        let checks_services = self.probe != Probe::Live;
        self.host.services().filter(move |_| checks_services)
    }

    fn excludes(&self, service: &ServiceStatus) -> bool {
        self.excluded.contains(&*service.name)
    }

    fn passes(&self) -> bool {
        let allows = |service| {
            self.probe.is_healthy(service) || self.excludes(service) || !self.probe.requires(self.host, service)
        };
        self.failing_phase().is_none() && self.services().all(allows)
    }

    /// Returns the host's phase if that alone makes the check fail.
    fn failing_phase(&self) -> Option<HostPhase> {
        let phase = self.host.phase;
        let passes = match self.probe {
            Probe::Live => true,
            Probe::Ready => phase == HostPhase::Running,
            // If some services are excluded, the others alone decide while the host starts.
            Probe::Startup => {
                let is_partial = self.services().any(|service| self.excludes(service));
                self.host.has_started || (phase == HostPhase::Starting && is_partial)
            }
        };
        (!passes).then_some(phase)
    }
}

/// Writes the verbose response in the format of kube-apiserver: one line per service and per managed guard, flight or
/// pool, the names that could not be excluded, and the result.
impl fmt::Display for ProbeCheck<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unmatched: BTreeSet<&str> = self.excluded.iter().map(String::as_str).collect();
        for service in self.services() {
            unmatched.remove(&*service.name);
            let is_healthy = self.probe.is_healthy(service);
            write!(EscapeControls(f), "{}", ServiceLine { check: self, service, is_healthy })?;
            f.write_char('\n')?;
        }
        // They do not decide the check, and show how busy the host is.
        for (name, state) in self.host.managed().filter(|_| self.probe == Probe::Ready) {
            unmatched.remove(&*name);
            let (kind, active, waiting) = (state.kind(), state.active(), state.waiting());
            let closed = if state.is_closed() { ", closed" } else { "" };
            write!(EscapeControls(f), "[+]{name} ok: {kind}, {active} active, {waiting} waiting{closed}")?;
            f.write_char('\n')?;
        }
        // Clients of a probe need not see the names of functions.
        for blocked in self.host.blocked() {
            let (worker, blocked_for) = (blocked.worker(), rounded(blocked.since().elapsed()));
            let thread = blocked.thread().map_or_else(String::new, |thread| format!(" ({thread})"));
            let by = blocked.label().map_or_else(String::new, |label| format!(" by {label}"));
            write!(EscapeControls(f), "warn: worker {worker}{thread} is blocked for {blocked_for:?}{by}")?;
            f.write_char('\n')?;
        }
        if !unmatched.is_empty() {
            f.write_str("warn: some health checks cannot be excluded: no matches for ")?;
            for (index, name) in unmatched.iter().enumerate() {
                write!(f, "{}{name:?}", if index == 0 { "" } else { "," })?;
            }
            f.write_char('\n')?;
        }
        match self.failing_phase() {
            Some(HostPhase::Built) => writeln!(f, "{} check failed: the host was not started", self.name()),
            Some(phase) => writeln!(f, "{} check failed: the host is {phase}", self.name()),
            None => writeln!(f, "{} check {}", self.name(), if self.passes() { "passed" } else { "failed" }),
        }
    }
}

/// The line of one service in the verbose response.
struct ServiceLine<'a> {
    check: &'a ProbeCheck<'a>,
    service: &'a ServiceStatus,
    is_healthy: bool,
}

impl fmt::Display for ServiceLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, service, is_healthy } = self;
        let name = &service.name;
        if check.excludes(service) {
            write!(f, "[+]{name} excluded: ")?;
            return if *is_healthy { f.write_str("ok") } else { write_reason(f, service) };
        }
        if !is_healthy {
            write!(f, "[-]{name} failed: ")?;
            write_reason(f, service)?;
            return f.write_str(if service.is_critical { "" } else { " (degradable)" });
        }
        match &service.state {
            ServiceState::Running { degraded: true, .. } | ServiceState::Completed if check.probe == Probe::Ready => {
                write!(f, "[+]{name} ok ({})", service.state)
            }
            // The response omits the reason, which may contain the address of the store.
            ServiceState::Standby { .. } => write!(f, "[+]{name} ok (standby)"),
            _ => write!(f, "[+]{name} ok"),
        }
    }
}

/// Writes why a service is unhealthy: its state, with the reason that the service gave. The errors and panics of its
/// generations are withheld, as kube-apiserver does: they may contain details that not every client of a probe should
/// see. They are in the log.
fn write_reason(f: &mut fmt::Formatter<'_>, service: &ServiceStatus) -> fmt::Result {
    let ended = service.last_failure.as_ref().filter(|_| service.state == ServiceState::Failed);
    match ended.map(|exit| &exit.kind) {
        Some(ExitKind::Failed(_) | ExitKind::Panicked(_)) => f.write_str("gave up, reason withheld"),
        Some(kind) => write!(f, "gave up, {kind}"),
        None if service.state == ServiceState::Failed => f.write_str("gave up"),
        None => write!(f, "{}", service.state),
    }
}

/// Escapes control characters, so that names and reasons given by services cannot begin new lines.
struct EscapeControls<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for EscapeControls<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            c if c.is_control() => write!(self.0, "{}", c.escape_default()),
            c => self.0.write_char(c),
        })
    }
}

/// Decodes a value of a query. Invalid escapes are kept as they are.
fn percent_decoded(value: &str) -> String {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        decoded.push(escaped.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}
