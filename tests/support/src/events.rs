//! The table of events in the documentation.

use std::collections::BTreeSet;

/// An event of the page: its level, its message and the names of its fields.
pub type Event = (String, String, BTreeSet<String>);

/// Returns the page.
///
/// # Panics
///
/// Panics if there is no such file.
#[must_use]
pub fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../src/docs/events.md");
    std::fs::read_to_string(path).expect("the page exists")
}

/// Returns the events of the rows `| level | message | fields | when |`.
#[must_use]
pub fn events_of_page(page: &str) -> Vec<Event> {
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", level, message, fields, _when, ""] = cells[..] else { return None };
        let level = level.strip_prefix('`')?.strip_suffix('`')?;
        let fields = fields.split(',').map(|field| field.trim().trim_matches('`').to_owned());
        Some((level.to_owned(), message.to_owned(), fields.filter(|field| !field.is_empty()).collect()))
    });
    rows.collect()
}
