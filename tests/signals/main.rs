//! Signals and the end of the process. Each scenario runs in a process of its own: this binary, started again for one test.

mod forced_stop;
mod stuck_process;
