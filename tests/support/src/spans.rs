//! [`SpanNotes`], which records in which tracing span code runs.

use std::sync::{Arc, Mutex};

use tracing::Span;
use tracing::subscriber::DefaultGuard;

/// The names of the spans in which the code of a test ran, in order. `None` stands for code outside any span.
#[derive(Clone, Debug, Default)]
pub struct SpanNotes(Arc<Mutex<Vec<Option<&'static str>>>>);

/// Notes the current span when it is dropped.
#[derive(Debug)]
pub struct NotesOnDrop(SpanNotes);

impl SpanNotes {
    /// Notes the current span.
    pub fn note(&self) {
        let name = Span::current().metadata().map(|metadata| metadata.name());
        self.0.lock().expect("no thread panics with the mutex held").push(name);
    }

    pub fn note_on_drop(&self) -> NotesOnDrop {
        NotesOnDrop(self.clone())
    }

    pub fn names(&self) -> Vec<Option<&'static str>> {
        self.0.lock().expect("no thread panics with the mutex held").clone()
    }
}

impl Drop for NotesOnDrop {
    fn drop(&mut self) {
        self.0.note();
    }
}

/// Enables spans on this thread until the guard is dropped.
#[must_use]
pub fn enable_spans() -> DefaultGuard {
    tracing::subscriber::set_default(tracing_subscriber::registry())
}
