//! Rules about the source tree and the public types.

mod architecture;
mod auto_traits;
mod configuration;
mod events;
mod modules;
mod panic_locations;
mod problem_types;
mod sources;
mod tokens;
