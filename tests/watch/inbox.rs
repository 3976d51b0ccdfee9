//! The inbox of reports, which other tests use, too.

pub(crate) use support::inbox::{Inbox, THRESHOLD};
