//! [`Servers`], which sends calls to the server that has the keys of a guard.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, RedisResult};

use super::super::error::BackendError;
use super::super::link::Link;
use super::cluster::Cluster;
use super::keys::Keys;
use super::server::{Node, Server, Source};

/// Where the user's servers are.
pub(super) enum Place {
    One(Source),
    Cluster(Vec<Client>),
}

pub(super) enum Servers {
    /// One server has all keys.
    One(Arc<Node>),
    /// Each guard has its keys on one server.
    Cluster(Cluster),
}

impl Servers {
    /// `limit` is the time limit of a call.
    pub(super) fn new(place: &Place, keys: &Keys, limit: Duration) -> Result<Self, BackendError> {
        Ok(match place {
            Place::One(source) => Self::One(Arc::new(Link::new(Server::new(source.clone(), false), limit))),
            Place::Cluster(clients) => Self::Cluster(Cluster::new(clients, keys.clone(), limit)?),
        })
    }

    /// Returns the server that has the keys of a guard.
    pub(super) async fn node(&self, guard: &'static str) -> Result<Arc<Node>, BackendError> {
        match self {
            Self::One(node) => Ok(Arc::clone(node)),
            Self::Cluster(cluster) => cluster.primary(guard).connection().await,
        }
    }

    /// Returns guards whose keys cover all servers that are in use.
    pub(super) fn guards(&self, any: &'static str) -> Vec<&'static str> {
        match self {
            Self::One(_) => vec![any],
            Self::Cluster(cluster) => cluster.guards(),
        }
    }

    /// Calls the server that has the keys of a guard.
    pub(super) async fn call<T, F>(
        &self,
        guard: &'static str,
        run: impl Fn(Arc<Node>, MultiplexedConnection) -> F + Send + Sync,
    ) -> Result<T, BackendError>
    where
        T: Send,
        F: Future<Output = RedisResult<T>> + Send,
    {
        let run = &run;
        let call = |node: Arc<Node>| async move {
            let call = |connection| {
                let answer = run(Arc::clone(&node), connection);
                let server = node.connector();
                async move { answer.await.map_err(|error| server.explain(error)) }
            };
            node.call(call).await
        };
        let result = match self {
            Self::One(node) => call(Arc::clone(node)).await,
            Self::Cluster(cluster) => cluster.primary(guard).call(call).await,
        };
        result.map_err(|failure| failure.error)
    }
}
