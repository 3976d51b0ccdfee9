//! A permit that is not bound to a name is released at once.

#![deny(unused_must_use)]

use onelane::{AcquireError, CapacityLimiter, EndpointGuard, KeyedGuard};

static GUARD: EndpointGuard = EndpointGuard::new("report");
static KEYED: KeyedGuard<u64> = KeyedGuard::new("user");
static LIMITER: CapacityLimiter = CapacityLimiter::new(1);

async fn permits() -> Result<(), AcquireError> {
    GUARD.acquire().await?;
    GUARD.try_acquire()?;
    KEYED.acquire(7).await?;
    KEYED.acquire_all([7, 8]).await?;
    Ok(())
}

async fn tokens() -> Result<(), onelane::offload::LimiterError> {
    LIMITER.acquire().await?;
    Ok(())
}

fn main() {
    let _ = (permits(), tokens());
}
