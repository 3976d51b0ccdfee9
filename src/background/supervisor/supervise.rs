//! [`supervise`], the shell of the supervisor: it waits for news and for the time, and does what is decided.

use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::core::{Action, Supervisor};
use super::lag::{self, LagProbe};
use crate::background::error::HostError;
use crate::background::generation::{Line, News, Runs};
use crate::background::host::{Ending, Link, Message, Starting};
use crate::background::signals::{self, SignalStream, Signals};
use crate::background::status::{HostEvent, HostStatus, ShutdownReport, Trigger};
use crate::trace;

/// How many messages are handled before the time is looked at and the status published.
const BATCH: usize = 256;

/// What the shell works with.
pub(crate) struct Shell {
    pub(crate) supervisor: Supervisor,
    pub(crate) services: Vec<Arc<dyn Runs>>,
    pub(crate) link: Arc<Link>,
    pub(crate) events: broadcast::Sender<HostEvent>,
    pub(crate) inbox: UnboundedReceiver<Message>,
}

/// Runs a host from its start to its end. `server` is the server's runtime, if the supervisor has a thread of its own.
pub(crate) async fn supervise(shell: Shell, starting: Starting, signals: Signals, server: Option<Handle>) {
    let Shell { supervisor, services, link, events, mut inbox } = shell;
    let lines = vec![None; services.len()];
    let starting = Some(starting);
    let mut acting =
        Acting { supervisor, services, lines, link, events, starting, actions: Vec::new(), is_over: false };
    let mut signals = SignalStream::listen(signals);
    let mut probe = server.map(|server| (LagProbe::new(server, acting.link.lag()), ticks()));
    let mut timer = pin!(sleep_until(Instant::now() + Duration::from_secs(86_400)));
    let mut batch = Vec::with_capacity(BATCH);

    acting.begin();
    while !acting.is_over {
        let next = acting.supervisor.next_timer();
        if let Some(next) = next.filter(|next| *next != timer.deadline()) {
            timer.as_mut().reset(next);
        }
        tokio::select! {
            biased;
            signal = signals.recv() => acting.signal(signal),
            () = timer.as_mut(), if next.is_some() => {}
            () = tick(&mut probe) => {
                if let Some(lag) = probe.as_mut().and_then(|(probe, _)| probe.ask()) {
                    acting.warn_of(lag);
                }
            }
            _ = inbox.recv_many(&mut batch, BATCH) => batch.drain(..).for_each(|message| acting.hear(message)),
        }
        acting.tick();
    }
    drop((acting, inbox));
    // On the server's runtime it would keep nothing alive, and see nothing once that is stuck.
    if probe.is_some() {
        signals::exit_on_another(signals).await;
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(lag::EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn tick(probe: &mut Option<(LagProbe, Interval)>) {
    match probe {
        Some((_, ticks)) => drop(ticks.tick().await),
        None => std::future::pending().await,
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
    /// Empty, kept for its memory.
    actions: Vec<Action>,
    is_over: bool,
}

impl Acting {
    fn begin(&mut self) {
        let has_server = self.starting.as_ref().is_some_and(|starting| starting.has_server);
        self.look_who_listens();
        self.supervisor.start(Instant::now(), has_server);
        self.act();
    }

    /// Before each decision, so that who subscribes and then asks for something sees what comes of it.
    fn look_who_listens(&mut self) {
        self.supervisor.is_observed = self.events.receiver_count() > 0;
    }

    fn tick(&mut self) {
        self.look_who_listens();
        self.supervisor.tick(Instant::now());
        self.act();
    }

    fn hear(&mut self, message: Message) {
        self.look_who_listens();
        let now = Instant::now();
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

    fn signal(&mut self, signal: i32) {
        self.look_who_listens();
        let (now, trigger) = (Instant::now(), Trigger::Signal(signal));
        if self.supervisor.is_stopping() {
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
        self.actions = actions;
    }

    fn do_one(&mut self, action: Action) {
        match action {
            Action::Begin(id) => self.begin_generation(id),
            Action::TellToStop(id) => self.with_line(id, |line| line.tell_to_stop()),
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
        self.lines[id as usize] = Some(Arc::clone(&line));
        Arc::clone(&self.services[id as usize]).begin(unit.options.placement, line);
    }

    fn with_line(&self, id: u32, tell: impl FnOnce(&Line)) {
        if let Some(line) = &self.lines[id as usize] {
            tell(line);
        }
    }

    fn publish(&self) {
        let (phase, since) = self.supervisor.phase();
        let services = self.supervisor.services().clone();
        self.link.publish(HostStatus { phase, since, services, lag: self.link.lag() });
    }

    /// Tells who started the host how that went.
    fn answer(&mut self, answer: Result<(), HostError>) {
        if let Some(starting) = self.starting.take() {
            // It fails where nobody waits any more.
            let _ = starting.answer.send(answer);
        }
    }

    fn finish(&mut self, report: ShutdownReport, culprit: Option<u32>) {
        trace::host_stopped(&report);
        let error = HostError::of(&report, culprit.map(|id| self.supervisor.services().at(id)));
        if self.starting.is_some() {
            let error = error.clone();
            self.answer(Err(
                error.unwrap_or_else(|| HostError::StoppedWhileStarting { report: Box::new(report.clone()) })
            ));
        }
        self.link.end(Ending { report, error });
        self.is_over = true;
    }

    fn warn_of(&self, lag: Duration) {
        let is_in_poll = |line: &&Arc<Line>| line.is_in_poll();
        let busy = self.lines.iter().flatten().filter(is_in_poll);
        let busy: Vec<&str> = busy.map(|line| &*line.name).collect();
        trace::runtime_lags(lag, &busy);
    }
}
