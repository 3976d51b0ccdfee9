//! `run_to_completion` borrows its guard for as long as the program runs: the compiler's messages are quoted in "Common
//! mistakes" of the module `guard`.

use std::sync::Arc;

use onelane::EndpointGuard;

async fn own(guard: Arc<EndpointGuard>) {
    let _ = guard.run_to_completion(async {}).await;
}

async fn borrowed(guard: &Arc<EndpointGuard>) {
    let _ = guard.run_to_completion(async {}).await;
}

fn main() {}
