//! Handlers in worker processes, in axum and in actix-web, over real sockets.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::exit,
    reason = "an unexpected result fails the test, and a task may end its worker"
)]

mod apps;
mod disconnects;
mod layers;
mod refusals;
mod responses;
pub(crate) mod work;

use onelane::ProcessPool;
use onelane::offload::process::ProcessPoolBuilder;
use support::http::{self, Client, ClientResponse, eventually};

use self::apps::Site;
use self::work::FileGate;

/// Runs the same scenarios in each framework.
macro_rules! on_axum_and_actix {
    ($($scenario:ident),* $(,)?) => {
        mod in_axum {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario($crate::processes::apps::Framework::Axum).await;
            })*
        }
        mod in_actix {
            $(#[tokio::test]
            async fn $scenario() {
                super::$scenario($crate::processes::apps::Framework::Actix).await;
            })*
        }
    };
}
use on_axum_and_actix;

const TYPES: &str = "https://docs.rs/onelane/latest/onelane/web/index.html#";

fn pool(workers: usize) -> ProcessPoolBuilder {
    ProcessPool::builder("web").workers(workers).forward_stderr(false)
}

impl Site {
    async fn send(&self, path: &str) -> Client {
        Client::sending(self.address, http::get(path)).await
    }

    async fn get(&self, path: &str) -> ClientResponse {
        self.send(path).await.response().await
    }

    /// Sends a request that runs until the gate is opened.
    async fn running(&self, gate: &FileGate, path: &str) -> Client {
        let before = gate.started().len();
        let client = self.send(&gate.at(path)).await;
        eventually("the request runs", || gate.started().len() == before + 1).await;
        client
    }

    /// Sends a request that waits for a worker.
    async fn queued(&self, path: &str) -> Client {
        let before = self.pool.stats().tasks.queued;
        let client = self.send(path).await;
        eventually("the request waits", || self.pool.stats().tasks.queued == before + 1).await;
        client
    }

    /// Checks that a worker serves the next request.
    async fn serves(&self) {
        let response = self.get("/fault/none").await;
        assert_eq!(response.status, 200, "{:?}: {}", self.framework, response.text());
    }
}

fn is_problem(response: &ClientResponse, status: u16, kind: &str, retry_after: Option<&str>) {
    let problem = response.json();
    let expected = format!("{TYPES}{kind}");
    assert_eq!((response.status, problem["type"].as_str()), (status, Some(&*expected)), "{problem}");
    assert_eq!(problem["status"], status);
    assert_eq!(response.header("content-type"), Some("application/problem+json"));
    assert_eq!(response.header("retry-after"), retry_after);
    assert!(!response.text().contains("secret"), "{}", response.text());
}
