//! What guards, keyed guards, flights and the web layers allocate, counted on the thread of each test.

use support::counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

mod endpoint_guard;
mod keyed_guard;
mod single_flight;
mod web;
