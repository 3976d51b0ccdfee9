//! x
#![cfg_attr(docsrs, feature(doc_cfg))]
#[cfg_attr(loom, allow(dead_code, reason = "the models have the lane without the guard around it"))]
mod counter;
#[cfg(not(loom))]
pub mod guard;
#[cfg(loom)]
#[path = "guard/lane/mod.rs"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "the models have the lane without the guard around it")]
mod lane;
#[cfg_attr(loom, allow(dead_code, reason = "the models have the lane without the guard around it"))]
mod sync;
#[cfg(not(loom))]
mod trace;
#[cfg(not(loom))]
pub use guard::*;
