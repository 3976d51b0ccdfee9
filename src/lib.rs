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
#[cfg(all(not(loom), any(feature = "tower", feature = "actix-web")))]
pub mod web;
#[cfg(not(loom))]
pub use guard::*;
