//! Worker processes on Linux.
//!
//! ```text
//! server                                   zygote                        worker
//! worker_set ── zygote_link ── channel ──▶ boot ─▶ zygote ── fork ─────▶ serve
//!     └── worker ───────────────────────── frame ──────────────────────────┘
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `worker_set` | the workers of a pool, and how a task gets one |
//! | `keeper` | ends idle workers, and starts workers ahead of tasks |
//! | `worker` | the server's side of one worker: sends a request, waits for the reply, kills the worker |
//! | `limits` | the limits of a task, and their checks |
//! | `group`, `kill_switch` | how a caller that leaves kills the worker of its task |
//! | `zygote_link` | starts the zygote, and requests workers from it |
//! | `channel`, `frame` | the messages between server and zygote, and between server and worker |
//! | `request` | a task on its way to a worker |
//! | `reply_buffer` | what a worker has sent, which is not trusted |
//! | `trace` | the events of process pools |
//! | `stderr_tail`, `wait` | reads the standard error of a worker, waits for file descriptors |
//! | `image` | finds out whether a function is part of the executable file |
//! | `boot` | turns the program into a zygote before `main` |
//! | `zygote` | forks workers |
//! | `serve`, `events` | runs tasks in a worker, and sends its `tracing` events to the server |
//! | `sandbox` | what a worker gives up before its first task |
//! | `system` | system calls that need `unsafe` |

mod boot;
mod channel;
mod events;
mod frame;
#[cfg(test)]
mod frame_tests;
mod group;
mod image;
mod keeper;
mod kill_switch;
mod limits;
mod reply_buffer;
mod request;
#[cfg(feature = "landlock")]
mod sandbox;
mod serve;
mod stderr_tail;
mod system;
mod trace;
mod wait;
mod worker;
mod worker_set;
mod zygote;
mod zygote_link;

pub(super) use self::boot::worker_guard;
pub(super) use self::kill_switch::KillSwitch;
pub(super) use self::request::Call;
pub(super) use self::worker_set::WorkerSet;
