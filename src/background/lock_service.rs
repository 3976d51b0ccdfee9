//! [`Connect`] as a service, which connects a domain of locks while its host runs.

use std::time::Duration;

use super::context::{RunContext, StartContext, StopContext};
use super::service::{BackgroundService, ServiceResult};
use crate::backend::Connect;

/// How often the store is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The service is not ready while the store does not answer. It disconnects the domain when the host stops, once all
/// permits of the domain are released.
impl BackgroundService for Connect {
    fn name(&self) -> &str {
        self.service_name()
    }

    async fn start(&self, _: &StartContext) -> ServiceResult {
        Ok(self.connect().await?)
    }

    async fn run(&self, cx: RunContext) -> ServiceResult {
        let mut answers = true;
        while cx.sleep(CHECK_INTERVAL).await {
            match self.check().await {
                Err(error) => {
                    answers = false;
                    cx.not_ready(&format!("the store of the locks does not answer: {error}"));
                }
                Ok(()) if answers => {}
                Ok(()) => {
                    answers = true;
                    cx.ready();
                }
            }
        }
        Ok(())
    }

    async fn stop(&self, _: &StopContext) -> ServiceResult {
        self.domain().disconnect().await;
        Ok(())
    }
}
