//! [`RedisServer`], a real Redis on a free port, in a temporary folder.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

use redis::{Client, Connection, TypedCommands};

use crate::client::PATIENCE;

/// A running server. Dropping it, also in a failed test, kills the process, waits for its end and removes its folder.
pub struct RedisServer {
    child: Child,
    folder: PathBuf,
    pub url: String,
}

impl RedisServer {
    /// Starts a server and waits until it responds.
    pub fn start() -> Self {
        let start = Instant::now();
        let mut server = Self::launch();
        while !server.answers() {
            assert!(start.elapsed() < PATIENCE, "timed out: redis-server responds");
            if server.has_ended() {
                // Another process took the port in the meantime.
                server = Self::launch();
            }
            // Another process runs in real time.
            thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn launch() -> Self {
        let port = free_port();
        let folder = env::temp_dir().join(format!("onelane-redis-{}-{port}", process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--daemonize", "no", "--dir"])
            .arg(&folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => panic!("redis-server is missing: `apt-get install redis-server`"),
                _ => panic!("cannot start redis-server: {error}"),
            });
        Self { child, folder, url: format!("redis://127.0.0.1:{port}") }
    }

    fn answers(&self) -> bool {
        let client = Client::open(&*self.url).expect("the URL is valid");
        client.get_connection_with_timeout(PATIENCE).is_ok_and(|mut redis| redis.ping().is_ok())
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child can be waited for").is_some()
    }

    pub fn connect(&self) -> Connection {
        let client = Client::open(&*self.url).expect("the URL is valid");
        client.get_connection_with_timeout(PATIENCE).expect("the server responded before")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // These fail only if the process has already ended, or the folder is already removed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Returns a port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("the listener is bound").port()
}
