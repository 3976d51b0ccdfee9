//! Cron expressions across clock changes, on a wall clock that stands in the test.

use std::time::{Duration, Instant as Clock, SystemTime};

use jiff::Timestamp;
use tokio::time::Instant;

use super::cron::Cron;
use super::error::CronError;
use super::every::Every;
use super::first::First;
use super::now::{Due, Now};
use super::overlap::Overlap;
use super::schedule::{Schedule, Step};
use super::slots::{Jitter, Slots};
use super::wall_slots::WallSlots;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const NO_JITTER: Jitter = Jitter { most: Duration::ZERO, chance: || 0.0 };

fn at(time: &str) -> SystemTime {
    time.parse::<Timestamp>().expect("it is written as in RFC 3339").into()
}

fn cron(expression: &str, time_zone: &str) -> Cron {
    let cron = Cron::new(expression, SystemTime::now()).expect("it can be read");
    cron.in_time_zone(time_zone).expect("the zone is known")
}

/// The times after this one, as RFC 3339 in UTC.
fn times(cron: &Cron, after: &str, count: usize) -> Vec<String> {
    let next = std::iter::successors(Some(at(after)), |time| cron.next_after(*time)).skip(1).take(count);
    next.map(|time| Timestamp::try_from(time).expect("it is in range").to_string()).collect()
}

fn read_error(expression: &str) -> String {
    let error = Every::cron(expression).map(|_| ()).expect_err("it makes no sense");
    error.to_string()
}

#[test]
fn without_a_time_zone_times_are_in_utc() {
    let nightly = Cron::new("0 3 * * *", SystemTime::now()).expect("it can be read");
    assert_eq!(times(&nightly, "2026-07-01T00:00:00Z", 2), ["2026-07-01T03:00:00Z", "2026-07-02T03:00:00Z"]);
}

#[test]
fn a_time_zone_moves_with_its_summer() {
    let nightly = cron("0 3 * * *", "Europe/Berlin");
    assert_eq!(times(&nightly, "2026-01-01T00:00:00Z", 1), ["2026-01-01T02:00:00Z"]);
    assert_eq!(times(&nightly, "2026-07-01T00:00:00Z", 1), ["2026-07-01T01:00:00Z"]);
}

#[test]
fn a_daily_time_in_the_gap_is_called_right_after_it() {
    // On this day it is 03:00 in Berlin right after 01:59:59, at 01:00 UTC.
    let nightly = cron("30 2 * * *", "Europe/Berlin");
    let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
    assert_eq!(times(&nightly, "2026-03-28T00:00:00Z", 3), expected);
}

#[test]
fn times_of_an_interval_in_the_gap_do_not_come() {
    let half_hours = cron("*/30 * * * *", "Europe/Berlin");
    let expected = ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"];
    assert_eq!(times(&half_hours, "2026-03-29T00:00:00Z", 3), expected);
    // Of the hours 1, 2 and 3 of that day, the second does not exist.
    let in_the_night = cron("30 1-3 * * *", "Europe/Berlin");
    let expected = ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T23:30:00Z"];
    assert_eq!(times(&in_the_night, "2026-03-29T00:00:00Z", 3), expected);
}

#[test]
fn a_daily_time_that_comes_twice_is_called_the_first_time() {
    // On this day it is 02:00 in Berlin again right after 02:59:59, at 01:00 UTC.
    let nightly = cron("30 2 * * *", "Europe/Berlin");
    let expected = ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
    assert_eq!(times(&nightly, "2026-10-24T12:00:00Z", 2), expected);
}

#[test]
fn times_of_an_interval_that_come_twice_are_called_twice() {
    let half_hours = cron("*/30 * * * *", "Europe/Berlin");
    let expected = ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"];
    assert_eq!(times(&half_hours, "2026-10-25T00:00:00Z", 4), expected);
}

#[test]
fn a_gap_of_half_an_hour_and_one_of_a_day_are_passed() {
    let lord_howe = cron("15 2 * * *", "Australia/Lord_Howe");
    assert_eq!(times(&lord_howe, "2026-10-03T12:00:00Z", 1), ["2026-10-03T15:30:00Z"]);
    // Samoa went to the other side of the date line, and had no 30th of December.
    let apia = cron("0 3 * * *", "Pacific/Apia");
    let expected = ["2011-12-29T13:00:00Z", "2011-12-30T13:00:00Z", "2011-12-31T13:00:00Z"];
    assert_eq!(times(&apia, "2011-12-29T12:00:00Z", 3), expected);
}

#[test]
fn a_time_is_not_called_twice_within_its_second() {
    let nightly = cron("0 3 * * *", "UTC");
    let next = nightly.next_after(at("2026-07-01T03:00:00.4Z"));
    assert_eq!(next, Some(at("2026-07-02T03:00:00Z")));
    assert_eq!(nightly.next_after(at("2026-07-01T02:59:59.999Z")), Some(at("2026-07-01T03:00:00Z")));
}

#[test]
fn both_days_given_either_will_do() {
    let either = cron("0 0 13 * FRI", "UTC");
    let expected = ["2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z", "2026-11-27T00:00:00Z"];
    assert_eq!(times(&either, "2026-11-12T00:00:00Z", 3), expected);
}

#[test]
fn an_expression_that_can_not_be_read_is_named_with_its_problem() {
    for expression in ["", "0 3 * *", "60 * * * *", "0 25 * * *", "a b c d e", "0 0 * * MOO", "*/0 * * * *"] {
        let error = read_error(expression);
        let start = format!("the cron expression {expression:?} can't be read: ");
        let problem = error.strip_prefix(&start).unwrap_or_else(|| panic!("{error}"));
        assert!(!problem.ends_with('.') && problem.chars().next().is_some_and(|c| !c.is_uppercase()), "{error}");
    }
    assert_eq!(read_error(""), "the cron expression \"\" can't be read: it is empty");
}

#[test]
fn an_expression_without_a_time_to_come_is_refused_soon() {
    let start = Clock::now();
    assert_eq!(
        read_error("0 0 30 2 *"),
        "the cron expression \"0 0 30 2 *\" names no time to come: correct its day, month or year"
    );
    assert!(read_error("0 0 0 1 1 * 2020").contains("names no time to come"));
    // A search of thousands of years, without optimisation: it is fast, but not for nothing.
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(Every::cron("0 0 29 2 *").is_ok());
}

#[test]
fn a_time_zone_is_for_expressions_and_has_to_exist() {
    let unknown = Every::cron("0 3 * * *").and_then(|every| every.time_zone("Europe/Atlantis")).map(|_| ());
    let (expression, time_zone) = ("0 3 * * *".into(), "Europe/Atlantis".into());
    assert_eq!(unknown, Err(CronError::UnknownTimeZone { expression, time_zone }));
    let interval = Every::secs(60).time_zone("Europe/Berlin").map(|_| ());
    assert_eq!(interval, Err(CronError::NotCron { time_zone: "Europe/Berlin".into() }));
}

/// Both clocks, which a test moves.
struct Clocks(Now);

impl Clocks {
    fn new(wall: &str) -> Self {
        Self(Now { instant: Instant::now(), wall: at(wall) })
    }

    fn pass(&mut self, time: Duration) -> Now {
        self.0.instant += time;
        self.0.wall += time;
        self.0
    }

    /// Only the wall clock.
    fn set(&mut self, wall: &str) -> Now {
        self.0.wall = at(wall);
        self.0
    }
}

fn daily(now: Now) -> WallSlots<impl Fn(SystemTime) -> Option<SystemTime> + Send> {
    let cron = cron("0 3 * * *", "UTC");
    WallSlots::new(move |time| cron.next_after(time), NO_JITTER, now)
}

fn on_the_wall(time: &str) -> Option<Due> {
    Some(Due::OnTheWall(at(time)))
}

#[test]
fn it_never_sleeps_longer_than_a_minute() {
    let mut clocks = Clocks::new("2026-07-01T00:00:00Z");
    let slots = daily(clocks.0);
    assert_eq!(slots.wake_at(clocks.0), Some(clocks.0.instant + MINUTE));
    let now = clocks.pass(3 * HOUR - MINUTE / 2);
    assert_eq!(slots.wake_at(now), Some(now.instant + MINUTE / 2));
    let late = clocks.pass(MINUTE);
    assert_eq!(slots.wake_at(late), Some(late.instant));
}

#[test]
fn each_time_comes_once() {
    let mut clocks = Clocks::new("2026-07-01T00:00:00Z");
    let mut slots = daily(clocks.0);
    assert_eq!(slots.pass(clocks.pass(3 * HOUR - MINUTE)), 0);
    assert_eq!(slots.pass(clocks.pass(MINUTE)), 1);
    assert_eq!(slots.pass(clocks.pass(MINUTE)), 0);
    assert_eq!(slots.next(), on_the_wall("2026-07-02T03:00:00Z"));
}

#[test]
fn a_clock_that_is_put_forward_makes_its_times_come() {
    let mut clocks = Clocks::new("2026-07-01T00:00:00Z");
    let mut slots = daily(clocks.0);
    assert_eq!(slots.pass(clocks.set("2026-07-04T12:00:00Z")), 4);
    assert_eq!(slots.next(), on_the_wall("2026-07-05T03:00:00Z"));
}

#[test]
fn a_clock_that_is_put_back_a_little_repeats_nothing() {
    let mut clocks = Clocks::new("2026-07-01T02:00:00Z");
    let mut slots = daily(clocks.0);
    assert_eq!(slots.pass(clocks.pass(HOUR)), 1);
    assert_eq!(slots.pass(clocks.set("2026-07-01T00:00:01Z")), 0);
    assert_eq!(slots.next(), on_the_wall("2026-07-02T03:00:00Z"));
    assert_eq!(slots.pass(clocks.set("2026-07-01T04:00:00Z")), 0);
    assert_eq!(slots.pass(clocks.set("2026-07-02T03:00:00Z")), 1);
}

#[test]
fn a_clock_that_was_years_ahead_is_followed_back() {
    let mut clocks = Clocks::new("2031-01-01T00:00:00Z");
    let mut slots = daily(clocks.0);
    assert_eq!(slots.pass(clocks.pass(3 * HOUR)), 1);
    assert_eq!(slots.pass(clocks.set("2026-07-01T00:00:00Z")), 0);
    assert_eq!(slots.next(), on_the_wall("2026-07-01T03:00:00Z"));
    assert_eq!(slots.pass(clocks.pass(3 * HOUR)), 1);
}

#[test]
fn a_clock_that_was_years_behind_counts_what_it_missed_in_no_time() {
    let clocks = &mut Clocks::new("1971-01-01T00:00:00Z");
    let secondly = cron("* * * * * *", "UTC");
    let mut slots = WallSlots::new(move |time| secondly.next_after(time), NO_JITTER, clocks.0);
    let start = Clock::now();
    assert!(slots.pass(clocks.set("2026-07-01T00:00:00Z")) >= 1_000);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(slots.next(), on_the_wall("2026-07-01T00:00:01Z"));
}

#[test]
fn jitter_is_added_to_the_time_and_not_to_the_schedule() {
    let mut clocks = Clocks::new("2026-07-01T00:00:00Z");
    let cron = cron("0 3 * * *", "UTC");
    let jitter = Jitter { most: 2 * MINUTE, chance: || 0.5 };
    let mut slots = WallSlots::new(move |time| cron.next_after(time), jitter, clocks.0);
    assert_eq!(slots.next(), on_the_wall("2026-07-01T03:01:00Z"));
    assert_eq!(slots.pass(clocks.pass(3 * HOUR)), 0);
    assert_eq!(slots.pass(clocks.pass(MINUTE)), 1);
    assert_eq!(slots.next(), on_the_wall("2026-07-02T03:01:00Z"));
}

#[test]
fn a_calendar_that_stands_still_is_over_and_does_not_spin() {
    let mut clocks = Clocks::new("2026-07-01T00:00:00Z");
    let mut slots = WallSlots::new(Some, NO_JITTER, clocks.0);
    assert!(slots.is_over());
    assert_eq!(slots.pass(clocks.pass(HOUR)), 0);
}

#[test]
fn what_is_missed_is_one_call_and_the_last_time_of_all_is_the_end() {
    let clocks = &mut Clocks::new("2026-07-01T00:00:00Z");
    let every = Every::cron("0 0 3 * * * 2026").expect("2026 is not over");
    let mut schedule = Schedule::new(&every, 0, clocks.0, || 0.0);
    assert!(matches!(schedule.next(clocks.0), Step::Wait(Some(_))));
    assert_eq!(schedule.next(clocks.set("2026-12-31T23:00:00Z")), Step::Call);
    assert_eq!((schedule.take_skipped(), schedule.next_due()), (183, None));
    assert_eq!(schedule.next(clocks.0), Step::Wait(None));
    assert_eq!(schedule.ended(clocks.0, false), None);
    assert_eq!(schedule.next(clocks.0), Step::Done);
}

#[test]
fn first_now_calls_once_more_than_the_expression_says() {
    let clocks = &mut Clocks::new("2026-07-01T00:00:00Z");
    let every = Every::cron("0 3 * * *").expect("it can be read").first(First::Now).overlap(Overlap::Queue);
    let mut schedule = Schedule::new(&every, 0, clocks.0, || 0.0);
    assert_eq!(schedule.next(clocks.0), Step::Call);
    assert_eq!(schedule.ended(clocks.0, false), None);
    assert_eq!(schedule.next(clocks.0), Step::Wait(Some(clocks.0.instant + MINUTE)));
    assert_eq!(schedule.next(clocks.pass(3 * HOUR)), Step::Call);
}
