//! The lowest layer of a host: the state that the host, its supervisor and its generations share, and the messages that
//! they exchange. Nothing here depends on any of the three.
//!
//! ```text
//!   ServiceHost, HostHandle ── SupervisorMessage ──▶ ╭────────────╮
//!           │ ▲                                      │ supervisor │
//!           ╰─┴──── HostShared: status, outcome ◀─── ╰────────────╯
//!                                                        │    ▲
//!                       GenerationHandle: stop, abort ◀──╯    │
//!                              │                              │
//!                              ▼                              │
//!                          generation ──── GenerationEvent ───╯
//! ```

mod child_tasks;
mod drop_signal;
mod generation_handle;
mod host_shared;
mod message;
mod service_scope;
mod stop_signal;

pub(crate) use drop_signal::DropSignal;
pub(crate) use generation_handle::GenerationHandle;
pub(crate) use host_shared::{HostOutcome, HostShared};
pub(crate) use message::{GenerationEvent, GenerationPhase, PhaseResult, ServiceHealth, SupervisorMessage};
pub(crate) use service_scope::{ServiceScope, is_inside_host};
