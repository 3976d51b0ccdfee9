//! The layers that label requests for the reports of watches.
//!
//! Handlers block on a gate until the test has seen the report, so no test depends on how fast the machine is.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "an unexpected result fails the test")]

mod actix;
mod axum;
mod tower;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use onelane::watch::{Blocked, Watch};
use support::inbox::{Inbox, THRESHOLD};
use support::waiting::{Gate, PATIENCE};

/// A time that is longer than the threshold, even on a busy machine.
const A_WHILE: Duration = Duration::from_millis(400);

/// A server whose workers are watched.
struct Site {
    /// Dropped before the server: a runtime waits for the threads that the gate blocks.
    gate: Gate,
    address: SocketAddr,
    inbox: Inbox,
    watch: Watch,
    /// Ends the server when it is dropped.
    _server: Box<dyn Send>,
}

/// A request that was sent, and its connection.
struct Sent(TcpStream);

impl Site {
    fn send(&self, method: &str, path: &str) -> Sent {
        self.send_with(method, path, "connection: close\r\n")
    }

    fn send_with(&self, method: &str, path: &str, headers: &str) -> Sent {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut sent = Sent(stream);
        sent.write(format!("{method} {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n").as_bytes());
        sent
    }

    /// Sends a request that blocks, and returns the report that was made before the response.
    fn report_of(&self, method: &str, path: &str) -> Blocked {
        self.gate.close();
        let before = self.inbox.blocked().len();
        let sent = self.send(method, path);
        let blocked = self.inbox.wait_for(before + 1).remove(before);
        assert!(sent.is_unanswered());
        self.gate.open();
        assert_eq!(sent.status(), 200);
        self.inbox.wait_for_recovered(before + 1);
        blocked
    }

    fn label_of(&self, method: &str, path: &str) -> Option<&'static str> {
        self.report_of(method, path).label()
    }

    /// Returns the labels that reports have named so far.
    fn labels(&self) -> BTreeSet<&'static str> {
        self.inbox.blocked().iter().filter_map(|(_, blocked)| blocked.label()).collect()
    }

    fn assert_silent(&self) {
        sleep(A_WHILE.max(THRESHOLD * 4));
        assert!(self.inbox.all().is_empty(), "{:?}", self.inbox.all());
    }
}

impl Sent {
    fn is_unanswered(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let peeked = self.0.peek(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Reads until the server closes the connection.
    fn text(mut self) -> String {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn status(self) -> u16 {
        self.text().split(' ').nth(1).unwrap().parse().unwrap()
    }
}
