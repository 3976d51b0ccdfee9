//! One start-run-stop of a service, as the service goes through it.
//!
//! ```text
//!   supervisor ── begin ──▶ task or thread:  start ──▶ run ──▶ child tasks ──▶ stop
//!       ▲  │                                   │        │          │            │
//!       │  ╰─ GenerationHandle: stop, abort ──▶╰────────┴──────────┴────────────╯
//!       ╰──── GenerationEvent: started, run ended, cleaned up, health changed, lost
//! ```
//!
//! # Invariants
//!
//! 1. `stop` is called once for each `start` that returned `Ok`: by the generation itself, or by another thread if the
//!    generation is stuck in `run`. The one that wins [`GenerationHandle::claim_clean_up`] calls it.
//! 2. A generation always reports its end: [`LossGuard`](loss_guard::LossGuard) sends [`GenerationEvent::Lost`] if the
//!    generation is dropped without a final event, as happens when its runtime shuts down.
//! 3. A service is dropped once its host and its last generation have released it, and then its
//!    [`DropSignal`](super::control::DropSignal) reports that. A thread holds the signal until its runtime is gone.
//! 4. At most one [`GenerationEvent::HealthChanged`] of a generation is in the queue, so a service that changes its
//!    health all the time does not fill it.
//!
//! [`GenerationHandle::claim_clean_up`]: super::control::GenerationHandle::claim_clean_up
//! [`GenerationEvent::Lost`]: super::control::GenerationEvent::Lost
//! [`GenerationEvent::HealthChanged`]: super::control::GenerationEvent::HealthChanged

mod abortable;
mod async_runner;
mod blocking_runner;
mod loss_guard;
mod runner;

pub(crate) use async_runner::AsyncRunner;
pub(crate) use blocking_runner::BlockingRunner;
pub(crate) use runner::ServiceRunner;
