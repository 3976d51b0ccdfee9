//! Permits that are bound to names cause no warnings.

#![deny(warnings)]

use onelane::{AcquireError, CapacityLimiter, EndpointGuard, KeyedGuard};

static GUARD: EndpointGuard = EndpointGuard::new("report");
static KEYED: KeyedGuard<u64> = KeyedGuard::new("user");
static LIMITER: CapacityLimiter = CapacityLimiter::new(1);

async fn permits() -> Result<(), AcquireError> {
    let _guard = GUARD.acquire().await?;
    let _permit = KEYED.acquire(7).await?;
    let _permits = KEYED.acquire_all([8, 9]).await?;
    Ok(())
}

async fn tokens() -> Result<(), onelane::offload::LimiterError> {
    let _tokens = LIMITER.acquire().await?;
    Ok(())
}

fn main() {
    let _ = (permits(), tokens());
}
