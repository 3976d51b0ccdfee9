//! [`RedisServer`], a real Redis on a free port, in a temporary folder.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

use redis::{Client, Connection};

use crate::client::PATIENCE;

/// A running server. Dropping it, also in a failed test, kills the process, waits for its end and removes its folder.
pub struct RedisServer {
    child: Child,
    folder: PathBuf,
    port: u16,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    pub url: String,
}

impl RedisServer {
    /// Starts a server and waits until it responds.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with more arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(arguments, &[])
    }

    /// Starts a server with more arguments and environment variables.
    pub fn start_in(arguments: &[&str], variables: &[(&'static str, String)]) -> Self {
        let start = Instant::now();
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut server = Self::launch(free_port(), arguments.clone(), variables.to_vec());
        while !server.answers() {
            assert!(start.elapsed() < PATIENCE, "timed out: redis-server responds");
            if server.has_ended() {
                // Another process took the port in the meantime.
                server = Self::launch(free_port(), arguments.clone(), variables.to_vec());
            }
            // Another process runs in real time.
            thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn launch(port: u16, arguments: Vec<String>, variables: Vec<(&'static str, String)>) -> Self {
        let folder = env::temp_dir().join(format!("onelane-redis-{}-{port}", process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let child = run(port, &folder, &arguments, &variables);
        Self { child, folder, port, arguments, variables, url: format!("redis://127.0.0.1:{port}") }
    }

    fn answers(&self) -> bool {
        let client = Client::open(&*self.url).expect("the URL is valid");
        let redis = client.get_connection_with_timeout(PATIENCE);
        let pong = redis.and_then(|mut redis| redis::cmd("PING").exec(&mut redis));
        // A server that wants a password responds, too.
        !pong.is_err_and(|error| error.is_io_error())
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child can be waited for").is_some()
    }

    pub fn connect(&self) -> Connection {
        let client = Client::open(&*self.url).expect("the URL is valid");
        client.get_connection_with_timeout(PATIENCE).expect("the server responded before")
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        // These fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts the server again on the same port, without its data, and waits until it responds.
    pub fn restart(&mut self) {
        self.kill();
        let start = Instant::now();
        self.child = run(self.port, &self.folder, &self.arguments, &self.variables);
        while !self.answers() {
            assert!(start.elapsed() < PATIENCE, "timed out: redis-server responds");
            // Another process runs in real time.
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        // Fails only if the folder is already removed.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn run(port: u16, folder: &Path, arguments: &[String], variables: &[(&'static str, String)]) -> Child {
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--daemonize", "no", "--dir"])
        .arg(folder)
        .args(arguments)
        .envs(variables.iter().cloned())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => panic!("redis-server is missing: `apt-get install redis-server`"),
            _ => panic!("cannot start redis-server: {error}"),
        })
}

/// Returns a port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("the listener is bound").port()
}
