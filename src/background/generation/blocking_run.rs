//! [`Blocking`], a service that blocks as its supervisor sees it: a thread.

use std::sync::Arc;
use std::{io, thread};

use super::cut::within;
use super::line::{Ended, Line, News};
use super::run::{LastWord, failed, released};
use super::{ExitKind, Placement, Runs};
use crate::background::blocking::BlockingService;
use crate::background::context::{BlockingContext, StartContext, StopContext};
use crate::background::service::ServiceResult;
use crate::background::status::CleanUp;
use crate::panic::Panic;

/// A service that blocks.
pub(crate) struct Blocking<S>(pub(crate) S);

impl<S: BlockingService> Runs for Blocking<S> {
    fn is_blocking(&self) -> bool {
        true
    }

    fn begin(self: Arc<Self>, _: Placement, line: Arc<Line>) {
        let teller = Arc::clone(&line);
        let name = String::from(&*line.name);
        if let Err(error) = on_a_thread_of_its_own(name, move || live(&*self, &LastWord::of(line))) {
            teller.tell(News::NotStarted(failed(error.into())));
        }
    }

    fn clean_up_elsewhere(self: Arc<Self>, line: Arc<Line>, exit: ExitKind) {
        if line.is_clean_up_claimed() {
            return;
        }
        let teller = Arc::clone(&line);
        let clean_up = move || {
            let last_word = LastWord::of(line);
            if !last_word.claim_clean_up() {
                return;
            }
            let outcome = clean_up(&*self, &StopContext::new(&last_word.line, Err(exit)));
            last_word.say(News::CleanedUp(outcome));
        };
        if let Err(error) = on_a_thread_of_its_own(format!("{}-stop", teller.name), clean_up) {
            teller.tell(News::CleanedUp(CleanUp::Failed(Arc::new(error))));
        }
    }
}

/// One generation.
fn live<S: BlockingService>(service: &Blocking<S>, last_word: &LastWord) {
    let line = &last_word.line;
    let cx = StartContext::new(line);
    if let Err(kind) = ended(within(line, || service.0.start(&cx))) {
        return last_word.say(News::NotStarted(Err(kind)));
    }
    line.tell(News::Started);
    let ended = run(service, line);
    let cx = StopContext::new(line, ended);
    line.tell(News::RunEnded(cx.ended()));
    if last_word.claim_clean_up() {
        let outcome = clean_up(service, &cx);
        last_word.say(News::CleanedUp(outcome));
    }
}

fn run<S: BlockingService>(service: &Blocking<S>, line: &Arc<Line>) -> Ended {
    if line.is_told_to_stop() {
        return Ok(());
    }
    let cx = BlockingContext::new(line);
    ended(within(line, || service.0.run(cx)))
}

fn clean_up<S: BlockingService>(service: &Blocking<S>, cx: &StopContext) -> CleanUp {
    within(cx.line(), || service.0.stop(cx)).map_or_else(CleanUp::Panicked, released)
}

fn ended(result: Result<ServiceResult, Panic>) -> Ended {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => failed(error),
        Err(panic) => Err(ExitKind::Panicked(panic)),
    }
}

fn on_a_thread_of_its_own(name: String, live: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name).spawn(live)?;
    Ok(())
}
