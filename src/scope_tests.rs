//! Compares scopes with a naive model.

use proptest::prelude::*;

use crate::scope::{CallerScopes, Hold, Scope, ScopeId};

fn id(number: u64) -> ScopeId {
    (0, number)
}

fn inside() -> Vec<u64> {
    (0..IDS).filter(|number| Scope::is_inside(id(*number))).collect()
}

const IDS: u64 = 4;

#[derive(Clone, Debug)]
enum Step {
    /// Enters the scope of a permit, runs the steps, and leaves the scope.
    Enter(usize, Vec<Self>),
    /// Enters the scopes that were captured before, runs the steps, and leaves the scopes.
    Hop(usize, Vec<Self>),
    Capture,
    /// Starts work in the current scopes that was created in those captured before.
    Start(usize),
    /// Takes the captured scopes for one of several pieces of work.
    Share(usize),
    ReleaseCaller(usize),
    /// Releases a permit, and acquires one with the same id.
    ReleasePermit(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Capture),
        any::<usize>().prop_map(Step::Start),
        any::<usize>().prop_map(Step::Share),
        any::<usize>().prop_map(Step::ReleaseCaller),
        (0..IDS as usize).prop_map(Step::ReleasePermit)
    ];
    let step = step.prop_recursive(5, 60, 6, |inner| {
        let inner = prop::collection::vec(inner, 0..6);
        prop_oneof![
            (0..IDS as usize, inner.clone()).prop_map(|(permit, steps)| Step::Enter(permit, steps)),
            (any::<usize>(), inner).prop_map(|(hop, steps)| Step::Hop(hop, steps)),
        ]
    });
    prop::collection::vec(step, 0..8)
}

/// A naive model: permits have generations, and each captured scope knows the generation of its permit and the flags of
/// its callers.
#[derive(Default)]
struct Model {
    holds: [Hold; IDS as usize],
    entered: [bool; IDS as usize],
    generations: [u32; IDS as usize],
    hops: Vec<(CallerScopes, Vec<Seen>)>,
    has_caller: Vec<bool>,
    /// Work is started once, and neither runs nor is shared before that.
    is_started: Vec<bool>,
    /// The scopes on the stack of the thread. Those of the current work begin at `boundary`.
    stack: Vec<Seen>,
    boundary: usize,
}

#[derive(Clone, Debug)]
struct Seen {
    permit: usize,
    generation: u32,
    /// The hops that the scope has passed.
    through: Vec<usize>,
}

impl Model {
    fn counts(&self, seen: &Seen) -> bool {
        // A scope that was entered on this thread itself is in effect until it is left.
        seen.through.is_empty()
            || self.generations[seen.permit] == seen.generation && seen.through.iter().all(|hop| self.has_caller[*hop])
    }

    fn check(&self) {
        let expected: Vec<u64> = (0..IDS)
            .filter(|id| self.stack.iter().any(|seen| seen.permit as u64 == *id && self.counts(seen)))
            .collect();
        assert_eq!(inside(), expected);
    }

    /// The scopes of the current work that count, as they are seen through a hop.
    fn current_through(&self, hop: usize) -> Vec<Seen> {
        let through = |seen: &Seen| {
            let mut seen = seen.clone();
            seen.through.push(hop);
            seen
        };
        self.stack[self.boundary..].iter().filter(|seen| self.counts(seen)).map(through).collect()
    }

    fn can_start(&self, hop: usize) -> bool {
        !self.hops.is_empty() && self.has_caller[hop % self.hops.len()] && !self.is_started[hop % self.hops.len()]
    }

    fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.check();
            match step {
                // A permit is polled at one place at a time.
                Step::Enter(permit, steps) if !self.entered[*permit] => {
                    let mut hold = std::mem::take(&mut self.holds[*permit]);
                    self.entered[*permit] = true;
                    let generation = self.generations[*permit];
                    self.stack.push(Seen { permit: *permit, generation, through: Vec::new() });
                    let scope = Scope::enter(id(*permit as u64), &mut hold);
                    self.run(steps);
                    drop(scope);
                    self.stack.pop();
                    self.entered[*permit] = false;
                    self.holds[*permit] = hold;
                }
                Step::Hop(hop, steps) if !self.hops.is_empty() => {
                    let hop = hop % self.hops.len();
                    self.is_started[hop] = true;
                    let (scopes, seen) = self.hops[hop].clone();
                    let (boundary, length) = (self.boundary, self.stack.len());
                    self.boundary = length;
                    self.stack.extend(seen);
                    let entered = scopes.enter();
                    self.run(steps);
                    drop(entered);
                    self.stack.truncate(length);
                    self.boundary = boundary;
                }
                Step::Capture => {
                    let seen = self.current_through(self.hops.len());
                    self.has_caller.push(true);
                    self.is_started.push(false);
                    self.hops.push((CallerScopes::capture(), seen));
                }
                Step::Start(hop) if self.can_start(*hop) => {
                    let hop = hop % self.hops.len();
                    self.is_started[hop] = true;
                    let current = self.current_through(hop);
                    self.hops[hop].1.extend(current);
                    let created = std::mem::take(&mut self.hops[hop].0);
                    self.hops[hop].0 = created.and_current();
                }
                Step::Share(hop) if !self.hops.is_empty() => {
                    let hop = hop % self.hops.len();
                    self.is_started[hop] = true;
                    let (scopes, mut seen) = self.hops[hop].clone();
                    for seen in &mut seen {
                        seen.through.push(self.hops.len());
                    }
                    self.has_caller.push(true);
                    self.is_started.push(false);
                    self.hops.push((scopes.for_one_of_many(), seen));
                }
                Step::ReleaseCaller(hop) if !self.hops.is_empty() => {
                    let hop = hop % self.hops.len();
                    self.hops[hop].0.release();
                    self.has_caller[hop] = false;
                }
                Step::ReleasePermit(permit) if !self.entered[*permit] => {
                    self.holds[*permit] = Hold::default();
                    self.generations[*permit] += 1;
                }
                _ => {}
            }
            self.check();
        }
    }
}

proptest! {
    #[test]
    fn scopes_agree_with_a_naive_model(steps in steps()) {
        let mut model = Model::default();
        model.run(&steps);
        prop_assert!(!Scope::is_any());
    }
}
