//! Pools: which tasks run, which are queued, which never start, and what is left in the end.
//!
//! Real threads run here, so real time passes where a thread has to be busy. Assertions on times leave room for a busy
//! machine.

mod builder;
mod cancelled;
mod counts;
mod cpu;
mod cpu_parts;
mod errors;
mod hostile;
mod limits;
mod nested;
mod order;
mod results;
mod runtimes;
mod storm;
mod threads;
