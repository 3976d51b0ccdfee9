//! What the programs of this package have in common.

use onelane::ProcessPool;

/// Builds a pool and runs a task. Returns the result, or the text of an error.
///
/// # Errors
///
/// Returns the text of the error of the builder or of the task.
pub fn add_in_a_worker() -> Result<u32, String> {
    let pool = ProcessPool::builder("sums").workers(1).try_build().map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    runtime.block_on(pool.run(|(a, b): (u32, u32)| a + b, (2, 3))).map_err(|error| error.to_string())
}
