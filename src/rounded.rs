//! [`rounded`], durations as people read them.

use std::time::Duration;

/// Rounds a duration for a text: to milliseconds, or to microseconds below one millisecond.
pub(crate) fn rounded(duration: Duration) -> Duration {
    let unit = if duration >= Duration::from_millis(1) { 1_000_000 } else { 1_000 };
    let nanos = duration.subsec_nanos();
    let to_next = unit - nanos % unit;
    match nanos % unit {
        0 => duration,
        rest if rest < unit / 2 => duration - Duration::from_nanos(rest.into()),
        // Near the greatest duration, it is rounded down.
        rest => {
            let up = duration.checked_add(Duration::from_nanos(to_next.into()));
            up.unwrap_or(duration - Duration::from_nanos(rest.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_to_what_people_read() {
        let texts = [0, 1, 1_499, 1_500, 999_999, 1_000_000, 1_499_999, 1_500_000, 12_345_678_901]
            .map(|nanos| format!("{:?}", rounded(Duration::from_nanos(nanos))));
        assert_eq!(texts, ["0ns", "0ns", "1µs", "2µs", "1ms", "1ms", "1ms", "2ms", "12.346s"]);
        assert_eq!(rounded(Duration::MAX), Duration::new(u64::MAX, 999_000_000));
    }
}
