//! Tests of signals and of the end of the process. Each scenario runs in its own process: this binary, started again
//! for one test.

mod forced_stop;
mod stuck_process;
