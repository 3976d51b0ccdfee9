//! The page of events lists every event of the source, with its level and its fields, and no other.

use std::collections::BTreeSet;

use support::events::{Event, events_of_page, page};

use crate::sources::sources_of;

/// Splits the arguments of a macro at the commas that are outside strings and brackets. Ignores the text behind the
/// macro.
fn arguments(text: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut is_string) = (vec![String::new()], 0, false);
    for character in text.chars() {
        match character {
            '"' => is_string = !is_string,
            '(' | '[' | '{' if !is_string => depth += 1,
            ')' if !is_string && depth == 0 => break,
            ')' | ']' | '}' if !is_string => depth -= 1,
            _ => {}
        }
        if character == ',' && !is_string && depth == 0 {
            arguments.push(String::new());
        } else {
            arguments.last_mut().expect("there is an argument").push(character);
        }
    }
    arguments.into_iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

/// Returns the events of a file: its calls of `emit!`.
fn events_of_source(text: &str) -> Vec<Event> {
    let calls = text.split("emit!(").skip(1).map(|rest| {
        let arguments = arguments(rest);
        let [level, fields @ .., message] = &arguments[..] else { panic!("an event has a message: {arguments:?}") };
        let name = |field: &String| {
            field.split(['=', '%', '?']).map(str::trim).find(|part| !part.is_empty()).map(str::to_owned)
        };
        let fields = fields.iter().filter_map(name).collect();
        (level.clone(), message.trim_matches('"').to_owned(), fields)
    });
    calls.collect()
}

#[test]
fn page_lists_exactly_the_events_of_the_source() {
    let sources = sources_of("src");
    let files = sources.iter().filter(|source| source.path.ends_with("/trace.rs"));
    let emitted: BTreeSet<Event> = files.flat_map(|source| events_of_source(&source.text)).collect();
    let rows = events_of_page(&page());
    let listed: BTreeSet<Event> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), listed.len(), "an event is listed twice");
    assert!(emitted.len() > 40, "{emitted:?}");
    let missing: Vec<&Event> = emitted.difference(&listed).collect();
    assert!(missing.is_empty(), "the page lacks {missing:#?}");
    let unknown: Vec<&Event> = listed.difference(&emitted).collect();
    assert!(unknown.is_empty(), "the source lacks {unknown:#?}");
}

#[test]
fn events_are_emitted_in_files_of_their_own() {
    let macros = ["event!(", "error!(", "warn!(", "info!(", "debug!(", "trace!(", "emit!("];
    let is_event = |line: &str| macros.iter().any(|name| line.contains(name) && !line.contains("debug!(["));
    let others: Vec<String> = sources_of("src")
        .iter()
        .filter(|source| !source.path.ends_with("trace.rs"))
        .flat_map(|source| {
            source.lines_where(is_event).filter(|line| !line.contains("impl_debug!")).collect::<Vec<_>>()
        })
        .collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn reading_of_events_sees_every_part() {
    let source = r#"emit!(WARN, guard, key_hash = hash(), ?a, %b, "one, two: {three}"); emit!(INFO, "four");"#;
    let fields = ["a", "b", "guard", "key_hash"].map(str::to_owned);
    let expected = [
        ("WARN".to_owned(), "one, two: {three}".to_owned(), BTreeSet::from(fields)),
        ("INFO".to_owned(), "four".to_owned(), BTreeSet::new()),
    ];
    assert_eq!(events_of_source(source), expected);
    let page = "| level | message | fields | when |\n|---|---|---|---|\n\
        | `WARN` | one, two: {three} | `a`, `b`, `guard`, `key_hash` | always |\n| `INFO` | four | | never |\n";
    assert_eq!(events_of_page(page), expected);
}
