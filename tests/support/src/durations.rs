//! Durations in texts: [`is_rounded`].

/// Returns `true` if a text starts with a duration as people read it: with at most milliseconds, or below one with at most
/// microseconds. Returns `None` if the text starts with no duration.
pub fn is_rounded(text: &str) -> Option<bool> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(end);
    let number_of_digits = number.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    number.starts_with(|c: char| c.is_ascii_digit()).then_some(())?;
    let unit = rest.split(|c: char| !c.is_alphabetic()).next()?;
    match unit {
        "s" => Some(number_of_digits <= 3),
        "ms" | "µs" | "ns" => Some(number_of_digits == 0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::is_rounded;

    #[test]
    fn rounded_durations_differ_from_others() {
        for (text, expected) in [
            ("30s after 1", Some(true)),
            ("1.234s", Some(true)),
            ("1.2345s", Some(false)),
            ("2ms: try", Some(true)),
            ("2.1ms", Some(false)),
            ("7µs", Some(true)),
            ("7.5µs", Some(false)),
            ("7", None),
            ("7 shops", None),
            ("onelane", None),
        ] {
            assert_eq!(is_rounded(text), expected, "{text}");
        }
    }
}
