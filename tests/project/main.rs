//! Rules about the source tree and the public types.

mod architecture;
mod auto_traits;
mod events;
mod modules;
mod problem_types;
mod sources;
mod tokens;
