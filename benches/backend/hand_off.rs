//! Measures how long a waiting process takes to get the lock that another process releases.
//!
//! Two processes take turns. While one of them holds the lock, the other one begins to wait. After some time, the first
//! one releases the lock. The time from just before the release to the end of the wait is one hand-off: both processes
//! read the same clock. A process does not ask for the lock again before the other process has it, so that a process
//! that polls is not overtaken.

use std::io::{self, BufRead, BufReader, Write};
use std::ops::Range;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, thread};

use nix::time::{ClockId, clock_gettime};

use crate::compare::median;
use crate::harness::{is_measured, is_selected};

/// Names the variant of a process that this program has started.
const VARIANT: &str = "ONELANE_BENCH_VARIANT";
/// The file, the folder or the server with the locks.
const STORE: &str = "ONELANE_BENCH_STORE";

const ROUNDS: usize = 12;
const PER_ROUND: usize = 20;
/// The number of hand-offs in a round of a lock that takes tens of milliseconds for each.
const PER_SLOW_ROUND: usize = 4;

/// How long the lock is held while the other process waits. The time is chosen at random, so that the release may fall
/// anywhere between two attempts of a lock that polls.
const HELD: Range<u64> = 2_000..5_000;
const HELD_LONG: Range<u64> = 2_000..202_000;

#[derive(Clone, Copy)]
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    pub(crate) program: Program,
    /// The lock polls at intervals of tens of milliseconds.
    pub(crate) is_slow: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum Program {
    /// This program, which calls [`serve`] for a store.
    This(fn(&str)),
    Python(&'static str),
}

/// What the hand-offs are compared with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reference {
    FirstVariant,
    /// A round trip to the server, measured in the processes of the first variant.
    RoundTrip,
}

/// Runs as a process of a variant until the end of the input, if this process was started as one.
pub(crate) fn serve_if_asked(groups: &[(&str, &[Variant])]) -> bool {
    let Ok(name) = env::var(VARIANT) else { return false };
    let store = env::var(STORE).expect("the parent names a store");
    let (group, name) = name.split_once('/').expect("the parent names a group and a variant");
    let (_, variants) = groups.iter().find(|(known, _)| *known == group).expect("the parent names a group");
    let variant = variants.iter().find(|variant| variant.name == name).expect("the parent names a variant");
    let Program::This(serve) = variant.program else { panic!("{name} is not a variant of this program") };
    serve(&store);
    true
}

/// Follows the commands of the parent.
pub(crate) fn serve<H>(acquire: impl Fn() -> H, release: impl Fn(H), round_trip: impl Fn()) {
    let mut held = None;
    for command in io::stdin().lock().lines() {
        let nanos = match &*command.expect("the parent writes text") {
            "acquire" => {
                held = Some(acquire());
                now()
            }
            "release" => {
                let (held, began) = (held.take().expect("the lock is held"), now());
                release(held);
                began
            }
            "round_trip" => {
                let began = now();
                round_trip();
                now() - began
            }
            command => panic!("unknown command {command}"),
        };
        println!("{}", nanos.as_nanos());
    }
}

/// Returns the time by the clock that all processes share.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock can be read").into()
}

struct Process {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Process {
    fn start(group: &str, variant: &Variant, store: &str) -> Self {
        let mut command = match variant.program {
            Program::This(_) => Command::new(env::current_exe().expect("this program has a path")),
            Program::Python(script) => {
                let mut command = Command::new("python3");
                command.args(["-c", script, store]);
                command
            }
        };
        command.env(VARIANT, format!("{group}/{}", variant.name)).env(STORE, store);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the process starts");
        let commands = child.stdin.take().expect("the input is piped");
        let answers = BufReader::new(child.stdout.take().expect("the output is piped"));
        Self { child, commands, answers }
    }

    fn send(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("the process reads");
    }

    fn receive(&mut self) -> Duration {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the process writes text");
        Duration::from_nanos(line.trim().parse().expect("the process writes a number"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().expect("the process has not been waited for");
        self.child.wait().expect("the process ends");
    }
}

/// Two processes, the first of which holds the lock.
struct Pair {
    holder: Process,
    waiter: Process,
    held: Range<u64>,
    /// The number of hand-offs in a round.
    count: usize,
    overlaps: usize,
}

impl Pair {
    fn start(group: &str, variant: &Variant, store: &str) -> Self {
        let start = || Process::start(group, variant, store);
        let (held, count) = match (is_measured(), variant.is_slow) {
            (true, true) => (HELD_LONG, PER_SLOW_ROUND),
            (true, false) => (HELD, PER_ROUND),
            (false, true) => (HELD, 1),
            (false, false) => (HELD, 2),
        };
        let mut pair = Self { holder: start(), waiter: start(), held, count, overlaps: 0 };
        pair.holder.send("acquire");
        pair.holder.receive();
        pair
    }

    /// Returns the times of a round, in seconds.
    fn round(&mut self) -> Vec<f64> {
        (0..self.count).map(|_| self.hand_off()).collect()
    }

    fn hand_off(&mut self) -> f64 {
        self.waiter.send("acquire");
        self.hold();
        self.holder.send("release");
        // The holder's answer comes first, but reading it would wake this process in the middle of the hand-off.
        let acquired = self.waiter.receive();
        let released = self.holder.receive();
        if acquired < released {
            self.overlaps += 1;
        }
        std::mem::swap(&mut self.holder, &mut self.waiter);
        acquired.saturating_sub(released).as_secs_f64()
    }

    fn round_trip(&mut self) -> f64 {
        self.hold();
        self.holder.send("round_trip");
        self.holder.receive().as_secs_f64()
    }

    fn hold(&self) {
        thread::sleep(Duration::from_micros(fastrand::u64(self.held.clone())));
    }
}

/// Measures hand-offs in rounds, in which the variants take turns, and prints them.
///
/// # Panics
///
/// Panics if both processes hold a lock of this crate at the same time.
pub(crate) fn compare_hand_offs(group: &str, store: &str, reference: Reference, variants: &[Variant]) {
    if !is_selected(group) {
        return;
    }
    let rounds = if is_measured() { ROUNDS } else { 1 };
    let mut pairs: Vec<_> = variants.iter().map(|variant| Pair::start(group, variant, store)).collect();
    let (mut times, mut references) = (vec![Vec::new(); pairs.len()], Vec::new());
    for _ in 0..rounds {
        for (pair, times) in pairs.iter_mut().zip(&mut times) {
            times.push(pair.round());
        }
        references.push(match reference {
            Reference::FirstVariant => times[0][times[0].len() - 1].clone(),
            Reference::RoundTrip => (0..pairs[0].count).map(|_| pairs[0].round_trip()).collect(),
        });
    }
    for (variant, pair) in variants.iter().zip(&pairs) {
        assert!(
            pair.overlaps == 0 || !variant.name.starts_with("onelane"),
            "{}: both processes hold the lock",
            variant.name
        );
    }
    if !is_measured() {
        return;
    }
    if reference == Reference::RoundTrip {
        print_times(group, "a round trip", &references, &references, 0);
    }
    for ((variant, pair), times) in variants.iter().zip(&pairs).zip(&times) {
        print_times(group, variant.name, times, &references, pair.overlaps);
    }
}

fn print_times(group: &str, name: &str, rounds: &[Vec<f64>], references: &[Vec<f64>], overlaps: usize) {
    if overlaps > 0 {
        // Its times mean nothing.
        println!("{group}/{name:<24}: both processes held the lock {overlaps} times");
        return;
    }
    let p50 = |round: &Vec<f64>| median(round.iter().copied());
    let mut all: Vec<_> = rounds.iter().flatten().map(|seconds| seconds * 1e6).collect();
    all.sort_by(f64::total_cmp);
    let at = |part: f64| all[(all.len() as f64 * part) as usize];
    let ratio = median(rounds.iter().zip(references).map(|(round, reference)| p50(round) / p50(reference)));
    println!("{group}/{name:<24}: p50 {:>9.1} µs, p99 {:>9.1} µs, p50 {ratio:>7.2} x the reference", at(0.5), at(0.99),);
}
