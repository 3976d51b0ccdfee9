//! Guards, keyed guards and single flights from outside.

mod cancellation;
mod endpoint_guard;
mod keyed_cancellation;
mod keyed_guard;
mod single_flight;
