//! [`Server`], which connects to Redis, checks what the server is, and turns errors into texts that say what to do.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, ErrorKind, ProtocolVersion, PushInfo, PushKind, RedisError, Value};

use super::super::error::BackendError;
use super::super::link::{CallError, Connector, Link};
use super::super::store_clock::StoreClock;
use super::super::waiters::Waiters;
use super::trace;

pub(super) struct Server {
    source: Source,
    pub(super) address: String,
    is_cluster: bool,
    pub(super) waiters: Arc<Waiters>,
    pub(super) clock: StoreClock,
}

/// A server, and the connection to it.
pub(super) type Node = Link<Server>;

/// Where the server is.
#[derive(Clone)]
pub(super) enum Source {
    Client(Box<Client>),
    /// Each new connection asks Sentinel for the address of the primary.
    Sentinel(Arc<tokio::sync::Mutex<SentinelClient>>),
}

/// The oldest version that supports the scripts and the protocol.
const OLDEST_VERSION: (u32, u32) = (6, 2);

/// What a user must be allowed to do, in addition to the commands that each client sends.
const COMMANDS: &str =
    "evalsha, script|load, info, get, set, del, pttl, pexpire, time, publish, subscribe, unsubscribe, pubsub|numsub";

impl Server {
    pub(super) fn new(source: Source, is_cluster: bool) -> Self {
        let address = match &source {
            Source::Client(client) => client.get_connection_info().addr().to_string(),
            Source::Sentinel(_) => "the address from Sentinel".to_owned(),
        };
        Self { source, address, is_cluster, waiters: Arc::default(), clock: StoreClock::default() }
    }

    /// Turns an error into one that says what to do.
    pub(super) fn explain(&self, error: RedisError) -> CallError {
        let address = &self.address;
        let is_unreachable = error.is_unrecoverable_error() || error.is_io_error();
        // The next connection may lead to the new primary.
        let is_elsewhere = matches!(error.code(), Some("READONLY" | "MOVED" | "CLUSTERDOWN"));
        // The code of an error in a script is ERR.
        let is_forbidden = error.detail().is_some_and(|detail| detail.contains("user executing the script can't"));
        let message = match (error.kind(), error.code()) {
            _ if is_forbidden => lacks_rights(address),
            (_, Some("READONLY")) => read_only(address),
            (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
                format!(
                    "Redis at {address} refused user or password: set them in the client's URL, redis://user:password@host"
                )
            }
            (_, Some("NOPERM")) => lacks_rights(address),
            (_, Some("OOM")) => format!("the memory of Redis at {address} is full: raise maxmemory"),
            (_, Some("LOADING")) => format!("Redis at {address} is loading its data: it answers when it is ready"),
            (_, Some("MOVED" | "CROSSSLOT" | "CLUSTERDOWN")) if !self.is_cluster => is_cluster(address),
            (_, Some("CLUSTERDOWN")) => format!("the cluster of Redis at {address} is down: it has lost a primary"),
            (_, Some("ASK" | "TRYAGAIN")) => {
                format!("the keys of the guard are being moved to another server than {address}: try again later")
            }
            (_, Some("MOVED")) => format!("Redis at {address} no longer has the keys of the guard"),
            (ErrorKind::MasterNameNotFoundBySentinel, _) => {
                "Sentinel knows no running primary of this name: check the name, and the password of the primary"
                    .to_owned()
            }
            (ErrorKind::RESP3NotSupported, _) => too_old(address, "older than 6"),
            _ if is_unreachable => format!("Redis at {address} can't be reached: check that it runs, and its address"),
            _ => format!("Redis at {address} refused a command"),
        };
        CallError { error: BackendError::new(message).with_source(error), is_broken: is_unreachable || is_elsewhere }
    }

    /// Checks that the server can keep locks. `info` is its reply to `INFO`.
    pub(super) fn examine(&self, info: &str) -> Result<(), BackendError> {
        let address = &self.address;
        let field = |name: &str| {
            let mut lines = info.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(field, _)| *field == name).map(|(_, value)| value.trim())
        };
        if field("role").is_some_and(|role| role != "master") {
            return Err(BackendError::new(read_only(address)));
        }
        match (field("cluster_enabled"), self.is_cluster) {
            (Some("1"), false) => return Err(BackendError::new(is_cluster(address))),
            (Some("0"), true) => {
                let text = format!("Redis at {address} is not part of a cluster: use Redis::new");
                return Err(BackendError::new(text));
            }
            _ => {}
        }
        if let Some(version) = field("redis_version") {
            let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(u32::MAX));
            let version_number = (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or(0));
            if version_number < OLDEST_VERSION {
                return Err(BackendError::new(too_old(address, version)));
            }
        }
        let policy = field("maxmemory_policy").unwrap_or("noeviction");
        if field("maxmemory").is_some_and(|limit| limit != "0") && policy != "noeviction" {
            // Not an error: the policy is the default of some hosts, where it can't be changed. A lease that the server
            // evicts is lost at the next renewal, as when the server loses its data.
            trace::may_evict_locks(policy);
        }
        Ok(())
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let client = match &self.source {
            Source::Client(client) => (**client).clone(),
            Source::Sentinel(sentinel) => sentinel.lock().await.async_get_client().await?,
        };
        // With this protocol, a connection receives messages between responses, so that one connection is enough.
        let settings = client.get_connection_info();
        let protocol = settings.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(settings.clone().set_redis_settings(protocol))?;
        let waiters = Arc::clone(&self.waiters);
        let on_push = move |push: PushInfo| {
            received(&waiters, &push);
            Ok::<_, ()>(())
        };
        // The link has time limits.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(on_push);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let channels = self.waiters.channels();
        if !channels.is_empty() {
            connection.subscribe(channels).await?;
        }
        Ok(connection)
    }
}

impl Connector for Server {
    type Connection = MultiplexedConnection;

    fn open(&self) -> Pin<Box<dyn Future<Output = Result<MultiplexedConnection, CallError>> + Send + '_>> {
        Box::pin(async move { self.connect().await.map_err(|error| self.explain(error)) })
    }
}

/// Wakes the callers that wait for a message.
fn received(waiters: &Waiters, push: &PushInfo) {
    match (&push.kind, push.data.first()) {
        (PushKind::Message, Some(Value::BulkString(channel))) => {
            if let Ok(channel) = std::str::from_utf8(channel) {
                waiters.notify(channel);
            }
        }
        // Releases are missed from now on, so all callers check their locks.
        (PushKind::Disconnection, _) => waiters.notify_all(),
        _ => {}
    }
}

fn read_only(address: &str) -> String {
    format!("Redis at {address} is a read-only replica: connect to the primary")
}

fn is_cluster(address: &str) -> String {
    format!("Redis at {address} is part of a cluster: use Redis::cluster")
}

fn lacks_rights(address: &str) -> String {
    format!(
        "the Redis user lacks rights at {address}: allow keys and channels that begin with `{{onelane:`, and \
         {COMMANDS}"
    )
}

fn too_old(address: &str, version: &str) -> String {
    format!("Redis at {address} is {version}: use version 6.2 or newer, or Valkey")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examined(info: &str) -> Result<(), String> {
        let client = Client::open("redis://localhost").expect("the URL is valid");
        Server::new(Source::Client(Box::new(client)), false).examine(info).map_err(|error| error.to_string())
    }

    #[test]
    fn server_that_is_too_old_is_refused() {
        for version in ["5.0.14", "6.0.20", "6"] {
            let error =
                examined(&format!("redis_version:{version}\r\nrole:master\r\n")).expect_err("the version is too old");
            assert!(error.contains("use version 6.2 or newer, or Valkey"), "{version}: {error}");
        }
        for version in ["6.2.0", "7.0.15", "8.2.1", "unknown"] {
            assert_eq!(examined(&format!("# Server\r\nredis_version:{version}\r\n")), Ok(()), "{version}");
        }
        assert_eq!(examined(""), Ok(()));
    }
}
