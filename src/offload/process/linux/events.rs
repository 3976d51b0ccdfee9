//! [`forward_events`], which sends the `tracing` events of a worker to its server.

use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::set_global_default;
use tracing::{Event, Metadata, Subscriber};

use super::frame::{REPLY_HEADER, RemoteEvent, ReplyKind, level_number, reply_header, truncate};
use crate::offload::process::codec::{self, Message};
use crate::trace::TARGET;

/// The greatest level of events that the server wants. The value guards no other memory, so `Relaxed` suffices.
static LEVEL: AtomicU8 = AtomicU8::new(0);
/// The socket that events are written to. `None` while no task runs, because the server reads only while it waits for a
/// reply. The reply is written with the mutex held, so that no event is written into the reply or after it.
static OUTPUT: Mutex<Option<UnixStream>> = Mutex::new(None);
/// `true` if [`Forwarder`] is the global subscriber of the process. An initializer may have set another subscriber.
static IS_SET: LazyLock<bool> = LazyLock::new(|| set_global_default(Forwarder).is_ok());

/// Sends events up to `level` to the server until [`write_reply`] is called. With level 0, no event is sent.
pub(super) fn forward_events(socket: &UnixStream, level: u8) {
    if level == 0 && LEVEL.load(Ordering::Relaxed) == 0 {
        return;
    }
    if LEVEL.swap(level, Ordering::Relaxed) != level && *IS_SET {
        tracing::callsite::rebuild_interest_cache();
    }
    if level > 0 && *IS_SET {
        *OUTPUT.lock().unwrap_or_else(PoisonError::into_inner) = socket.try_clone().ok();
    }
}

/// Writes the reply of a task, after its last event.
pub(super) fn write_reply(mut socket: &UnixStream, reply: &Message) -> std::io::Result<()> {
    // `exit_now`, which ends the worker later, flushes nothing.
    let _ = std::io::stdout().flush();
    let mut output = OUTPUT.lock().unwrap_or_else(PoisonError::into_inner);
    *output = None;
    for attachment in &reply.attachments {
        socket.write_all(&reply_header(ReplyKind::Attachment, attachment.len()))?;
        socket.write_all(attachment)?;
    }
    socket.write_all(&reply.body)
}

/// The subscriber of a worker, which has no spans.
struct Forwarder;

impl Subscriber for Forwarder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The server itself emits the events of this crate about tasks.
        metadata.is_event()
            && level_number(*metadata.level()) <= LEVEL.load(Ordering::Relaxed)
            && metadata.target() != TARGET
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let mut event = RemoteEvent {
            level: level_number(*metadata.level()),
            target: metadata.target().to_owned(),
            message: fields.message,
            fields: fields.others,
        };
        [&mut event.target, &mut event.message, &mut event.fields].into_iter().for_each(truncate);
        let mut frame = vec![0; REPLY_HEADER];
        if codec::encode(&event, &mut frame).is_err() {
            return;
        }
        let header = reply_header(ReplyKind::Event, frame.len() - REPLY_HEADER);
        frame[..REPLY_HEADER].copy_from_slice(&header);
        if let Some(output) = &mut *OUTPUT.lock().unwrap_or_else(PoisonError::into_inner) {
            // If this fails, the server has ended.
            let _ = output.write_all(&frame);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string fails only if the `Debug` of the value fails.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            let space = if self.others.is_empty() { "" } else { " " };
            write!(self.others, "{space}{}={value:?}", field.name())
        };
    }
}
