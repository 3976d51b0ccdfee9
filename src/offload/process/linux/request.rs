//! [`Call`], a task on its way to a worker, and the parts of its request that are the same for all functions.

use std::ops::Range;
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;

use super::frame::{RequestHeader, level_number};
use super::image;
use crate::offload::process::codec::Message;
use crate::offload::process::function::{self, Function};
use crate::scope::{CallerScopes, ScopeId, WHOLE_GUARD};

/// The details of one task.
pub(in crate::offload::process) struct Call<'a> {
    pub(in crate::offload::process) function: Function,
    pub(in crate::offload::process) label: &'a str,
    pub(in crate::offload::process) deadline: Option<Instant>,
    pub(in crate::offload::process) cpu_limit: Option<Duration>,
}

/// Returns the guards that the task's caller is inside, if they are statics of the program, which the worker has too.
/// The numbers of keys and of runs have no meaning in another process.
pub(super) fn scopes_in_program() -> Vec<(i64, u64)> {
    let scopes = CallerScopes::capture().in_effect();
    let is_of_guard = |(address, number): &ScopeId| *number == WHOLE_GUARD && image::contains_static(*address);
    let scopes = scopes.into_iter().filter(is_of_guard);
    scopes.map(|(address, number)| (function::distance(address), number)).collect()
}

/// Writes the header to its place at the start of a request.
pub(super) fn write_header(request: &mut Message, call: &Call<'_>, arguments: Range<usize>) {
    let header = RequestHeader {
        function: call.function.to_bytes(),
        budget: call.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())),
        level: LevelFilter::current().into_level().map_or(0, level_number),
        meta_length: (arguments.start - RequestHeader::LENGTH) as u64,
        arguments_length: arguments.len() as u64,
        attachments: u32::try_from(request.attachments.len()).unwrap_or(u32::MAX),
    };
    request.body[..RequestHeader::LENGTH].copy_from_slice(&header.to_bytes());
}
