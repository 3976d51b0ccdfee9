//! Stores.

use onelane::backend::{LockBackend, Redis};
use support::redis::RedisServer;

pub(crate) async fn scenario() {
    let server = RedisServer::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"]);
    let store = Redis::new(redis::Client::open(&*server.url).unwrap());
    store.connect("shop").await.unwrap();
}
