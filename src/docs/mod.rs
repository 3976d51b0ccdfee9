//! Guides: the architecture, coming from FastAPI, errors, events, testing, what the crate guarantees, and what new
//! versions may change.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("errors.md")]
pub mod errors {}

#[doc = include_str!("events.md")]
pub mod events {}

#[doc = include_str!("from_fastapi.md")]
pub mod from_fastapi {}

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("stability.md")]
pub mod stability {}

#[doc = include_str!("testing.md")]
pub mod testing {}
