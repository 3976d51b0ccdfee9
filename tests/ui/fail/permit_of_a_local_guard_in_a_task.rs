//! A task may outlive the function that spawned it, and the permit borrows a guard of that function.

use onelane::EndpointGuard;

#[allow(dead_code)]
fn spawn_with_permit() {
    let guard = EndpointGuard::new("report");
    let permit = guard.try_acquire();
    tokio::spawn(async move { drop(permit) });
}

fn main() {}
