//! Property tests of [`Schedule`]: its invariants hold for any order of due times, ends and triggers.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::clock::{ClockReading, DueTime};
use super::every::{Every, FirstCall, Overlap};
use super::schedule::{DueCall, Schedule, ScheduleStep};
use super::timetable::{FixedRate, Jitter, Timetable};
use crate::random;

#[derive(Clone, Copy, Debug)]
enum Input {
    /// Time passes, in milliseconds.
    Elapse(u64),
    /// A call ends, if one is running. `true` if it failed.
    End(bool),
    Trigger,
}

fn inputs(with_triggers: bool) -> impl Strategy<Value = Vec<Input>> {
    let trigger = if with_triggers { Input::Trigger } else { Input::Elapse(1) };
    vec(prop_oneof![(0..40_u64).prop_map(Input::Elapse), any::<bool>().prop_map(Input::End), Just(trigger)], 0..200)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What the schedule did.
#[derive(Debug, Default)]
struct Observed {
    begun: u64,
    skipped: u64,
    max_running: u64,
    elapsed: Duration,
    /// Whether only a trigger requested each call, and how late it began.
    late: Vec<(bool, Duration)>,
    /// The time from the end of each call to the beginning of the next.
    pauses: Vec<Duration>,
}

fn play(every: &Every, inputs: &[Input]) -> Observed {
    let start = ClockReading::now();
    let (mut now, mut observed, mut ended_at) = (start, Observed::default(), None);
    let mut schedule = Schedule::new(every, 0, now, || 0.5);
    let mut settle = |schedule: &mut Schedule, now: ClockReading, ended_at: &mut Option<Instant>| {
        while let ScheduleStep::Call(call) = schedule.next(now) {
            observed.begun += 1;
            observed.late.push((call.is_triggered, call.due.lateness(now)));
            observed.max_running = observed.max_running.max(schedule.running());
            observed.pauses.extend(ended_at.take().map(|ended| now.instant - ended));
        }
        observed.skipped += schedule.take_skipped();
    };
    for input in inputs {
        settle(&mut schedule, now, &mut ended_at);
        match input {
            Input::Elapse(time) => now.instant += millis(*time),
            Input::Trigger => schedule.trigger(now.instant),
            Input::End(has_failed) => {
                if schedule.running() > 0 {
                    assert_eq!(schedule.call_ended(now, *has_failed), None);
                    ended_at = Some(now.instant);
                }
            }
        }
    }
    settle(&mut schedule, now, &mut ended_at);
    observed.elapsed = now.instant - start.instant;
    observed
}

proptest! {
    #[test]
    fn each_due_time_of_a_fixed_rate_is_called_queued_or_skipped(
        inputs in inputs(false), interval in 1..30_u64, overlap in 0..3_usize,
    ) {
        let overlap = [Overlap::Skip, Overlap::Queue, Overlap::Allow][overlap];
        let every = Every::fixed_rate(millis(interval)).first_call(FirstCall::AfterInterval).overlap(overlap);
        let observed = play(&every, &inputs);
        let due_times = (observed.elapsed.as_millis() / u128::from(interval)) as u64;
        let queued = due_times - (observed.begun + observed.skipped);
        prop_assert!(queued <= u64::from(overlap == Overlap::Queue), "{observed:?}, {due_times} due times");
    }

    #[test]
    fn calls_never_overlap_unless_allowed(
        inputs in inputs(true), interval in 1..30_u64, is_rate: bool, overlap in 0..2_usize,
    ) {
        let every = if is_rate {
            Every::fixed_rate(millis(interval)).overlap([Overlap::Skip, Overlap::Queue][overlap])
        } else {
            Every::fixed_delay(millis(interval)).jitter(millis(interval))
        };
        let observed = play(&every, &inputs);
        prop_assert_eq!(observed.max_running, 1);
    }

    #[test]
    fn fixed_delay_never_pauses_for_less_than_its_interval(
        inputs in inputs(false), interval in 1..30_u64, jitter in 0..20_u64,
    ) {
        let observed = play(&Every::fixed_delay(millis(interval)).jitter(millis(jitter)), &inputs);
        let is_late_by_its_jitter = |late: &(bool, Duration)| late.1 >= millis(jitter) / 2;
        prop_assert!(observed.late.iter().skip(1).all(is_late_by_its_jitter), "{:?}", observed);
        let min_pause = millis(interval) + millis(jitter) / 2;
        prop_assert!(observed.pauses.iter().all(|pause| *pause >= min_pause), "{:?}", observed);
    }

    #[test]
    fn number_of_calls_never_exceeds_max_runs(
        inputs in inputs(true), interval in 1..30_u64, runs in 1..5_u64, overlap in 0..3_usize,
    ) {
        let overlap = [Overlap::Skip, Overlap::Queue, Overlap::Allow][overlap];
        let observed = play(&Every::fixed_rate(millis(interval)).overlap(overlap).max_runs(runs), &inputs);
        prop_assert!(observed.begun <= runs);
    }

    #[test]
    fn fixed_rate_does_not_drift_whatever_the_jitter_and_the_times_of_advance(
        steps in vec(0..100_u64, 1..100), interval in 1..30_u64, jitter in 0..30_u64,
    ) {
        prop_assume!(jitter < interval);
        let mut now = ClockReading::now();
        let (start, mut passed) = (now.instant, 0);
        let jitter = millis(jitter);
        let mut timetable = FixedRate::new(millis(interval), Jitter { max: jitter, random: random::fraction }, now);
        for step in steps {
            now.instant += millis(step);
            passed += timetable.advance(now);
            let elapsed = now.instant - start;
            let intervals = |time: Duration| (time.as_nanos() / millis(interval).as_nanos()) as u64;
            prop_assert!(intervals(elapsed.saturating_sub(jitter)) <= passed && passed <= intervals(elapsed));
            let Some(DueTime::Monotonic(due)) = timetable.next_due() else { panic!("a fixed rate never ends") };
            prop_assert!(due > now.instant);
            let late = due - start - millis(interval) * (passed as u32 + 1);
            prop_assert!(late <= jitter);
        }
    }
}

/// Returns the next call, and how late it is.
fn next_call(schedule: &mut Schedule, now: ClockReading) -> (bool, Duration) {
    match schedule.next(now) {
        ScheduleStep::Call(call) => (call.is_triggered, call.due.lateness(now)),
        step => panic!("no call is due: {step:?}"),
    }
}

#[test]
fn call_names_the_latest_due_time_that_it_serves() {
    let mut now = ClockReading::now();
    let every = Every::fixed_rate(millis(10)).jitter(millis(4)).overlap(Overlap::Queue);
    let mut schedule = Schedule::new(&every, 0, now, || 0.5);
    now.instant += millis(1);
    assert_eq!(next_call(&mut schedule, now), (false, millis(1)));
    schedule.call_ended(now, false);
    // A trigger and a due time share a call.
    now.instant += millis(10);
    schedule.trigger(now.instant);
    now.instant += millis(2);
    assert_eq!(next_call(&mut schedule, now), (false, millis(3)));
    // The time at 20 ms is queued, and the one at 30 ms is skipped.
    now.instant += millis(10);
    assert!(matches!(schedule.next(now), ScheduleStep::Wait(_)));
    now.instant += millis(11);
    assert!(matches!(schedule.next(now), ScheduleStep::Wait(_)));
    schedule.call_ended(now, false);
    assert_eq!(next_call(&mut schedule, now), (false, millis(14)));
    schedule.call_ended(now, false);
    // One call makes up for 40, 50 and 60 ms.
    now.instant += millis(29);
    assert_eq!(next_call(&mut schedule, now), (false, millis(3)));
    schedule.call_ended(now, false);
    // The first of two triggers counts.
    schedule.trigger(now.instant);
    now.instant += millis(2);
    schedule.trigger(now.instant);
    assert_eq!(next_call(&mut schedule, now), (true, millis(2)));
}

#[test]
fn fixed_delay_is_due_one_interval_after_the_end_whatever_its_jitter() {
    let mut now = ClockReading::now();
    let every = Every::fixed_delay(millis(10)).jitter(millis(4));
    let mut schedule = Schedule::new(&every, 0, now, || 0.5);
    assert_eq!(next_call(&mut schedule, now), (false, Duration::ZERO));
    now.instant += millis(5);
    schedule.call_ended(now, false);
    now.instant += millis(11);
    assert!(matches!(schedule.next(now), ScheduleStep::Wait(_)));
    now.instant += millis(2);
    assert_eq!(next_call(&mut schedule, now), (false, millis(3)));
}

#[test]
fn due_time_converts_to_the_wall_clock_in_both_directions() {
    let now = ClockReading::now();
    let (past, future) = (now.instant - millis(7), now.instant + millis(7));
    assert_eq!(DueTime::Monotonic(past).to_wall(now), now.wall.checked_sub(millis(7)));
    assert_eq!(DueTime::Monotonic(future).to_wall(now), now.wall.checked_add(millis(7)));
    assert_eq!(DueTime::Monotonic(future).lateness(now), Duration::ZERO);
}

#[test]
fn interval_beyond_the_clock_waits_forever() {
    let now = ClockReading::now();
    for every in [Every::fixed_delay(Duration::MAX), Every::fixed_rate(Duration::MAX)] {
        let every = every.jitter(Duration::from_secs(1)).first_call(FirstCall::AfterInterval);
        let mut schedule = Schedule::new(&every, 0, now, || 0.9);
        assert_eq!(schedule.next(now), ScheduleStep::Wait(None));
        schedule.trigger(now.instant);
        let call = DueCall { due: DueTime::Monotonic(now.instant), is_triggered: true };
        assert_eq!(schedule.next(now), ScheduleStep::Call(call));
    }
}

#[test]
fn any_number_of_missed_due_times_passes_in_one_step() {
    let mut now = ClockReading::now();
    let jitter = Jitter { max: Duration::ZERO, random: || 0.0 };
    let mut timetable = FixedRate::new(Duration::from_nanos(3), jitter, now);
    now.instant += Duration::from_nanos(3_000_000_000_000_001);
    assert_eq!(timetable.advance(now), 1_000_000_000_000_000);
    assert_eq!(timetable.next_due(), Some(DueTime::Monotonic(now.instant + Duration::from_nanos(2))));
}
