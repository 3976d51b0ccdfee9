//! [`Cluster`], which finds the server that has the keys of a guard.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::{Client, ConnectionAddr, ConnectionInfo, RedisError, Value};

use super::super::error::BackendError;
use super::super::link::{CallError, Connector, Link};
use super::keys::Keys;
use super::server::{Node, Server, Source};
use crate::sync::{Mutex, lock};

/// The servers of a cluster, and for each guard the server that has its keys.
pub(super) struct Cluster {
    nodes: Arc<Nodes>,
    keys: Keys,
    primaries: Mutex<HashMap<&'static str, Arc<Link<Primary>>>>,
    limit: Duration,
}

/// Finds the primary of a guard: any node of the cluster returns the address of this primary. The "connection" of this
/// connector is the link to that server, which other guards share.
pub(super) struct Primary {
    nodes: Arc<Nodes>,
    /// A key of the guard.
    key: String,
}

/// The servers that this process knows.
struct Nodes {
    /// The servers that the user has named.
    named: Vec<Arc<Node>>,
    /// The settings of all connections, except for their addresses.
    settings: ConnectionInfo,
    limit: Duration,
    /// The servers that other servers have named.
    found: Mutex<Vec<Arc<Node>>>,
}

/// How many times a search follows an address to the next server while the cluster changes.
const MOST_STEPS: usize = 5;

impl Cluster {
    /// `limit` is the time limit of a call.
    pub(super) fn new(clients: &[Client], keys: Keys, limit: Duration) -> Result<Self, BackendError> {
        // A call may have to find another server, and is then repeated.
        let nodes = Nodes::new(clients, limit / 2)?;
        Ok(Self { nodes: Arc::new(nodes), keys, primaries: Mutex::default(), limit })
    }

    /// Returns the link to the server that has the keys of a guard.
    pub(super) fn primary(&self, guard: &'static str) -> Arc<Link<Primary>> {
        let new = || {
            let primary = Primary { nodes: Arc::clone(&self.nodes), key: self.keys.fence(guard) };
            Arc::new(Link::new(primary, self.limit))
        };
        Arc::clone(lock(&self.primaries).entry(guard).or_insert_with(new))
    }

    /// Returns the guards that were used.
    pub(super) fn guards(&self) -> Vec<&'static str> {
        lock(&self.primaries).keys().copied().collect()
    }
}

impl Nodes {
    fn new(clients: &[Client], limit: Duration) -> Result<Self, BackendError> {
        let Some(first) = clients.first() else {
            return Err(BackendError::new("a cluster needs the address of at least one server"));
        };
        let settings = first.get_connection_info().clone();
        let node =
            |client: &Client| Arc::new(Link::new(Server::new(Source::Client(Box::new(client.clone())), true), limit));
        let named = clients.iter().map(node).collect();
        Ok(Self { named, settings, limit, found: Mutex::default() })
    }

    /// Returns all servers, those with a connection first.
    fn all(&self) -> Vec<Arc<Node>> {
        let mut found = lock(&self.found);
        // Servers that are neither connected nor in use are forgotten: they may have left the cluster.
        found.retain(|node| node.current().is_some() || Arc::strong_count(node) > 1);
        let mut all: Vec<_> = self.named.iter().chain(&*found).cloned().collect();
        drop(found);
        all.sort_by_key(|node| node.current().is_none());
        all
    }

    /// Returns the server with an address that another server has returned. An address without a host means the host of
    /// that other server.
    fn at(&self, address: &str, asked: &Node) -> Option<Arc<Node>> {
        let (host, port) = address.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let asked = &asked.connector().address;
        let host = if host.is_empty() { asked.rsplit_once(':')?.0 } else { host };
        let mut new = self.settings.addr().clone();
        match &mut new {
            ConnectionAddr::Tcp(old, old_port) | ConnectionAddr::TcpTls { host: old, port: old_port, .. } => {
                host.clone_into(old);
                *old_port = port;
            }
            _ => return None,
        }
        let address = new.to_string();
        let mut found = lock(&self.found);
        let mut known = self.named.iter().chain(&*found);
        if let Some(node) = known.find(|node| node.connector().address == address) {
            return Some(Arc::clone(node));
        }
        let client = Client::open(self.settings.clone().set_addr(new)).ok()?;
        let node = Arc::new(Link::new(Server::new(Source::Client(Box::new(client)), true), self.limit));
        found.push(Arc::clone(&node));
        Some(node)
    }
}

impl Primary {
    async fn find(&self) -> Result<Arc<Node>, CallError> {
        let mut last = None;
        for node in self.nodes.all() {
            match self.follow(node).await {
                Ok(primary) => return Ok(primary),
                Err(failure) => last = Some(failure),
            }
        }
        Err(last.unwrap_or_else(|| moves("a cluster has no server")))
    }

    /// Asks a server for the key, and follows the address that it returns instead.
    async fn follow(&self, mut node: Arc<Node>) -> Result<Arc<Node>, CallError> {
        for _ in 0..MOST_STEPS {
            let server = node.connector();
            let ask = |mut connection| async move {
                match redis::cmd("GET").arg(&self.key).query_async::<Value>(&mut connection).await {
                    Ok(_) => Ok(None),
                    Err(error) => moved_to(&error).map(Some).ok_or_else(|| server.explain(error)),
                }
            };
            let Some(address) = node.call(ask).await? else { return Ok(node) };
            node = self.nodes.at(&address, &node).ok_or_else(|| moves("a server of the cluster has no address"))?;
        }
        Err(moves("the keys of the guard are being moved between the servers of the cluster: try again later"))
    }
}

impl Connector for Primary {
    type Connection = Arc<Node>;

    fn open(&self) -> Pin<Box<dyn Future<Output = Result<Arc<Node>, CallError>> + Send + '_>> {
        Box::pin(self.find())
    }
}

/// Returns the address of the server that has the key. A replica returns the address of its primary.
fn moved_to(error: &RedisError) -> Option<String> {
    if error.code() != Some("MOVED") {
        return None;
    }
    error.redirect_node().map(|(address, _)| address.to_owned())
}

fn moves(text: &'static str) -> CallError {
    CallError { error: BackendError::new(text), is_broken: false }
}
