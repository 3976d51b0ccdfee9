//! [`rewrite`], which checks the fields of a cron expression before croner parses them: croner accepts some that mean
//! something else than they say, and refuses others without saying what to write.

/// A field, and the range of its values.
struct Field {
    name: &'static str,
    min: u16,
    max: u16,
}

const fn field(name: &'static str, min: u16, max: u16) -> Field {
    Field { name, min, max }
}

/// Sunday is 0 and 7.
const WEEKDAY: usize = 5;
const SUNDAY: u16 = 7;

const FIELDS: [Field; 7] = [
    field("second", 0, 59),
    field("minute", 0, 59),
    field("hour", 0, 23),
    field("day of month", 1, 31),
    field("month", 1, 12),
    field("day of week", 0, 6),
    field("year", 1, 5000),
];

const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];

/// Returns the expression as croner takes it, or what is wrong with it. Croner reports what is not found here.
pub(super) fn rewrite(expression: &str) -> Result<String, String> {
    let expression = expression.trim().to_uppercase();
    if expression.starts_with('@') {
        return nickname(&expression);
    }
    if expression.starts_with("TZ=") || expression.starts_with("CRON_TZ=") {
        return Err("it names a time zone: remove the prefix, and set the zone with Every::time_zone".to_owned());
    }
    let texts: Vec<&str> = expression.split_whitespace().collect();
    if !(5..=7).contains(&texts.len()) {
        return Ok(expression);
    }
    // The field of the seconds is optional.
    let first = usize::from(texts.len() == 5);
    let rewritten: Result<Vec<String>, String> =
        texts.iter().enumerate().map(|(i, text)| rewrite_field(first + i, text)).collect();
    Ok(rewritten?.join(" "))
}

fn nickname(name: &str) -> Result<String, String> {
    let expression = match name {
        "@YEARLY" | "@ANNUALLY" => "0 0 1 1 *",
        "@MONTHLY" => "0 0 1 * *",
        "@WEEKLY" => "0 0 * * 0",
        "@DAILY" | "@MIDNIGHT" => "0 0 * * *",
        "@HOURLY" => "0 * * * *",
        "@REBOOT" => return Err("it names no time: set a first call at once with FirstCall::Now".to_owned()),
        _ if name.starts_with("@EVERY") => {
            return Err("it is an interval: use Every::fixed_rate or Every::fixed_delay with a Duration".to_owned());
        }
        _ => {
            let known = "@hourly, @daily, @midnight, @weekly, @monthly, @yearly or @annually";
            return Err(format!("unknown nickname: use {known}, or five fields"));
        }
    };
    Ok(expression.to_owned())
}

fn rewrite_field(index: usize, text: &str) -> Result<String, String> {
    let Some(field) = FIELDS.get(index) else { return Ok(text.to_owned()) };
    // In a day of week, croner reads a leading `+` as "and".
    let (prefix, list) = text.split_at(usize::from(index == WEEKDAY && text.starts_with('+')));
    let parts: Result<Vec<String>, String> = list.split(',').map(|part| rewrite_part(index, field, part)).collect();
    Ok(format!("{prefix}{}", parts?.join(",")))
}

/// Rewrites one element of a list: a value, a range, each with a step or a `#`.
fn rewrite_part(index: usize, field: &Field, part: &str) -> Result<String, String> {
    if part.is_empty() {
        return Err(format!("an empty value in the {}", field.name));
    }
    let suffix_at = part.find(['/', '#']).unwrap_or(part.len());
    let (range, suffix) = part.split_at(suffix_at);
    let bounds = match range.split_once('-') {
        _ if range == "*" => Some((field.min, field.max)),
        Some((start, end)) => value(index, start).zip(value(index, end)),
        None => None,
    };
    let Some((start, mut end)) = bounds else { return Ok(part.to_owned()) };
    let ends_on_sunday = index == WEEKDAY && range.ends_with("-SUN");
    let begins_on_sunday = index == WEEKDAY && (start == 0 || start == SUNDAY);
    let is_sunday = begins_on_sunday && (ends_on_sunday || range == "SUN-7");
    if is_sunday {
        end = start;
    } else if ends_on_sunday {
        end = SUNDAY;
    }
    if start > end {
        return Err(format!(
            "the {} runs backwards in {range}: write {}",
            field.name,
            forwards(index, field, start, end)
        ));
    }
    let step = suffix.strip_prefix('/').and_then(|step| step.parse::<u16>().ok());
    if let Some(step) = step.filter(|step| *step > 1 && *step > end - start) {
        let problem = format!("the step {step} of the {} is larger than its range {start}-{end}", field.name);
        return Err(format!("{problem}: write {start}, which is all it matches"));
    }
    Ok(if is_sunday { format!("0{suffix}") } else { part.to_owned() })
}

/// Returns a number or the number of a name.
fn value(index: usize, text: &str) -> Option<u16> {
    let (names, first): (&[&str], u16) = match index {
        WEEKDAY => (&WEEKDAYS, 0),
        4 => (&MONTHS, 1),
        _ => (&[], 0),
    };
    let of_name = || (first..).zip(names).find(|(_, name)| **name == text).map(|(number, _)| number);
    text.parse().ok().or_else(of_name)
}

/// Writes a range that runs over the end of its field as two.
fn forwards(index: usize, field: &Field, start: u16, end: u16) -> String {
    let range = |start: u16, end: u16| if start == end { start.to_string() } else { format!("{start}-{end}") };
    match index {
        WEEKDAY if start == SUNDAY => range(0, end),
        WEEKDAY if end == 0 => range(start, SUNDAY),
        WEEKDAY => format!("{},{}", range(start, SUNDAY), range(1, end)),
        _ => format!("{},{}", range(start, field.max), range(field.min, end)),
    }
}
