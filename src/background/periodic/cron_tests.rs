//! Tests of cron expressions across clock changes, on a wall clock that the test sets.

use std::time::{Duration, Instant as Clock, SystemTime};

use jiff::Timestamp;
use tokio::time::Instant;

use super::calendar::{Calendar, Recurrence};
use super::clock::{ClockReading, DueTime};
use super::cron::{Cron, CronError};
use super::every::{Every, FirstCall, Overlap};
use super::schedule::{DueCall, Schedule, ScheduleStep};
use super::timetable::{Jitter, Timetable};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const NO_JITTER: Jitter = Jitter { max: Duration::ZERO, random: || 0.0 };

fn at(time: &str) -> SystemTime {
    time.parse::<Timestamp>().expect("the time is valid RFC 3339").into()
}

fn cron(expression: &str, time_zone: &str) -> Cron {
    let cron = Cron::new(expression, SystemTime::now()).expect("the expression is valid");
    cron.in_time_zone(time_zone).expect("the time zone exists")
}

/// Returns the next `count` times after the given one, as RFC 3339 in UTC.
fn times(cron: &Cron, after: &str, count: usize) -> Vec<String> {
    let next = std::iter::successors(Some(at(after)), |time| cron.next_after(*time)).skip(1).take(count);
    next.map(|time| Timestamp::try_from(time).expect("the time is in range").to_string()).collect()
}

fn parse_error(expression: &str) -> String {
    let error = Every::cron(expression).map(|_| ()).expect_err("the expression must be rejected");
    error.to_string()
}

#[test]
fn times_without_a_time_zone_are_in_utc() {
    let nightly = Cron::new("0 3 * * *", SystemTime::now()).expect("the expression is valid");
    assert_eq!(times(&nightly, "2026-07-01T00:00:00Z", 2), ["2026-07-01T03:00:00Z", "2026-07-02T03:00:00Z"]);
}

#[test]
fn time_zone_follows_daylight_saving_time() {
    let nightly = cron("0 3 * * *", "Europe/Berlin");
    assert_eq!(times(&nightly, "2026-01-01T00:00:00Z", 1), ["2026-01-01T02:00:00Z"]);
    assert_eq!(times(&nightly, "2026-07-01T00:00:00Z", 1), ["2026-07-01T01:00:00Z"]);
}

#[test]
fn daily_time_in_a_gap_is_due_right_after_the_gap() {
    // On 2026-03-29, the clock in Berlin jumps from 02:00 to 03:00 at 01:00 UTC.
    let nightly = cron("30 2 * * *", "Europe/Berlin");
    let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
    assert_eq!(times(&nightly, "2026-03-28T00:00:00Z", 3), expected);
}

#[test]
fn interval_times_in_a_gap_are_skipped() {
    let half_hours = cron("*/30 * * * *", "Europe/Berlin");
    let expected = ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"];
    assert_eq!(times(&half_hours, "2026-03-29T00:00:00Z", 3), expected);
    // On that day, the hour from 02:00 to 03:00 does not exist.
    let nightly = cron("30 1-3 * * *", "Europe/Berlin");
    let expected = ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T23:30:00Z"];
    assert_eq!(times(&nightly, "2026-03-29T00:00:00Z", 3), expected);
}

#[test]
fn daily_time_that_occurs_twice_is_due_only_the_first_time() {
    // On 2026-10-25, the clock in Berlin goes back from 03:00 to 02:00 at 01:00 UTC.
    let nightly = cron("30 2 * * *", "Europe/Berlin");
    let expected = ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
    assert_eq!(times(&nightly, "2026-10-24T12:00:00Z", 2), expected);
}

#[test]
fn interval_times_that_occur_twice_are_due_twice() {
    let half_hours = cron("*/30 * * * *", "Europe/Berlin");
    let expected = ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"];
    assert_eq!(times(&half_hours, "2026-10-25T00:00:00Z", 4), expected);
}

#[test]
fn gaps_of_half_an_hour_and_of_a_day_are_handled() {
    let lord_howe = cron("15 2 * * *", "Australia/Lord_Howe");
    assert_eq!(times(&lord_howe, "2026-10-03T12:00:00Z", 1), ["2026-10-03T15:30:00Z"]);
    // Samoa crossed the date line and skipped the 30th of December.
    let apia = cron("0 3 * * *", "Pacific/Apia");
    let expected = ["2011-12-29T13:00:00Z", "2011-12-30T13:00:00Z", "2011-12-31T13:00:00Z"];
    assert_eq!(times(&apia, "2011-12-29T12:00:00Z", 3), expected);
}

#[test]
fn time_within_the_second_of_a_match_does_not_match_again() {
    let nightly = cron("0 3 * * *", "UTC");
    let next = nightly.next_after(at("2026-07-01T03:00:00.4Z"));
    assert_eq!(next, Some(at("2026-07-02T03:00:00Z")));
    assert_eq!(nightly.next_after(at("2026-07-01T02:59:59.999Z")), Some(at("2026-07-01T03:00:00Z")));
}

#[test]
fn day_of_month_and_day_of_week_match_independently() {
    let either = cron("0 0 13 * FRI", "UTC");
    let expected = ["2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z", "2026-11-27T00:00:00Z"];
    assert_eq!(times(&either, "2026-11-12T00:00:00Z", 3), expected);
}

#[test]
fn invalid_expression_is_reported_with_its_problem() {
    for expression in ["", "0 3 * *", "60 * * * *", "0 25 * * *", "a b c d e", "0 0 * * MOO", "*/0 * * * *"] {
        let error = parse_error(expression);
        let start = format!("invalid cron expression {expression:?}: ");
        let problem = error.strip_prefix(&start).unwrap_or_else(|| panic!("{error}"));
        assert!(!problem.ends_with('.') && problem.chars().next().is_some_and(|c| !c.is_uppercase()), "{error}");
    }
    assert_eq!(parse_error(""), "invalid cron expression \"\": it is empty");
}

#[test]
fn expression_without_a_future_time_is_rejected_quickly() {
    let start = Clock::now();
    assert_eq!(
        parse_error("0 0 30 2 *"),
        "the cron expression \"0 0 30 2 *\" matches no future time: correct its day, month or year"
    );
    assert!(parse_error("0 0 0 1 1 * 2020").contains("matches no future time"));
    // An unoptimised build searches thousands of years: that is fast, but not free.
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(Every::cron("0 0 29 2 *").is_ok());
}

#[test]
fn time_zone_must_exist_and_is_rejected_for_intervals() {
    let unknown = Every::cron("0 3 * * *").and_then(|every| every.time_zone("Europe/Atlantis")).map(|_| ());
    let (expression, time_zone) = ("0 3 * * *".into(), "Europe/Atlantis".into());
    assert_eq!(unknown, Err(CronError::UnknownTimeZone { expression, time_zone }));
    let interval = Every::secs(60).time_zone("Europe/Berlin").map(|_| ());
    assert_eq!(interval, Err(CronError::NotCron { time_zone: "Europe/Berlin".into() }));
}

/// The monotonic clock and the wall clock, set by a test.
struct TestClocks(ClockReading);

impl TestClocks {
    fn new(wall: &str) -> Self {
        Self(ClockReading { instant: Instant::now(), wall: at(wall) })
    }

    fn advance(&mut self, time: Duration) -> ClockReading {
        self.0.instant += time;
        self.0.wall += time;
        self.0
    }

    /// Sets only the wall clock.
    fn set_wall(&mut self, wall: &str) -> ClockReading {
        self.0.wall = at(wall);
        self.0
    }
}

fn daily(now: ClockReading) -> Calendar<Cron> {
    Calendar::new(cron("0 3 * * *", "UTC"), NO_JITTER, now)
}

fn wall_time(time: &str) -> Option<DueTime> {
    Some(DueTime::Wall(at(time)))
}

fn due_at(time: &str) -> DueCall {
    DueCall { due: DueTime::Wall(at(time)), is_triggered: false }
}

#[test]
fn calendar_never_sleeps_longer_than_a_minute() {
    let mut clocks = TestClocks::new("2026-07-01T00:00:00Z");
    let calendar = daily(clocks.0);
    assert_eq!(calendar.wake_at(clocks.0), Some(clocks.0.instant + MINUTE));
    let now = clocks.advance(3 * HOUR - MINUTE / 2);
    assert_eq!(calendar.wake_at(now), Some(now.instant + MINUTE / 2));
    let late = clocks.advance(MINUTE);
    assert_eq!(calendar.wake_at(late), Some(late.instant));
}

#[test]
fn each_time_is_due_once() {
    let mut clocks = TestClocks::new("2026-07-01T00:00:00Z");
    let mut calendar = daily(clocks.0);
    assert_eq!(calendar.advance(clocks.advance(3 * HOUR - MINUTE)), 0);
    assert_eq!(calendar.advance(clocks.advance(MINUTE)), 1);
    assert_eq!(calendar.advance(clocks.advance(MINUTE)), 0);
    assert_eq!(calendar.next_due(), wall_time("2026-07-02T03:00:00Z"));
}

#[test]
fn clock_set_forward_makes_the_skipped_times_due() {
    let mut clocks = TestClocks::new("2026-07-01T00:00:00Z");
    let mut calendar = daily(clocks.0);
    assert_eq!(calendar.advance(clocks.set_wall("2026-07-04T12:00:00Z")), 4);
    assert_eq!(calendar.next_due(), wall_time("2026-07-05T03:00:00Z"));
}

#[test]
fn clock_set_back_a_little_repeats_nothing() {
    let mut clocks = TestClocks::new("2026-07-01T02:00:00Z");
    let mut calendar = daily(clocks.0);
    assert_eq!(calendar.advance(clocks.advance(HOUR)), 1);
    assert_eq!(calendar.advance(clocks.set_wall("2026-07-01T00:00:01Z")), 0);
    assert_eq!(calendar.next_due(), wall_time("2026-07-02T03:00:00Z"));
    assert_eq!(calendar.advance(clocks.set_wall("2026-07-01T04:00:00Z")), 0);
    assert_eq!(calendar.advance(clocks.set_wall("2026-07-02T03:00:00Z")), 1);
}

#[test]
fn clock_that_was_years_ahead_is_followed_when_set_back() {
    let mut clocks = TestClocks::new("2031-01-01T00:00:00Z");
    let mut calendar = daily(clocks.0);
    assert_eq!(calendar.advance(clocks.advance(3 * HOUR)), 1);
    assert_eq!(calendar.advance(clocks.set_wall("2026-07-01T00:00:00Z")), 0);
    assert_eq!(calendar.next_due(), wall_time("2026-07-01T03:00:00Z"));
    assert_eq!(calendar.advance(clocks.advance(3 * HOUR)), 1);
}

#[test]
fn clock_that_was_years_behind_counts_missed_times_quickly() {
    let clocks = &mut TestClocks::new("1971-01-01T00:00:00Z");
    let secondly = cron("* * * * * *", "UTC");
    let mut calendar = Calendar::new(secondly, NO_JITTER, clocks.0);
    let start = Clock::now();
    assert_eq!(calendar.advance(clocks.set_wall("2026-07-01T00:00:00Z")), 20_270 * 86_400);
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(calendar.next_due(), wall_time("2026-07-01T00:00:01Z"));
}

#[test]
fn jitter_delays_a_time_without_shifting_the_schedule() {
    let mut clocks = TestClocks::new("2026-07-01T00:00:00Z");
    let cron = cron("0 3 * * *", "UTC");
    let jitter = Jitter { max: 2 * MINUTE, random: || 0.5 };
    let mut calendar = Calendar::new(cron, jitter, clocks.0);
    assert_eq!(calendar.next_due(), wall_time("2026-07-01T03:01:00Z"));
    assert_eq!(calendar.advance(clocks.advance(3 * HOUR)), 0);
    assert_eq!(calendar.advance(clocks.advance(MINUTE)), 1);
    assert_eq!(calendar.next_due(), wall_time("2026-07-02T03:01:00Z"));
}

#[test]
fn calendar_that_does_not_advance_is_exhausted_and_does_not_spin() {
    struct Stuck;
    impl Recurrence for Stuck {
        fn next_after(&self, time: SystemTime) -> Option<SystemTime> {
            Some(time)
        }

        fn is_frequent(&self) -> bool {
            true
        }

        fn count(&self, _after: SystemTime, _until: SystemTime) -> (u64, Option<SystemTime>) {
            (0, None)
        }
    }

    let mut clocks = TestClocks::new("2026-07-01T00:00:00Z");
    let mut calendar = Calendar::new(Stuck, NO_JITTER, clocks.0);
    assert!(calendar.is_exhausted());
    assert_eq!(calendar.advance(clocks.advance(HOUR)), 0);
}

#[test]
fn missed_times_share_one_call_and_the_last_time_completes_the_schedule() {
    let clocks = &mut TestClocks::new("2026-07-01T00:00:00Z");
    let every = Every::cron("0 0 3 * * * 2026").expect("2026 is not over yet");
    let mut schedule = Schedule::new(&every, 0, clocks.0, || 0.0);
    assert!(matches!(schedule.next(clocks.0), ScheduleStep::Wait(Some(_))));
    // The last of them is the due time of the call.
    let late = clocks.set_wall("2026-12-31T23:00:00Z");
    assert_eq!(schedule.next(late), ScheduleStep::Call(due_at("2026-12-31T03:00:00Z")));
    assert_eq!(due_at("2026-12-31T03:00:00Z").due.lateness(late), 20 * HOUR);
    assert_eq!((schedule.take_skipped(), schedule.next_due()), (183, None));
    assert_eq!(schedule.next(clocks.0), ScheduleStep::Wait(None));
    assert_eq!(schedule.call_ended(clocks.0, false), None);
    assert_eq!(schedule.next(clocks.0), ScheduleStep::Done);
}

#[test]
fn first_call_now_adds_one_call_to_the_expression() {
    let clocks = &mut TestClocks::new("2026-07-01T00:00:00Z");
    let every =
        Every::cron("0 3 * * *").expect("the expression is valid").first_call(FirstCall::Now).overlap(Overlap::Queue);
    let mut schedule = Schedule::new(&every, 0, clocks.0, || 0.0);
    let first_call = DueCall { due: DueTime::Monotonic(clocks.0.instant), is_triggered: false };
    assert_eq!(schedule.next(clocks.0), ScheduleStep::Call(first_call));
    assert_eq!(schedule.call_ended(clocks.0, false), None);
    assert_eq!(schedule.next(clocks.0), ScheduleStep::Wait(Some(clocks.0.instant + MINUTE)));
    let call = due_at("2026-07-01T03:00:00Z");
    assert_eq!(schedule.next(clocks.advance(3 * HOUR)), ScheduleStep::Call(call));
}

#[test]
fn jitter_delays_a_call_and_leaves_its_due_time() {
    let clocks = &mut TestClocks::new("2026-07-01T00:00:00Z");
    let every = Every::cron("0 3 * * *").expect("the expression is valid").jitter(HOUR);
    let mut schedule = Schedule::new(&every, 0, clocks.0, || 0.5);
    assert_eq!(schedule.next_due(), wall_time("2026-07-01T03:30:00Z"));
    assert!(matches!(schedule.next(clocks.advance(3 * HOUR)), ScheduleStep::Wait(Some(_))));
    let call = due_at("2026-07-01T03:00:00Z");
    assert_eq!(schedule.next(clocks.advance(HOUR / 2)), ScheduleStep::Call(call));
}

/// The timetable of an expression in a time zone, and the clocks that it was created with.
fn timetable(expression: &str, time_zone: &str, wall: &str) -> (Box<dyn Timetable>, TestClocks) {
    let every = Every::cron(expression).expect("the expression is valid");
    let clocks = TestClocks::new(wall);
    let timetable = every.time_zone(time_zone).expect("the time zone exists").timetable(clocks.0, || 0.0);
    (timetable, clocks)
}

/// Vixie cron: jobs with a wildcard follow the new time at once.
#[test]
fn clock_set_back_a_little_holds_back_only_jobs_with_fixed_times() {
    let frequent = ["* * * * * *", "* * * * *", "*/5 * * * *", "0 * * * *", "@hourly", "30 */2 * * *", "* 3 * * *"];
    let fixed = ["0 3 * * *", "0,30 1-3 * * *", "0 0 1-4 * * *", "@daily"];
    for expression in frequent.into_iter().chain(fixed) {
        let (mut timetable, mut clocks) = timetable(expression, "UTC", "2026-07-01T00:00:00Z");
        assert!(timetable.advance(clocks.advance(3 * HOUR + HOUR / 2)) >= 1 || expression == "@daily", "{expression}");
        let now = clocks.set_wall("2026-07-01T00:31:00Z");
        assert_eq!(timetable.advance(now), 0, "{expression}");
        let next = timetable.next_due().and_then(|due| due.to_wall(now)).expect("there is a next time");
        let of_new_time = cron(expression, "UTC").next_after(now.wall).expect("there is a next time");
        let is_held_back = fixed.contains(&expression) && expression != "@daily";
        assert_eq!(next > of_new_time, is_held_back, "{expression}: {next:?}");
        if is_held_back {
            assert!(next > at("2026-07-01T03:30:00Z"), "{expression}: {next:?}");
        }
    }
}

#[test]
fn frequent_job_is_called_right_after_the_clock_was_set_back() {
    for (expression, interval) in [("* * * * * *", Duration::from_secs(1)), ("* * * * *", MINUTE)] {
        let (mut timetable, mut clocks) = timetable(expression, "UTC", "2026-07-01T12:00:00Z");
        assert_eq!(timetable.advance(clocks.advance(interval)), 1);
        assert_eq!(timetable.advance(clocks.set_wall("2026-07-01T09:02:00Z")), 0);
        assert_eq!(timetable.advance(clocks.advance(interval)), 1, "{expression}");
    }
}

#[test]
fn missed_times_are_all_counted_however_many_there_are() {
    let cases = [
        ("* * * * * *", "UTC", "2026-07-01T00:00:00Z", "2026-08-01T00:00:10Z", 31 * 86_400 + 10),
        ("* * * * *", "UTC", "2026-07-01T00:00:30Z", "2036-07-01T00:00:30Z", 3_653 * 1_440),
        ("*/20 */3 * * MON", "UTC", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", 52 * 24),
        // With the hour that is left out and the one that is repeated, a year is as long as elsewhere.
        ("* * * * *", "Europe/Berlin", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", 365 * 1_440),
        ("0 3 * * *", "Europe/Berlin", "2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z", 1_461),
        ("*/10 2-3 * * *", "Australia/Lord_Howe", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", 365 * 12 - 3),
    ];
    for (expression, time_zone, from, to, expected) in cases {
        let (mut timetable, mut clocks) = timetable(expression, time_zone, from);
        let start = Clock::now();
        let now = clocks.set_wall(to);
        assert_eq!(timetable.advance(now), expected, "{expression}");
        assert!(start.elapsed() < Duration::from_secs(10), "{expression} took {:?}", start.elapsed());
        let [last, next] = [timetable.last_due(), timetable.next_due()]
            .map(|due| due.and_then(|due| due.to_wall(now)).expect("there is a time before and after now"));
        assert!(last <= now.wall && now.wall < next, "{expression}");
        assert_eq!(cron(expression, time_zone).next_after(last), Some(next), "{expression}");
    }
}

#[test]
fn ranges_that_begin_and_end_on_sunday_mean_sunday() {
    for expression in
        ["0 0 * * SUN-SUN", "0 0 * * 0-SUN", "0 0 * * 7-sun", "0 0 * * SUN-7", "0 0 * * 7-7", "0 0 * * SUN"]
    {
        let expected = ["2026-07-05T00:00:00Z", "2026-07-12T00:00:00Z"];
        assert_eq!(times(&cron(expression, "UTC"), "2026-07-01T00:00:00Z", 2), expected, "{expression}");
    }
    let weekend = ["2026-07-03T00:00:00Z", "2026-07-04T00:00:00Z", "2026-07-05T00:00:00Z", "2026-07-10T00:00:00Z"];
    assert_eq!(times(&cron("0 0 * * FRI-SUN", "UTC"), "2026-07-01T00:00:00Z", 4), weekend);
    let second = ["2026-07-12T00:00:00Z", "2026-08-09T00:00:00Z"];
    assert_eq!(times(&cron("0 0 * * SUN#2", "UTC"), "2026-07-01T00:00:00Z", 2), second);
    assert_eq!(times(&cron("0 0 * * 0-7", "UTC"), "2026-07-01T00:00:00Z", 1), ["2026-07-02T00:00:00Z"]);
}

#[test]
fn nicknames_are_those_of_vixie_cron() {
    for (nickname, expression) in [
        ("@midnight", "0 0 * * *"),
        ("@daily", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@Yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
    ] {
        let [nickname_times, expected] =
            [nickname, expression].map(|text| times(&cron(text, "UTC"), "2026-07-01T00:00:00Z", 3));
        assert_eq!(nickname_times, expected, "{nickname}");
    }
}

#[test]
fn refusal_says_what_to_write() {
    for (expression, problem) in [
        ("@every 5m", "it is an interval: use Every::fixed_rate or Every::fixed_delay with a Duration"),
        ("@reboot", "it names no time: set a first call at once with FirstCall::Now"),
        (
            "@fortnightly",
            "unknown nickname: use @hourly, @daily, @midnight, @weekly, @monthly, @yearly or @annually, or five fields",
        ),
        (
            "TZ=Europe/Berlin 0 3 * * *",
            "it names a time zone: remove the prefix, and set the zone with Every::time_zone",
        ),
        ("CRON_TZ=UTC 0 3 * * *", "it names a time zone: remove the prefix, and set the zone with Every::time_zone"),
        ("0 0 * * 6-1", "the day of week runs backwards in 6-1: write 6-7,1"),
        ("0 0 * * SAT-TUE", "the day of week runs backwards in SAT-TUE: write 6-7,1-2"),
        ("0 0 * * 5-0", "the day of week runs backwards in 5-0: write 5-7"),
        ("0 0 * * 7-3", "the day of week runs backwards in 7-3: write 0-3"),
        ("0 22-3 * * *", "the hour runs backwards in 22-3: write 22-23,0-3"),
        ("0 0 1 nov-feb *", "the month runs backwards in NOV-FEB: write 11-12,1-2"),
        ("*/90 * * * *", "the step 90 of the minute is larger than its range 0-59: write 0, which is all it matches"),
        ("0 8-17/12 * * *", "the step 12 of the hour is larger than its range 8-17: write 8, which is all it matches"),
        ("0 0 * * */8", "the step 8 of the day of week is larger than its range 0-6: write 0, which is all it matches"),
        (
            "0 0 */40 * *",
            "the step 40 of the day of month is larger than its range 1-31: write 1, which is all it matches",
        ),
        ("1,,2 * * * *", "an empty value in the minute"),
    ] {
        assert_eq!(parse_error(expression), format!("invalid cron expression {expression:?}: {problem}"));
    }
    for expression in [
        "*/59 * * * *",
        "0 */23 * * *",
        "5-5/1 * * * *",
        "0 0 L * *",
        "0 0 15W * *",
        "0 0 * * FRI#L,5L",
        "0 0 13 * +FRI",
    ] {
        assert!(Every::cron(expression).is_ok(), "{expression}");
    }
}
