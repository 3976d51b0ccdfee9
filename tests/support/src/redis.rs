//! [`RedisServer`], a real Redis on a free port, in a temporary folder; also Sentinel and [`RedisCluster`].

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
    files: Vec<PathBuf>,
    variables: Vec<(&'static str, String)>,
    pub url: String,
}

impl RedisServer {
    /// Returns `true` if a server can be started.
    pub fn is_installed() -> bool {
        Command::new("redis-server").arg("--version").output().is_ok()
    }

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

    /// Starts a replica of another server, and waits until the replica has the data of that server.
    pub fn start_replica(primary: &Self) -> Self {
        let replica = Self::start_with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]);
        replica.wait_for("replication", "master_link_status:up");
        replica
    }

    /// Starts a Sentinel that replaces a primary half a second after the primary has ended. The Sentinel calls the
    /// primary `main`.
    pub fn start_sentinel(primary: &Self) -> Self {
        let address = format!("127.0.0.1 {}", primary.port);
        let file = env::temp_dir().join(format!("onelane-sentinel-{}-{}.conf", process::id(), primary.port));
        let settings = "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n";
        fs::write(&file, format!("sentinel monitor main {address} 1\n{settings}"))
            .expect("the temporary folder is writable");
        let mut sentinel = Self::start_with(&[file.to_str().expect("the path is text"), "--sentinel"]);
        sentinel.files.push(file);
        sentinel.wait_for("sentinel", "slaves=1");
        sentinel
    }

    /// Waits until the server's information about a subject contains a text.
    pub fn wait_for(&self, subject: &str, text: &str) {
        let start = Instant::now();
        loop {
            let command = if subject == "cluster" { ["CLUSTER", "INFO"] } else { ["INFO", subject] };
            let info = redis::cmd(command[0]).arg(command[1]).query::<String>(&mut self.connect());
            if info.as_ref().is_ok_and(|info| info.contains(text)) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "timed out: {text} in {info:?}");
            // Another process runs in real time.
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn launch(port: u16, arguments: Vec<String>, variables: Vec<(&'static str, String)>) -> Self {
        let folder = env::temp_dir().join(format!("onelane-redis-{}-{port}", process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let child = run(port, &folder, &arguments, &variables);
        Self { child, folder, port, arguments, files: Vec::new(), variables, url: format!("redis://127.0.0.1:{port}") }
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
        // These fail only if they are already removed.
        let _ = fs::remove_dir_all(&self.folder);
        self.files.iter().for_each(|file| drop(fs::remove_file(file)));
    }
}

/// A running cluster: three primaries, each with a third of the slots, and a replica of each.
pub struct RedisCluster {
    pub primaries: Vec<RedisServer>,
    pub replicas: Vec<RedisServer>,
}

impl RedisCluster {
    pub fn start() -> Self {
        let start = || {
            // The default is a port that may not exist.
            let port = free_port().to_string();
            let mut settings = vec!["--cluster-enabled", "yes", "--cluster-port", &port];
            settings.extend(["--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"]);
            let server = RedisServer::start_with(&settings);
            (server, port)
        };
        let (primaries, ports): (Vec<_>, Vec<_>) = (0..3).map(|_| start()).unzip();
        for (number, primary) in primaries.iter().enumerate() {
            let slots = |number: usize| number * 16_384 / 3;
            let mut redis = primary.connect();
            let mut cluster = |arguments: &[String]| {
                redis::cmd("CLUSTER").arg(arguments).exec(&mut redis).expect("the server is a node");
            };
            cluster(&["ADDSLOTSRANGE".to_owned(), slots(number).to_string(), (slots(number + 1) - 1).to_string()]);
            cluster(&["SET-CONFIG-EPOCH".to_owned(), (number + 1).to_string()]);
            cluster(&meet(&primaries[0], &ports[0]));
        }
        let replicas: Vec<_> = primaries
            .iter()
            .map(|primary| {
                let (replica, _) = start();
                let id: String =
                    redis::cmd("CLUSTER").arg("MYID").query(&mut primary.connect()).expect("a node has an ID");
                redis::cmd("CLUSTER")
                    .arg(&meet(&primaries[0], &ports[0]))
                    .exec(&mut replica.connect())
                    .expect("the server is a node");
                let start = Instant::now();
                while redis::cmd("CLUSTER").arg(&["REPLICATE", &id]).exec(&mut replica.connect()).is_err() {
                    assert!(start.elapsed() < PATIENCE, "timed out: the replica knows its primary");
                    // Another process runs in real time.
                    thread::sleep(Duration::from_millis(20));
                }
                replica
            })
            .collect();
        for server in primaries.iter().chain(&replicas) {
            server.wait_for("cluster", "cluster_state:ok");
            server.wait_for("cluster", "cluster_known_nodes:6");
        }
        replicas.iter().for_each(|replica| replica.wait_for("replication", "master_link_status:up"));
        Self { primaries, replicas }
    }

    /// Returns the position of the primary that has a key.
    pub fn position_of(&self, key: &str) -> usize {
        let has = |primary: &RedisServer| redis::cmd("GET").arg(key).exec(&mut primary.connect()).is_ok();
        self.primaries.iter().position(has).expect("the cluster has all slots")
    }
}

fn meet(server: &RedisServer, cluster_port: &str) -> [String; 4] {
    ["MEET".to_owned(), "127.0.0.1".to_owned(), server.port.to_string(), cluster_port.to_owned()]
}

fn run(port: u16, folder: &Path, arguments: &[String], variables: &[(&'static str, String)]) -> Child {
    // The path of a file with settings must be the first argument.
    let (file, arguments) =
        arguments.split_at(usize::from(arguments.first().is_some_and(|first| !first.starts_with('-'))));
    Command::new("redis-server")
        .args(file)
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
