//! [`HostStatus::probe`], what `/livez`, `/readyz` and `/startupz` answer. It is pure: a status and a query go in, a status
//! code and a text come out. Who serves it is in the web adapters, and in `probe_server`.

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use super::status::{ExitKind, HostPhase, HostStatus, ServiceState, ServiceStatus};

/// What a probe is answered, for servers of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProbeAnswer {
    /// The status code: 200 if the check passed, 503 if not.
    pub status: u16,
    /// The text.
    pub body: String,
}

impl ProbeAnswer {
    /// The headers of each answer: it is plain text, nobody keeps it, and no browser takes it for anything else.
    pub const HEADERS: [(&'static str, &'static str); 3] = [
        ("content-type", "text/plain; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    ];

    /// Whether the check passed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status == 200
    }
}

impl HostStatus {
    /// Answers a probe: `/livez`, `/readyz` or `/startupz`, with its query if there is one. `None` for other paths.
    ///
    /// What each of them asks, and what a query changes, is in [the module's table](crate::background#probes). It is for
    /// servers that this crate has no adapter for: send [`ProbeAnswer::HEADERS`] with it.
    ///
    /// # Examples
    ///
    /// ```
    /// use onelane::background::{ServiceHost, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let cache = service_fn("cache", |cx| async move {
    ///     cx.degraded("half of it is cold");
    ///     Ok(cx.stopping().await)
    /// });
    /// let host = ServiceHost::builder().service(cache).build()?;
    /// let probe = |path| host.status().probe(path).map(|answer| answer.status);
    /// assert_eq!([probe("/livez"), probe("/readyz"), probe("/startupz")], [Some(200), Some(503), Some(503)]);
    ///
    /// host.start().await?;
    /// assert_eq!([probe("/livez"), probe("/readyz"), probe("/startupz")], [Some(200), Some(200), Some(200)]);
    /// assert_eq!(probe("/health"), None);
    /// # while host.status().probe("/readyz?verbose").unwrap().body.starts_with("[+]cache ok\n") {
    /// #     tokio::task::yield_now().await;
    /// # }
    /// let verbose = host.status().probe("/readyz?verbose").expect("it is a probe");
    /// assert_eq!(verbose.body, "[+]cache ok (degraded: half of it is cold)\nreadyz check passed\n");
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

/// What is asked.
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
        let check = Check::new(self, host, query);
        let passes = check.passes();
        let body = match (check.is_verbose, passes) {
            (true, _) => check.to_string(),
            (false, true) => "ok".to_owned(),
            (false, false) => format!("{} check failed", check.name()),
        };
        ProbeAnswer { status: if passes { 200 } else { 503 }, body }
    }

    /// Whether this service is as it should be.
    fn is_well(self, service: &ServiceStatus) -> bool {
        match self {
            Self::Live => true,
            Self::Ready => service.is_ready(),
            Self::Startup => service.start_duration.is_some(),
        }
    }

    /// Whether the check fails where this service is not well. Without a degradable one a host goes on, and its start goes
    /// on as soon as the first attempt to start that service has ended.
    fn needs(self, host: &HostStatus, service: &ServiceStatus) -> bool {
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

/// A probe of one status, as its query wants it.
struct Check<'a> {
    probe: Probe,
    host: &'a HostStatus,
    is_verbose: bool,
    /// Sorted, so that the same is always answered the same.
    excluded: BTreeSet<String>,
}

impl<'a> Check<'a> {
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

    /// The services that are looked at.
    fn services(&self) -> impl Iterator<Item = &'a ServiceStatus> {
        let asks_services = self.probe != Probe::Live;
        self.host.services().filter(move |_| asks_services)
    }

    fn excludes(&self, service: &ServiceStatus) -> bool {
        self.excluded.contains(&*service.name)
    }

    fn passes(&self) -> bool {
        let is_no_hindrance =
            |service| self.probe.is_well(service) || self.excludes(service) || !self.probe.needs(self.host, service);
        self.phase_that_fails().is_none() && self.services().all(is_no_hindrance)
    }

    /// The host's phase, if that alone makes the check fail.
    fn phase_that_fails(&self) -> Option<HostPhase> {
        let phase = self.host.phase;
        let is_fine = match self.probe {
            Probe::Live => true,
            Probe::Ready => phase == HostPhase::Running,
            // While it starts it depends on the services, if not all of them are asked for.
            Probe::Startup => {
                let is_partial = self.services().any(|service| self.excludes(service));
                self.host.has_started || (phase == HostPhase::Starting && is_partial)
            }
        };
        (!is_fine).then_some(phase)
    }
}

/// The verbose answer, in the words of kube-apiserver: a line a service, what could not be excluded, and the verdict.
impl fmt::Display for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unmatched: BTreeSet<&str> = self.excluded.iter().map(String::as_str).collect();
        for service in self.services() {
            unmatched.remove(&*service.name);
            let is_well = self.probe.is_well(service);
            write!(OneLine(f), "{}", Line { check: self, service, is_well })?;
            f.write_char('\n')?;
        }
        if !unmatched.is_empty() {
            f.write_str("warn: some health checks cannot be excluded: no matches for ")?;
            for (index, name) in unmatched.iter().enumerate() {
                write!(f, "{}{name:?}", if index == 0 { "" } else { "," })?;
            }
            f.write_char('\n')?;
        }
        match self.phase_that_fails() {
            Some(HostPhase::Built) => writeln!(f, "{} check failed: the host was not started", self.name()),
            Some(phase) => writeln!(f, "{} check failed: the host is {phase}", self.name()),
            None => writeln!(f, "{} check {}", self.name(), if self.passes() { "passed" } else { "failed" }),
        }
    }
}

/// What the verbose answer says of a service.
struct Line<'a> {
    check: &'a Check<'a>,
    service: &'a ServiceStatus,
    is_well: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, service, is_well } = self;
        let name = &service.name;
        if check.excludes(service) {
            write!(f, "[+]{name} excluded: ")?;
            return if *is_well { f.write_str("ok") } else { reason(f, service) };
        }
        if !is_well {
            write!(f, "[-]{name} failed: ")?;
            reason(f, service)?;
            return f.write_str(if service.is_critical { "" } else { " (degradable)" });
        }
        match &service.state {
            ServiceState::Running { degraded: true, .. } | ServiceState::Completed if check.probe == Probe::Ready => {
                write!(f, "[+]{name} ok ({})", service.state)
            }
            _ => write!(f, "[+]{name} ok"),
        }
    }
}

/// Why a service is not well: its state, in its own words if it gave a reason. The errors and panics that it ended with are
/// withheld, as kube-apiserver does: they may say more than everybody who reaches a probe should read, and are in the log.
fn reason(f: &mut fmt::Formatter<'_>, service: &ServiceStatus) -> fmt::Result {
    let ended = service.last_failure.as_ref().filter(|_| service.state == ServiceState::Failed);
    match ended.map(|exit| &exit.kind) {
        Some(ExitKind::Failed(_) | ExitKind::Panicked(_)) => f.write_str("given up, reason withheld"),
        Some(kind) => write!(f, "given up, {kind}"),
        None if service.state == ServiceState::Failed => f.write_str("given up"),
        None => write!(f, "{}", service.state),
    }
}

/// Writes what others have named and phrased without letting it begin lines of its own.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            c if c.is_control() => write!(self.0, "{}", c.escape_default()),
            c => self.0.write_char(c),
        })
    }
}

/// A value of a query. What is no valid escape stands for itself.
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
