//! Prints the rows that a dry run would write, one JSON object per line: `write` (`create`,
//! `update`, `delete`), `table`, `id`, `columns`.
//!
//! Each write is printed once. In a dry run, a copy of a message in another mailbox, or a second
//! message from the same new contact, writes the same row again. In a real import, the second write
//! finds the row of the first.

use std::collections::HashSet;
use std::io::{self, Write};

use mailverse::clients::dataverse::dry_run::{DryRun, NotedWrite};
use serde_json::{Value, json};

/// The rows of a dry run.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) dry_run: DryRun,
    printed: HashSet<(&'static str, String, String)>,
}

impl Rows {
    /// Prints the writes that were recorded since the last call.
    pub(super) fn print(&mut self, out: &mut impl Write) -> io::Result<()> {
        for noted in self.dry_run.take() {
            let (write, table, id) = named(&noted);
            if self.printed.insert((write, table.clone(), id.clone())) {
                let columns = Value::Object(noted.columns);
                let row = json!({"write": write, "table": table, "id": id, "columns": columns});
                writeln!(out, "{row}")?;
            }
        }
        Ok(())
    }
}

/// Returns the kind of a write (`create`, `update` or `delete`), the table and the id of the row.
fn named(noted: &NotedWrite) -> (&'static str, String, String) {
    let (set, id) = match noted.path.split_once('(') {
        Some((set, id)) => (set, Some(id.trim_end_matches(')').to_owned())),
        None => (noted.path.as_str(), None),
    };
    // All tables written here have a regular plural. Only the key of an activity is irregular.
    let table = set.strip_suffix('s').unwrap_or(set).to_owned();
    let key = match table.as_str() {
        "email" => "activityid".to_owned(),
        other => format!("{other}id"),
    };
    let own = noted.columns.get(&key).and_then(Value::as_str);
    let id = id.unwrap_or_else(|| own.unwrap_or_default().to_owned());
    let write = match noted.method.as_str() {
        "POST" => "create",
        "DELETE" => "delete",
        _ => "update",
    };
    (write, table, id)
}
