//! Guides: the architecture, coming from FastAPI, and what the crate guarantees.

#[doc = include_str!("architecture.md")]
pub mod architecture {}

#[doc = include_str!("from_fastapi.md")]
pub mod from_fastapi {}

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}
