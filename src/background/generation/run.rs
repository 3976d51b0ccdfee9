//! [`Async`], an async service as its supervisor sees it: a task, or a thread with a runtime.

use std::cell::Cell;
use std::sync::Arc;
use std::{io, thread};

use tokio::runtime::Handle;

use super::cut::{Cut, CutOff};
use super::line::{Ended, Line, News, Phase};
use super::{ExitKind, Placement, Runs};
use crate::background::context::{RunContext, StartContext, StopContext};
use crate::background::own_runtime::OwnRuntime;
use crate::background::service::{BackgroundService, ServiceResult};
use crate::background::status::CleanUp;

/// An async service.
pub(crate) struct Async<S>(pub(crate) S);

impl<S: BackgroundService> Runs for Async<S> {
    fn is_blocking(&self) -> bool {
        false
    }

    fn begin(self: Arc<Self>, placement: Placement, line: Arc<Line>) {
        if placement == Placement::Shared {
            let server = line.link.server().clone();
            server.spawn(live(self, LastWord::of(line)));
            return;
        }
        let teller = Arc::clone(&line);
        let name = String::from(&*line.name);
        let generation = async move || {
            // It is set once, and this is where.
            let _ = line.own_runtime.set(Handle::current());
            live(self, LastWord::of(line)).await;
        };
        if let Err(error) = on_a_runtime_of_its_own(name, generation) {
            teller.tell(News::NotStarted(failed(error.into())));
        }
    }

    fn clean_up_elsewhere(self: Arc<Self>, line: Arc<Line>, exit: ExitKind) {
        if line.is_clean_up_claimed() {
            return;
        }
        let teller = Arc::clone(&line);
        let name = format!("{}-stop", line.name);
        let clean_up = async move || {
            let last_word = LastWord::of(line);
            if !last_word.claim_clean_up() {
                return;
            }
            let outcome = clean_up(&*self, &last_word.line, exit).await;
            last_word.say(News::CleanedUp(outcome));
        };
        if let Err(error) = on_a_runtime_of_its_own(name, clean_up) {
            teller.tell(News::CleanedUp(CleanUp::Failed(Arc::new(error))));
        }
    }
}

/// One generation. The last word is dropped last.
async fn live<S: BackgroundService>(service: Arc<Async<S>>, last_word: LastWord) {
    let line = &last_word.line;
    if let Err(kind) = start(&*service, line).await {
        return last_word.say(News::NotStarted(Err(kind)));
    }
    line.tell(News::Started);
    let (ended, exit) = run(&*service, line).await;
    line.tell(News::RunEnded(ended));
    if last_word.claim_clean_up() {
        let outcome = clean_up(&*service, line, exit).await;
        last_word.say(News::CleanedUp(outcome));
    }
}

async fn start<S: BackgroundService>(service: &Async<S>, line: &Arc<Line>) -> Ended {
    let cx = StartContext::new(line);
    // In a block, so that a panic before the first await is in the poll, too.
    ended(Cut::new(line, Phase::Start, async { service.0.start(&cx).await }).await)
}

/// Runs it, and waits for its children. How it ended, and what its `stop` is told of that.
async fn run<S: BackgroundService>(service: &Async<S>, line: &Arc<Line>) -> (Ended, ExitKind) {
    if line.is_told_to_stop() {
        return (Ok(()), ExitKind::Stopped);
    }
    let cx = RunContext::new(line);
    let ended = ended(Cut::new(line, Phase::Run, async { service.0.run(cx).await }).await);
    // Before the token is cancelled for the children.
    let exit = exit_of(&ended, line);
    if let Some(brood) = line.children.last_call() {
        line.token().cancel();
        line.tell(News::AwaitsChildren);
        let _ = Cut::new(line, Phase::Run, brood.ended()).await;
        line.children.over();
        // Those that were cut off, or were spawned between the two lines above.
        brood.abort_all();
        brood.ended().await;
    }
    (ended, exit)
}

async fn clean_up<S: BackgroundService>(service: &Async<S>, line: &Arc<Line>, exit: ExitKind) -> CleanUp {
    let cx = StopContext::new(line, exit);
    match Cut::new(line, Phase::Stop, async { service.0.stop(&cx).await }).await {
        Ok(result) => cleaned(result),
        Err(CutOff::Panicked(panic)) => CleanUp::Panicked(panic),
        Err(CutOff::Dropped) => CleanUp::TimedOut,
    }
}

fn ended(cut: Result<ServiceResult, CutOff>) -> Ended {
    match cut {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => failed(error),
        Err(CutOff::Panicked(panic)) => Err(ExitKind::Panicked(panic)),
        Err(CutOff::Dropped) => Err(ExitKind::Aborted),
    }
}

pub(super) fn failed(error: Box<dyn std::error::Error + Send + Sync>) -> Ended {
    Err(ExitKind::Failed(error.into()))
}

pub(super) fn cleaned(result: ServiceResult) -> CleanUp {
    result.map_or_else(|error| CleanUp::Failed(error.into()), |()| CleanUp::Done)
}

/// What `stop` is told of the end of `run`.
pub(super) fn exit_of(ended: &Ended, line: &Line) -> ExitKind {
    match ended {
        Ok(()) if line.is_told_to_stop() => ExitKind::Stopped,
        Ok(()) => ExitKind::Completed,
        Err(kind) => kind.clone(),
    }
}

/// Runs a future on a thread with a runtime, which does not wait for what that future has left behind.
fn on_a_runtime_of_its_own(name: String, begin: impl AsyncFnOnce() + Send + 'static) -> io::Result<()> {
    // Here, not there: so it is known whether there is one before there is a thread.
    let runtime = OwnRuntime::new()?;
    let live = move || runtime.block_on(begin());
    thread::Builder::new().name(name).spawn(live)?;
    Ok(())
}

/// Sees to it that the supervisor hears of the end, whoever drops the generation.
pub(super) struct LastWord {
    pub(super) line: Arc<Line>,
    is_said: Cell<bool>,
    has_claimed: Cell<bool>,
}

impl LastWord {
    pub(super) fn of(line: Arc<Line>) -> Self {
        Self { line, is_said: Cell::new(false), has_claimed: Cell::new(false) }
    }

    pub(super) fn say(&self, news: News) {
        self.is_said.set(true);
        self.line.tell(news);
    }

    /// Whether it is the caller who calls `stop`, and then has the last word.
    pub(super) fn claim_clean_up(&self) -> bool {
        self.has_claimed.set(self.line.claim_clean_up());
        self.has_claimed.get()
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let is_anothers = self.line.is_clean_up_claimed() && !self.has_claimed.get();
        if !self.is_said.get() && !is_anothers {
            self.line.tell(News::Lost);
        }
    }
}
