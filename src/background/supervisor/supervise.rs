//! [`supervise`], the shell of the supervisor: it waits for news and for the time, and does what is decided.

use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::core::{Action, Culprit, Supervisor};
use super::errands::{Errand, Errands};
use super::gather::{SOON, gather};
use super::lag::LagProbe;
use crate::background::error::HostError;
use crate::background::generation::{Line, News, Runs};
use crate::background::host::{Ending, Link, Message, Starting};
use crate::background::placement::Placement;
use crate::background::signals::{self, SignalStream, Signals};
use crate::background::status::{HostEvent, HostPhase, HostStatus, ShutdownReport, Trigger};
use crate::background::trace;
use crate::panic::discard;

/// How many messages are handled before the time is looked at and the status published.
const BATCH: usize = 256;

/// What the shell works with.
pub(crate) struct Shell {
    pub(crate) supervisor: Supervisor,
    pub(crate) services: Vec<Arc<dyn Runs>>,
    pub(crate) link: Arc<Link>,
    pub(crate) events: broadcast::Sender<HostEvent>,
    pub(crate) inbox: UnboundedReceiver<Message>,
    /// How long after the end of the host that of the process may take, if it is not to be waited for.
    pub(crate) exit_within: Option<Duration>,
}

/// Runs a host from its start to its end. `server` is the server's runtime, if the supervisor has a thread of its own.
pub(crate) async fn supervise(shell: Shell, starting: Starting, signals: Signals, server: Option<Handle>) {
    let Shell { supervisor, services, link, events, mut inbox, exit_within } = shell;
    let lines = vec![None; services.len()];
    let starting = Some(starting);
    let (errands, actions) = (Errands::default(), Vec::new());
    let mut acting = Acting {
        supervisor,
        services,
        lines,
        link,
        events,
        starting,
        errands,
        actions,
        exit_code: None,
        was_signalled: false,
    };
    let mut signals = SignalStream::listen(signals);
    let mut probe = server.map(|server| LagProbe::new(server, acting.link.lag()));
    let mut timer = pin!(sleep_until(Instant::now() + Duration::from_secs(86_400)));
    let mut batch = Vec::with_capacity(BATCH);

    acting.begin();
    let exit_code = loop {
        if let Some(exit_code) = acting.exit_code {
            break exit_code;
        }
        let timers = [acting.supervisor.next_timer(), acting.errands.due, probe.as_ref().map(|probe| probe.next)];
        let next = timers.into_iter().flatten().min();
        if let Some(next) = next.filter(|next| *next != timer.deadline()) {
            timer.as_mut().reset(next);
        }
        let parked = Clock::now();
        tokio::select! {
            biased;
            signal = signals.recv() => acting.signal(signal),
            () = timer.as_mut(), if next.is_some() => {}
            _ = inbox.recv_many(&mut batch, BATCH) => {}
        }
        if !batch.is_empty() && parked.elapsed() < SOON {
            gather(&mut inbox, &mut batch, probe.is_some()).await;
        }
        let now = acting.look_at_the_clock();
        batch.drain(..).for_each(|message| acting.hear(now, message));
        acting.supervisor.tick(now);
        acting.act();
        acting.errands.look_after(now);
        if let Some(lag) = probe.as_mut().and_then(|probe| probe.ask(now)) {
            acting.warn_of(lag);
        }
    };
    acting.tear_down(inbox);
    // On the server's runtime it would keep nothing alive, and see nothing once that is stuck.
    if probe.is_some() {
        tokio::join!(signals::exit_on_further_signal(signals), signals::exit_after(exit_within, exit_code));
    }
}

/// What is done with what was decided.
struct Acting {
    supervisor: Supervisor,
    services: Vec<Arc<dyn Runs>>,
    /// Those to the generations that are going on.
    lines: Vec<Option<Arc<Line>>>,
    link: Arc<Link>,
    events: broadcast::Sender<HostEvent>,
    starting: Option<Starting>,
    errands: Errands,
    /// Empty, kept for its memory.
    actions: Vec<Action>,
    /// What the process should end with, once the host has.
    exit_code: Option<u8>,
    /// Whether a signal has come.
    was_signalled: bool,
}

/// Without its supervisor a host is not ready any more, whatever has become of its services. Those on threads of their own
/// are told, and stop by themselves: nobody else would ever tell them.
impl Drop for Acting {
    fn drop(&mut self) {
        if self.exit_code.is_none() {
            let status = HostStatus { phase: HostPhase::Stopping, since: SystemTime::now(), ..self.status() };
            discard(self.link.publish(Arc::new(status)));
            self.link.draining().cancel();
            self.lines.iter().flatten().for_each(|line| {
                line.tell_to_stop();
                line.wake_to_stop();
            });
        }
    }
}

impl Acting {
    fn begin(&mut self) {
        let has_server = self.starting.as_ref().is_some_and(|starting| starting.has_server);
        let now = self.look_at_the_clock();
        self.supervisor.start(now, has_server);
        self.act();
    }

    fn look_at_the_clock(&mut self) -> Instant {
        self.supervisor.look_at_the_clock(SystemTime::now());
        self.supervisor.is_observed = self.events.receiver_count() > 0;
        Instant::now()
    }

    fn hear(&mut self, now: Instant, message: Message) {
        match message {
            Message::News { id, generation, news } => {
                let line = self.lines[id as usize].as_ref().filter(|line| line.generation == generation);
                let condition = line.filter(|_| matches!(news, News::Changed)).map(|line| line.condition());
                self.supervisor.hear(now, id, generation, news, condition);
            }
            Message::Shutdown(trigger) => self.supervisor.shutdown(now, trigger),
            Message::Force(trigger) => self.supervisor.force(now, trigger),
            Message::ServerEnded => self.supervisor.server_ended(now),
        }
    }

    /// The first signal has the host stop, also one that stops for another reason: who sent it has not asked twice. The
    /// second one forces it.
    fn signal(&mut self, signal: i32) {
        let (now, trigger) = (self.look_at_the_clock(), Trigger::Signal(signal));
        if mem::replace(&mut self.was_signalled, true) {
            self.supervisor.force(now, trigger);
        } else {
            self.supervisor.shutdown(now, trigger);
        }
    }

    /// Does what was decided, and publishes what changed before anybody is told of it.
    fn act(&mut self) {
        let mut actions = mem::take(&mut self.actions);
        if self.supervisor.take(&mut actions) {
            self.publish();
        }
        for action in actions.drain(..) {
            self.do_one(action);
        }
        self.errands.run(self.link.server());
        // After a start of many services it would stay large for nothing.
        actions.shrink_to(BATCH);
        self.actions = actions;
    }

    /// Who has subscribed since the look at the clock may have seen the status of before, and waits for what was decided
    /// while nobody listened. It is told now. (Both sides take the lock of the events in between, so if it was not there yet,
    /// it sees the new status.)
    fn publish(&self) {
        let status = Arc::new(self.status());
        let before = self.link.publish(Arc::clone(&status));
        if !self.supervisor.is_observed && self.events.receiver_count() > 0 {
            // It fails where nobody listens any more.
            status.changes_since(&before).for_each(|event| drop(self.events.send(event)));
        }
        discard(before);
    }

    fn do_one(&mut self, action: Action) {
        match action {
            Action::Begin(id) => self.begin_generation(id),
            Action::TellToStop(id) => self.tell_to_stop(id),
            Action::CutOff(id, phase) => self.with_line(id, |line| line.cut_off(phase)),
            Action::CleanUpElsewhere(id, exit) => {
                if let Some(line) = &self.lines[id as usize] {
                    Arc::clone(&self.services[id as usize]).clean_up_elsewhere(Arc::clone(line), exit);
                }
            }
            // It fails where nobody listens.
            Action::Event(event) => drop(self.events.send(event)),
            Action::Draining => self.link.draining().cancel(),
            Action::Stopping => self.link.stopping().cancel(),
            Action::Started => self.answer(Ok(())),
            Action::Finished(report, culprit) => self.finish(*report, culprit),
        }
    }

    fn begin_generation(&mut self, id: u32) {
        let (unit, status) = (self.supervisor.unit(id), self.supervisor.services().at(id));
        let line = Arc::new(Line::new(
            id,
            status.generation,
            Arc::clone(&status.name),
            !unit.options.manual_ready,
            unit.pulse.clone(),
            status.last_failure.clone(),
            Arc::clone(&self.link),
        ));
        discard(self.lines[id as usize].replace(Arc::clone(&line)));
        let service = Arc::clone(&self.services[id as usize]);
        match unit.options.placement {
            Placement::Shared => self.errands.add(Errand::Begin(service, line), self.link.server()),
            placement => service.begin(placement, line),
        }
    }

    /// It is told at once. Its tasks are woken with others.
    fn tell_to_stop(&mut self, id: u32) {
        let Some(line) = &self.lines[id as usize] else { return };
        line.tell_to_stop();
        if self.supervisor.unit(id).options.placement == Placement::Shared {
            self.errands.add(Errand::Wake(Arc::clone(line)), self.link.server());
        } else {
            line.wake_to_stop();
        }
    }

    fn with_line(&self, id: u32, tell: impl FnOnce(&Line)) {
        if let Some(line) = &self.lines[id as usize] {
            tell(line);
        }
    }

    fn status(&self) -> HostStatus {
        let (phase, since) = self.supervisor.phase();
        let (has_started, services) = (self.supervisor.has_started, self.supervisor.services().clone());
        HostStatus { phase, since, has_started, services, lag: self.link.lag() }
    }

    /// Tells who started the host how that went.
    fn answer(&mut self, answer: Result<(), HostError>) {
        if let Some(starting) = self.starting.take() {
            // It fails where nobody waits any more.
            let _ = starting.answer.send(answer);
        }
    }

    fn finish(&mut self, report: ShutdownReport, culprit: Option<Culprit>) {
        trace::host_stopped(&report);
        let services = self.supervisor.services();
        let dependency = culprit.and_then(|culprit| culprit.dependency).map(|id| services.at(id));
        let error = HostError::from_report(&report, culprit.map(|culprit| services.at(culprit.id)), dependency);
        if self.starting.is_some() {
            let error = error.clone();
            self.answer(Err(
                error.unwrap_or_else(|| HostError::StoppedWhileStarting { report: Box::new(report.clone()) })
            ));
        }
        self.exit_code = Some(error.as_ref().map_or_else(|| report.exit_code(), HostError::exit_code));
        self.link.end(Ending { report, error });
    }

    /// Drops the services and what they left, value by value: two destructors that panic at once would abort the process.
    fn tear_down(mut self, mut inbox: UnboundedReceiver<Message>) {
        self.errands.run_all();
        while let Ok(message) = inbox.try_recv() {
            if let Message::News { news, .. } = message {
                news.discard();
            }
        }
        self.supervisor.discard_values();
        self.services.drain(..).for_each(discard);
        self.lines.drain(..).for_each(discard);
        discard(self);
        discard(inbox);
    }

    fn warn_of(&self, lag: Duration) {
        // Those on threads of their own block nobody else.
        let is_shared = |line: &Line| self.supervisor.unit(line.id).options.placement == Placement::Shared;
        let busy = self.lines.iter().flatten().filter(|line| line.is_in_poll() && is_shared(line));
        let busy: Vec<&str> = busy.map(|line| &*line.name).collect();
        trace::runtime_lags(lag, &busy);
    }
}
