//! x
#![cfg_attr(docsrs, feature(doc_cfg))]
mod counter;
#[cfg(not(loom))]
pub mod guard;
#[cfg(loom)]
#[path = "guard/lane/mod.rs"]
mod lane;
mod sync;
#[cfg(not(loom))]
mod trace;
#[cfg(not(loom))]
pub use guard::*;
