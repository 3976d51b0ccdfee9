//! The inbox of reports, which the tests of other folders share.

pub(crate) use support::inbox::{Inbox, THRESHOLD};
