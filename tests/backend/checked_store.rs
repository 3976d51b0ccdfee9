//! [`CheckedStore`], a server that accepts a write only with the highest fencing token so far, and detects holders that
//! write without the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A server of a test on a free port.
pub(super) struct CheckedStore {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The accepted tokens: their processes, and when each token was accepted first, by the [`clock`].
    accepted: BTreeMap<u64, (u32, u64)>,
    /// For each of these tokens, a time by the [`clock`] at which its lease had certainly expired.
    expired: BTreeMap<u64, u64>,
    inside: Option<Inside>,
    turns: Vec<Turn>,
    /// The tokens of the holders that have left.
    left: BTreeSet<u64>,
    counts: Counts,
    violations: Vec<String>,
}

/// A holder that is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inside {
    pub(super) token: u64,
    pub(super) process: u32,
}

/// A holder's entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) at: Instant,
    pub(super) process: u32,
    pub(super) token: u64,
}

/// How many reports of each kind the server received.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) writes: usize,
    /// Writes with an old token.
    pub(super) refused: usize,
    /// Holders that did not write, because they had lost their leases.
    pub(super) lost: usize,
    /// Holders that entered while another one was inside.
    pub(super) overlaps: usize,
    /// Callers that did not get the lock.
    pub(super) errors: usize,
}

/// A holder's connection.
pub(super) struct Holder {
    connection: BufReader<TcpStream>,
    process: u32,
}

/// Returns the time in nanoseconds by a clock that all processes share.
pub(super) fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

impl CheckedStore {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<Mutex<State>>::default());
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                connection.set_nodelay(true).unwrap();
                tokio::spawn(serve(connection, Arc::clone(&serving)));
            }
        });
        Self { address, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn inside(&self) -> Option<Inside> {
        self.state().inside
    }

    /// Returns `true` if a holder has left, and was not killed before that.
    pub(super) fn has_left(&self, holder: Inside) -> bool {
        self.state().left.contains(&holder.token)
    }

    /// Returns the entries so far.
    pub(super) fn turns(&self) -> Vec<Turn> {
        self.state().turns.clone()
    }

    pub(super) fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Records that the lease of a token has expired by now.
    pub(super) fn expire(&self, token: u64) {
        self.state().expired.insert(token, clock());
    }

    /// Returns the errors that holders made.
    pub(super) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }
}

/// Answers the messages of a holder. Each message is a line: `enter`, `write` or `leave` with the process, the token
/// and the time of the holder's last check of its lease; `lost` with the process and the token; `error` or `violation`
/// with a text.
async fn serve(connection: TcpStream, state: Arc<Mutex<State>>) {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    while matches!(connection.read_line(&mut line).await, Ok(1..)) {
        let answer: &[u8] = if state.lock().unwrap().receive(line.trim()) { b"accepted\n" } else { b"refused\n" };
        line.clear();
        // A holder that was killed reads no answer.
        if connection.get_mut().write_all(answer).await.is_err() {
            return;
        }
    }
}

impl State {
    /// Returns `false` if the write is refused.
    fn receive(&mut self, line: &str) -> bool {
        let (what, rest) = line.split_once(' ').unwrap();
        match what {
            "error" => self.counts.errors += 1,
            "violation" => self.violations.push(rest.to_owned()),
            "lost" => {
                self.counts.lost += 1;
                let (process, token) = rest.split_once(' ').unwrap();
                self.leave(Inside { token: token.parse().unwrap(), process: process.parse().unwrap() });
            }
            _ => {
                let [process, token, looked_at] = rest.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
                let holder = Inside { token: token.parse().unwrap(), process: process.parse().unwrap() };
                return self.write(what, holder, looked_at.parse().unwrap());
            }
        }
        true
    }

    fn write(&mut self, what: &str, holder: Inside, looked_at: u64) -> bool {
        let Inside { token, process } = holder;
        if self.expired.get(&token).is_some_and(|expired_at| *expired_at < looked_at) {
            self.violations.push(format!("{what} by {holder:?}, which did not notice that its lease had expired"));
        }
        if let Some((newer, (_, accepted_at))) = self.accepted.range(token + 1..).next() {
            self.counts.refused += 1;
            if *accepted_at < looked_at {
                self.violations.push(format!("{what} by {holder:?}, which had a lease after token {newer} was used"));
            }
            self.leave(holder);
            return false;
        }
        let (owner, _) = *self.accepted.entry(token).or_insert_with(|| (process, clock()));
        if owner != process {
            self.violations.push(format!("{what} by {holder:?}, whose token {owner} has, too"));
        }
        self.counts.writes += 1;
        match what {
            "enter" => {
                self.turns.push(Turn { at: Instant::now(), process, token });
                self.counts.overlaps += usize::from(self.inside.is_some());
                self.inside = Some(holder);
            }
            "leave" => self.leave(holder),
            _ => {}
        }
        true
    }

    fn leave(&mut self, holder: Inside) {
        self.left.insert(holder.token);
        self.inside.take_if(|inside| *inside == holder);
    }
}

impl Holder {
    pub(super) async fn connect(store: SocketAddr, process: u32) -> Self {
        let connection = TcpStream::connect(store).await.unwrap();
        connection.set_nodelay(true).unwrap();
        Self { connection: BufReader::new(connection), process }
    }

    /// Writes, if the lease is not lost. Returns `false` if the holder must not continue.
    pub(super) async fn write(&mut self, what: &str, lease: &onelane::backend::Lease) -> bool {
        let (process, token) = (self.process, lease.fence());
        let looked_at = clock();
        if lease.is_lost() {
            self.send(format!("lost {process} {token}\n")).await;
            return false;
        }
        self.send(format!("{what} {process} {token} {looked_at}\n")).await == "accepted\n"
    }

    pub(super) async fn report(&mut self, what: &str, text: &str) {
        self.send(format!("{what} {}\n", text.replace('\n', " "))).await;
    }

    async fn send(&mut self, line: String) -> String {
        self.connection.get_mut().write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        self.connection.read_line(&mut answer).await.unwrap();
        answer
    }
}
