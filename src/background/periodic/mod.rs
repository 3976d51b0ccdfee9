//! [`periodic`], a closure that is called again and again.

mod ticker;

pub use ticker::TickStatus;
pub(crate) use ticker::Ticker;
