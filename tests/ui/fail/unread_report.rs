//! A report that is not returned: the exit code would be 0 whatever happened.

#![deny(unused_must_use)]

use onelane::ServiceHost;
use onelane::background::BoxError;

async fn serve() -> std::io::Result<()> {
    Ok(())
}

async fn run_until() -> Result<(), BoxError> {
    let host = ServiceHost::builder().build()?;
    host.run_until(serve()).await?;
    Ok(())
}

async fn shutdown() -> Result<(), BoxError> {
    let host = ServiceHost::builder().build()?;
    host.start().await?;
    host.shutdown().await?;
    host.handle().shutdown().await?;
    Ok(())
}

fn main() {
    let _ = (run_until(), shutdown());
}
