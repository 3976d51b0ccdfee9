//! [`Async`], an async service as its supervisor sees it: a task, or a thread with a runtime.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::{io, thread};

use tokio::runtime::{Builder, Handle};

use super::children::Brood;
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
            let (line, cx) = (&last_word.line, StopContext::new(&last_word.line, Err(exit)));
            let outcome = Cut::new(line, Phase::Stop, || self.0.stop(&cx)).await;
            last_word.say(News::CleanedUp(cleaned(outcome)));
        };
        if let Err(error) = on_a_runtime_of_its_own(name, clean_up) {
            teller.tell(News::CleanedUp(CleanUp::Failed(Arc::new(error))));
        }
    }
}

/// One generation. The last word is dropped last.
async fn live<S: BackgroundService>(service: Arc<Async<S>>, last_word: LastWord) {
    let (service, line) = (&service.0, &last_word.line);
    if let Err(kind) = start(service, line).await {
        return last_word.say(News::NotStarted(Err(kind)));
    }
    line.tell(News::Started);
    let cx = run(service, line).await;
    if last_word.claim_clean_up() {
        finish(service, &last_word, &cx).await;
    }
}

async fn start<S: BackgroundService>(service: &S, line: &Arc<Line>) -> Ended {
    let cx = StartContext::new(line);
    ended(Cut::new(line, Phase::Start, || service.start(&cx)).await)
}

/// Runs it, and waits for its children. What its `stop` is told.
async fn run<S: BackgroundService>(service: &S, line: &Arc<Line>) -> StopContext {
    if line.is_told_to_stop() {
        return StopContext::new(line, Ok(()));
    }
    let ended = ended(Cut::new(line, Phase::Run, || service.run(RunContext::new(line))).await);
    // Before the token is cancelled for the children.
    let cx = StopContext::new(line, ended);
    if let Some(brood) = line.children.last_call() {
        // In a box, as most have none.
        Box::pin(wind_down(line, &brood)).await;
    }
    cx
}

/// Waits until the children have ended.
async fn wind_down(line: &Line, brood: &Brood) {
    line.tell_children();
    line.tell(News::AwaitsChildren);
    let _ = Cut::new(line, Phase::Run, || brood.ended()).await;
    line.children.over();
    // Those that were cut off, or were spawned between the two lines above.
    brood.abort_all();
    brood.ended().await;
}

/// Cleans up, and says how all ended.
async fn finish<S: BackgroundService>(service: &S, last_word: &LastWord, cx: &StopContext) {
    let line = &last_word.line;
    let was_told = line.was_told_by_supervisor();
    if !was_told {
        // It is not running any more, whatever comes of its `stop`.
        line.tell(News::RunEnded(cx.ended()));
    }
    let mut stop = pin!(Cut::new(line, Phase::Stop, || service.stop(cx)));
    // Most of them end at once. Then one word is enough, where the supervisor waits for it anyway.
    match poll_fn(|cx| Poll::Ready(stop.as_mut().poll(cx))).await {
        Poll::Ready(outcome) if was_told => last_word.say(News::AllEnded(cx.ended(), cleaned(outcome))),
        Poll::Ready(outcome) => last_word.say(News::CleanedUp(cleaned(outcome))),
        Poll::Pending => {
            if was_told {
                line.tell(News::RunEnded(cx.ended()));
            }
            last_word.say(News::CleanedUp(cleaned(stop.await)));
        }
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

fn cleaned(cut: Result<ServiceResult, CutOff>) -> CleanUp {
    match cut {
        Ok(result) => released(result),
        Err(CutOff::Panicked(panic)) => CleanUp::Panicked(panic),
        Err(CutOff::Dropped) => CleanUp::TimedOut,
    }
}

pub(super) fn released(result: ServiceResult) -> CleanUp {
    result.map_or_else(|error| CleanUp::Failed(error.into()), |()| CleanUp::Done)
}

/// Runs a future on a thread with a runtime, which does not wait for what that future has left behind.
fn on_a_runtime_of_its_own(name: String, begin: impl AsyncFnOnce() + Send + 'static) -> io::Result<()> {
    // Here, not there: so it is known whether there is one before there is a thread.
    let runtime = OwnRuntime::build(&mut Builder::new_current_thread())?;
    let live = move || runtime.block_on(begin());
    thread::Builder::new().name(name).spawn(live)?;
    Ok(())
}

/// Sees to it that the supervisor hears of the end, whoever drops the generation.
///
/// One thread at a time has it, so what it holds orders nothing.
pub(super) struct LastWord {
    pub(super) line: Arc<Line>,
    is_said: AtomicBool,
    has_claimed: AtomicBool,
}

impl LastWord {
    pub(super) fn of(line: Arc<Line>) -> Self {
        Self { line, is_said: AtomicBool::new(false), has_claimed: AtomicBool::new(false) }
    }

    pub(super) fn say(&self, news: News) {
        self.is_said.store(true, Ordering::Relaxed);
        self.line.tell(news);
    }

    /// Whether it is the caller who calls `stop`, and then has the last word.
    pub(super) fn claim_clean_up(&self) -> bool {
        let is_won = self.line.claim_clean_up();
        self.has_claimed.store(is_won, Ordering::Relaxed);
        is_won
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let is_anothers = self.line.is_clean_up_claimed() && !self.has_claimed.load(Ordering::Relaxed);
        if self.is_said.load(Ordering::Relaxed) {
            // Here, where the task has its memory from, and not when the supervisor drops all lines.
            self.line.forget_waker();
        } else if !is_anothers {
            self.line.tell(News::Lost);
        }
    }
}
