//! [`PostgresServer`], a real PostgreSQL on a free port, in a temporary folder, and [`PgBouncer`] in front of it.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::{Client, NoTls};

use crate::client::PATIENCE;
use crate::redis::free_port;

/// A running server with a cluster of its own. Dropping it, also in a failed test, ends the process and removes its
/// folder.
pub struct PostgresServer {
    child: Child,
    folder: PathBuf,
    port: u16,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

impl PostgresServer {
    /// Returns `true` if a server can be started.
    pub fn is_installed() -> bool {
        Command::new(program("initdb")).arg("--version").output().is_ok()
    }

    /// Creates a cluster, starts its server and waits until it responds.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with more arguments.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(arguments, &[]).await
    }

    /// Starts a server with more arguments and environment variables.
    pub async fn start_in(arguments: &[&str], variables: &[(&'static str, String)]) -> Self {
        let port = free_port();
        let folder = new_folder(&format!("postgres-{}-{port}", process::id()));
        // SCRAM takes a client of a debug build too long, on a busy machine.
        let output = as_unprivileged(&mut Command::new(program("initdb")))
            .args(["--auth-host=md5", "--auth-local=trust", "--username=postgres", "--no-sync", "--encoding=UTF8"])
            .args(["--locale=C", "--pwfile"])
            .arg(password_file(&folder))
            .arg("--pgdata")
            .arg(folder.join("data"))
            .current_dir(&folder)
            .output()
            .expect("initdb can be started");
        assert!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let variables = variables.to_vec();
        let child = run(port, &folder, &arguments, &variables);
        let server = Self { child, folder, port, arguments, variables };
        server.wait().await;
        server
    }

    async fn wait(&self) {
        let start = Instant::now();
        while self.try_connect().await.is_err() {
            assert!(start.elapsed() < PATIENCE, "timed out: postgres responds");
            // Another process runs in real time.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn try_connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.settings(), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Connects as the superuser.
    pub async fn connect(&self) -> Client {
        self.try_connect().await.expect("the server responded before")
    }

    /// Returns the settings of a connection as the superuser.
    pub fn settings(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres password=secret dbname=postgres", self.port)
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Ends the server without a shutdown. Its data remain.
    pub fn kill(&mut self) {
        // An immediate shutdown ends all processes of the server without writing anything. It fails only if the process
        // has already ended.
        let _ = kill_process(Pid::from_child(&self.child), Signal::QUIT);
        let _ = self.child.wait();
    }

    /// Starts the server again on the same port, and waits until it responds.
    pub async fn restart(&mut self) {
        self.kill();
        self.child = run(self.port, &self.folder, &self.arguments, &self.variables);
        self.wait().await;
    }

    /// Makes the server a standby that is read-only, or a primary again.
    pub async fn set_standby(&mut self, is_standby: bool) {
        self.kill();
        let signal = self.folder.join("data/standby.signal");
        if is_standby {
            fs::write(&signal, "").expect("the folder is writable");
        } else {
            fs::remove_file(&signal).expect("the file exists");
        }
        self.restart().await;
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
        // Fails only if the folder is already removed.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A running PgBouncer that gives each transaction another connection of a small pool.
pub struct PgBouncer {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl PgBouncer {
    pub async fn start(server: &PostgresServer) -> Self {
        let port = free_port();
        let folder = new_folder(&format!("pgbouncer-{}-{port}", process::id()));
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} user=postgres password=secret\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 3\nserver_round_robin = 1\n",
            server.port
        );
        let file = folder.join("pgbouncer.ini");
        fs::write(&file, settings).expect("the temporary folder is writable");
        let child = as_unprivileged(&mut Command::new("pgbouncer"))
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| missing("pgbouncer", &error));
        let this = Self { child, folder, port };
        let start = Instant::now();
        while tokio_postgres::connect(&this.settings(), NoTls).await.is_err() {
            assert!(start.elapsed() < PATIENCE, "timed out: pgbouncer responds");
            // Another process runs in real time.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        this
    }

    pub fn settings(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // These fail only if the process has already ended, or the folder is already removed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn run(port: u16, folder: &Path, arguments: &[String], variables: &[(&'static str, String)]) -> Child {
    let start = Instant::now();
    loop {
        let mut child = as_unprivileged(&mut Command::new(program("postgres")))
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"])
            .args(["-c", "unix_socket_directories=", "-D"])
            .arg(folder.join("data"))
            .args(arguments)
            .envs(variables.iter().cloned())
            .current_dir(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| missing("postgres", &error));
        // Another process runs in real time.
        thread::sleep(Duration::from_millis(50));
        if child.try_wait().expect("the child can be waited for").is_none() {
            return child;
        }
        // A process of the last server has not ended yet.
        assert!(start.elapsed() < PATIENCE, "timed out: postgres starts");
    }
}

/// Returns the path of a program of PostgreSQL, which Debian does not put into `PATH`.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut paths: Vec<_> = versions.map(|version| version.path().join("bin").join(name)).collect();
    paths.retain(|path| path.exists());
    paths.pop().unwrap_or_else(|| name.into())
}

/// PostgreSQL refuses to run as root.
fn as_unprivileged(command: &mut Command) -> &mut Command {
    if rustix::process::geteuid().is_root() {
        command.uid(id("-u")).gid(id("-g"));
    }
    command
}

/// Returns the user or the group that Debian's package creates.
fn id(kind: &str) -> u32 {
    let output = Command::new("id").args([kind, "postgres"]).output().expect("`id` can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("the user postgres is missing: `apt-get install postgresql`"))
}

fn new_folder(name: &str) -> PathBuf {
    let folder = env::temp_dir().join(format!("onelane-{name}"));
    fs::create_dir_all(&folder).expect("the temporary folder is writable");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&folder, Some(id("-u")), Some(id("-g"))).expect("root may change the owner");
    }
    folder
}

fn password_file(folder: &Path) -> PathBuf {
    let file = folder.join("password");
    fs::write(&file, "secret").expect("the temporary folder is writable");
    file
}

fn missing(program: &str, error: &io::Error) -> ! {
    match error.kind() {
        io::ErrorKind::NotFound => panic!("{program} is missing: `apt-get install postgresql pgbouncer`"),
        _ => panic!("cannot start {program}: {error}"),
    }
}
