//! The report of `mailverse status`, as a table or as one JSON object.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use mailverse::ledger::State;
use mailverse::ledger::attention_index::Attention;
use mailverse::ledger::pauses::Pause;
use serde_json::{Value, json};

use super::age::Age;
use crate::terminal::printable;

/// Width of the table in columns if the output is not a terminal.
const WIDTH: u16 = 100;

/// What needs attention. Each list starts with the oldest.
pub(crate) struct Report {
    pub(crate) dead: Vec<Attention>,
    pub(crate) waiting: Vec<Attention>,
    /// Messages that have waited for less time than this are not in `waiting`.
    pub(crate) older_than: Age,
    /// The time until which nothing is sent to Dataverse as the first application user; `None`
    /// without a pause.
    pub(crate) paused_until: Option<DateTime<Utc>>,
    /// The services that refuse every request, with the cause: `dataverse`, `dataverse#` and a
    /// user, `nylas`, or `nylas#` and a grant id.
    pub(crate) refused: Vec<(String, Pause)>,
}

impl Report {
    /// Returns whether nothing needs attention. A pause alone does not need any.
    pub(crate) fn is_quiet(&self) -> bool {
        self.dead.is_empty() && self.waiting.is_empty() && self.refused.is_empty()
    }

    /// Returns the first `limit` messages. Dead ones come first, because only an operator can help
    /// them.
    fn listed(&self, limit: usize) -> impl Iterator<Item = &Attention> {
        self.dead.iter().chain(&self.waiting).take(limit)
    }

    pub(crate) fn json(&self, limit: usize) -> Value {
        let message = |one: &Attention| {
            json!({
                "grant_id": one.key.grant_id,
                "message_id": one.key.message_id,
                "state": one.entry.state.as_str(),
                "given_up": one.entry.claimable,
                "since": rfc3339(one.since),
                "attempts": one.entry.attempts,
                "reason": one.entry.reason,
            })
        };
        let refused = |(who, pause): &(String, Pause)| {
            json!({
                "who": who,
                "cause": pause.refused.cause,
                "pauses": pause.refused.times,
                "next_probe": pause.until.map(rfc3339),
            })
        };
        let mut report = json!({
            "dead": self.dead.len(),
            "waiting": self.waiting.len(),
            "older_than_seconds": self.older_than.time().num_seconds(),
            "dataverse_paused_until": self.paused_until.map(rfc3339),
            "messages": self.listed(limit).map(message).collect::<Vec<_>>(),
        });
        let refused: Vec<Value> = self.refused.iter().map(refused).collect();
        if let (Some(report), false) = (report.as_object_mut(), refused.is_empty()) {
            report.insert("refused".to_owned(), Value::Array(refused));
        }
        report
    }

    pub(crate) fn print(&self, out: &mut impl Write, limit: usize) -> io::Result<()> {
        let listed = self.listed(limit).count();
        if listed > 0 {
            writeln!(out, "{}", self.table(limit))?;
        }
        for (who, pause) in &self.refused {
            writeln!(out, "{}", refused_line(who, pause))?;
        }
        let is_refused = self.refused.iter().any(|(who, _)| who == "dataverse");
        if let Some(until) = self.paused_until.filter(|_| !is_refused) {
            writeln!(
                out,
                "Dataverse asked for a pause: nothing is sent before {} UTC.",
                until.format("%F %T")
            )?;
        }
        writeln!(out, "{}", self.last_line(listed))
    }

    fn table(&self, limit: usize) -> Table {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_FULL)
            .set_content_arrangement(ContentArrangement::Dynamic);
        if !table.is_tty() {
            table.set_width(WIDTH);
        }
        table.set_header(["since (UTC)", "state", "tries", "mailbox/message, and why"]);
        // The ids get all the remaining width: an id that is wrapped cannot be copied.
        for column in [0, 1, 2] {
            if let Some(column) = table.column_mut(column) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table.add_rows(self.listed(limit).map(cells));
        table
    }

    /// Returns the totals and what to do next.
    fn last_line(&self, listed: usize) -> String {
        let (dead, waiting, age) = (self.dead.len(), self.waiting.len(), self.older_than);
        if self.is_quiet() {
            return format!(
                "Nothing needs attention: no message is dead or has been waiting for longer than {age}."
            );
        }
        if dead + waiting == 0 {
            return "No message is dead. Messages wait until the problem above is fixed."
                .to_owned();
        }
        let mut line = format!("{dead} dead, {waiting} waiting for longer than {age}");
        if listed < dead + waiting {
            line.push_str(&format!("; {listed} shown (--limit)"));
        }
        line.push_str(if dead > 0 {
            ". Once the cause is fixed: mailverse redrive --all, or MESSAGE…"
        } else {
            ". Fix what the reasons name: the messages are retried automatically."
        });
        line
    }
}

/// Returns which service refuses, why, and when it is tried again.
fn refused_line(who: &str, pause: &Pause) -> String {
    let what = match who.split_once('#') {
        None if who == "dataverse" => "Dataverse refuses every request".to_owned(),
        Some(("dataverse", user)) => format!("Dataverse refuses every request of user {user}"),
        Some((_, grant)) => format!("Nylas refuses access to mailbox {grant}"),
        None => "Nylas refuses the API key".to_owned(),
    };
    let cause = pause.refused.cause.as_deref().unwrap_or_default();
    let probe = pause.until.map_or_else(String::new, |until| {
        format!(
            "\n  Messages wait and none is lost. Next attempt: {} UTC.",
            until.format("%F %T")
        )
    });
    format!("{}: {}.{probe}", printable(&what), printable(cause))
}

fn cells(one: &Attention) -> [String; 4] {
    let state = match (one.entry.state, one.entry.claimable) {
        (State::Dead, false) => "dead\nrefused",
        (State::Dead, true) => "dead\ngiven up",
        (state, _) => state.as_str(),
    };
    let reason = one.entry.reason.as_deref();
    // No reason yet: a worker is processing the message, or died while it did.
    let reason = reason.unwrap_or("no attempt has finished yet");
    [
        one.since.format("%F %H:%M").to_string(),
        state.to_owned(),
        one.entry.attempts.to_string(),
        format!("{}\n{}", printable(&one.key.to_string()), printable(reason)),
    ]
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
