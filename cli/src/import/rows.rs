//! What a dry run would have written, a JSON object a line: `write` (`create`, `update`, `delete`), `table`, `id`, `columns`.
//!
//! Each write once. A copy of a mail in another mailbox, or somebody whom two mails would make a contact, names the same row again; in earnest the
//! second finds the first.

use std::collections::HashSet;
use std::io::{self, Write};

use mailverse::dataverse::rehearsal::{NotedWrite, Rehearsal};
use serde_json::{Value, json};

/// The rows of a dry run.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) rehearsal: Rehearsal,
    printed: HashSet<(&'static str, String, String)>,
}

impl Rows {
    /// Prints what was noted since the last time.
    pub(super) fn print(&mut self, out: &mut impl Write) -> io::Result<()> {
        for noted in self.rehearsal.take() {
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

/// What a write does, to which table, to which row.
fn named(noted: &NotedWrite) -> (&'static str, String, String) {
    let (set, id) = match noted.path.split_once('(') {
        Some((set, id)) => (set, Some(id.trim_end_matches(')').to_owned())),
        None => (noted.path.as_str(), None),
    };
    // Of all tables that are written here, the plural is regular, and the key of an activity is the only irregular one.
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
