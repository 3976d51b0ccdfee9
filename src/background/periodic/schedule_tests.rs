//! The schedule against its invariants, with any order of slots, ends and triggers.

use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::every::Every;
use super::first::First;
use super::now::{Due, Now};
use super::overlap::Overlap;
use super::schedule::{Schedule, Step};
use super::slots::{Jitter, RateSlots, Slots};

#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(u64),
    /// A call ends, if one runs.
    End(bool),
    Trigger,
}

fn events(with_triggers: bool) -> impl Strategy<Value = Vec<Event>> {
    let trigger = if with_triggers { Event::Trigger } else { Event::Pass(1) };
    vec(prop_oneof![(0..40_u64).prop_map(Event::Pass), any::<bool>().prop_map(Event::End), Just(trigger)], 0..200)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What happened.
#[derive(Debug, Default)]
struct Log {
    begun: u64,
    skipped: u64,
    most_at_once: u64,
    elapsed: Duration,
    /// From the end of each call to the begin of the next, without triggers.
    pauses: Vec<Duration>,
}

fn play(every: &Every, events: &[Event]) -> Log {
    let start = Now { instant: Instant::now(), wall: SystemTime::now() };
    let (mut now, mut log, mut ended_at) = (start, Log::default(), None);
    let mut schedule = Schedule::new(every, 0, now, || 0.5);
    let mut settle = |schedule: &mut Schedule, now: Now, ended_at: &mut Option<Instant>| {
        while schedule.next(now) == Step::Call {
            log.begun += 1;
            log.most_at_once = log.most_at_once.max(schedule.running());
            log.pauses.extend(ended_at.take().map(|ended| now.instant - ended));
        }
        log.skipped += schedule.take_skipped();
    };
    for event in events {
        settle(&mut schedule, now, &mut ended_at);
        match event {
            Event::Pass(time) => now.instant += millis(*time),
            Event::Trigger => schedule.trigger(),
            Event::End(has_failed) => {
                if schedule.running() > 0 {
                    assert_eq!(schedule.ended(now, *has_failed), None);
                    ended_at = Some(now.instant);
                }
            }
        }
    }
    settle(&mut schedule, now, &mut ended_at);
    log.elapsed = now.instant - start.instant;
    log
}

proptest! {
    #[test]
    fn every_slot_of_a_fixed_rate_is_called_waits_or_is_skipped(
        events in events(false), interval in 1..30_u64, overlap in 0..3_usize,
    ) {
        let overlap = [Overlap::Skip, Overlap::Queue, Overlap::Allow][overlap];
        let every = Every::fixed_rate(millis(interval)).first(First::AfterInterval).overlap(overlap);
        let log = play(&every, &events);
        let slots = (log.elapsed.as_millis() / u128::from(interval)) as u64;
        let waiting = slots - (log.begun + log.skipped);
        prop_assert!(waiting <= u64::from(overlap == Overlap::Queue), "{log:?}, {slots} slots");
    }

    #[test]
    fn calls_overlap_only_where_they_may(events in events(true), interval in 1..30_u64, is_rate: bool, overlap in 0..2_usize) {
        let every = if is_rate {
            Every::fixed_rate(millis(interval)).overlap([Overlap::Skip, Overlap::Queue][overlap])
        } else {
            Every::fixed_delay(millis(interval)).jitter(millis(interval))
        };
        let log = play(&every, &events);
        prop_assert_eq!(log.most_at_once, 1);
    }

    #[test]
    fn a_fixed_delay_rests_for_no_less_than_its_interval(events in events(false), interval in 1..30_u64, jitter in 0..20_u64) {
        let log = play(&Every::fixed_delay(millis(interval)).jitter(millis(jitter)), &events);
        prop_assert!(log.pauses.iter().all(|pause| *pause >= millis(interval) + millis(jitter) / 2), "{:?}", log);
    }

    #[test]
    fn max_runs_is_never_passed(events in events(true), interval in 1..30_u64, runs in 1..5_u64, overlap in 0..3_usize) {
        let overlap = [Overlap::Skip, Overlap::Queue, Overlap::Allow][overlap];
        let log = play(&Every::fixed_rate(millis(interval)).overlap(overlap).max_runs(runs), &events);
        prop_assert!(log.begun <= runs);
    }

    #[test]
    fn slots_of_a_fixed_rate_keep_their_beat_whatever_the_jitter_and_the_looks(
        looks in vec(0..100_u64, 1..100), interval in 1..30_u64, jitter in 0..30_u64,
    ) {
        prop_assume!(jitter < interval);
        let mut now = Now { instant: Instant::now(), wall: SystemTime::now() };
        let (start, mut passed) = (now.instant, 0);
        let jitter = millis(jitter);
        let mut slots = RateSlots::new(millis(interval), Jitter { most: jitter, chance: crate::background::random::fraction }, now);
        for look in looks {
            now.instant += millis(look);
            passed += slots.pass(now);
            let elapsed = now.instant - start;
            let whole = |time: Duration| (time.as_nanos() / millis(interval).as_nanos()) as u64;
            prop_assert!(whole(elapsed.saturating_sub(jitter)) <= passed && passed <= whole(elapsed));
            let Some(Due::At(due)) = slots.next() else { panic!("it goes on") };
            prop_assert!(due > now.instant);
            let late = due - start - millis(interval) * (passed as u32 + 1);
            prop_assert!(late <= jitter);
        }
    }
}

#[test]
fn an_interval_that_never_comes_waits_for_ever() {
    let now = Now { instant: Instant::now(), wall: SystemTime::now() };
    for every in [Every::fixed_delay(Duration::MAX), Every::fixed_rate(Duration::MAX)] {
        let every = every.jitter(Duration::from_secs(1)).first(First::AfterInterval);
        let mut schedule = Schedule::new(&every, 0, now, || 0.9);
        assert_eq!(schedule.next(now), Step::Wait(None));
        schedule.trigger();
        assert_eq!(schedule.next(now), Step::Call);
    }
}

#[test]
fn any_number_of_missed_slots_is_passed_in_one_step() {
    let mut now = Now { instant: Instant::now(), wall: SystemTime::now() };
    let jitter = Jitter { most: Duration::ZERO, chance: || 0.0 };
    let mut slots = RateSlots::new(Duration::from_nanos(3), jitter, now);
    now.instant += Duration::from_nanos(3_000_000_000_000_001);
    assert_eq!(slots.pass(now), 1_000_000_000_000_000);
    assert_eq!(slots.next(), Some(Due::At(now.instant + Duration::from_nanos(2))));
}
