//! Work leaves the async threads: blocking calls and heavy computation, on threads that are made for them.

mod around;
mod blocking;
mod context;
#[cfg(feature = "rayon")]
mod cpu;
mod crew;
mod error;
pub mod from_thread;
mod future;
mod handle;
mod job;
mod limits;
mod parker;
mod pool;
mod priority;
mod queue;
mod runtimes;
mod statistics;
mod stream;
mod task;
mod worker;

pub use self::blocking::{BlockingPool, BlockingPoolBuilder, run_blocking};
pub use self::context::{Cancelled, TaskContext};
#[cfg(feature = "rayon")]
pub use self::cpu::{CpuPool, CpuPoolBuilder, run_cpu};
pub use self::error::OffloadError;
pub use self::future::TaskFuture;
pub use self::handle::TaskHandle;
pub use self::limits::CapacityLimiter;
pub use self::priority::Priority;
pub use self::statistics::{PoolStatistics, RunningTask};
pub use self::stream::{BlockingIter, BlockingStream, iter_from_stream, stream_blocking};
pub use self::task::Task;
