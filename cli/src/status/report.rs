//! What needs attention, as a table for people or as one JSON object for programs.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use mailverse::dedupe::State;
use mailverse::dedupe::attention::Attention;
use mailverse::dedupe::pause::Pause;
use serde_json::{Value, json};

use super::age::Age;
use crate::terminal::printable;

/// Width of the table where there is no terminal to ask.
const WIDTH: u16 = 100;

/// What needs attention, each kind with the oldest first.
pub(crate) struct Report {
    pub(crate) dead: Vec<Attention>,
    pub(crate) waiting: Vec<Attention>,
    /// Younger ones are not in `waiting`.
    pub(crate) older_than: Age,
    /// Until when nothing is sent to Dataverse.
    pub(crate) paused_until: Option<DateTime<Utc>>,
    /// Who is refused whatever is asked, and why: `dataverse`, `nylas`, `nylas#` and a grant id.
    pub(crate) refused: Vec<(String, Pause)>,
}

impl Report {
    pub(crate) fn is_quiet(&self) -> bool {
        self.dead.is_empty() && self.waiting.is_empty() && self.refused.is_empty()
    }

    /// The first `limit` messages. The dead come first, since nobody but a person helps them.
    fn listed(&self, limit: usize) -> impl Iterator<Item = &Attention> {
        self.dead.iter().chain(&self.waiting).take(limit)
    }

    pub(crate) fn json(&self, limit: usize) -> Value {
        let message = |one: &Attention| {
            json!({
                "grant_id": one.key.grant_id,
                "message_id": one.key.message_id,
                "state": one.entry.state.as_str(),
                "given_up": one.entry.gave_up,
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
                "Dataverse asked for a pause: nothing is sent to it before {} UTC.",
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
        // All room that is left belongs to the ids: one that is broken in two cannot be copied.
        for column in [0, 1, 2] {
            if let Some(column) = table.column_mut(column) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table.add_rows(self.listed(limit).map(cells));
        table
    }

    /// How many there are, and what to do.
    fn last_line(&self, listed: usize) -> String {
        let (dead, waiting, age) = (self.dead.len(), self.waiting.len(), self.older_than);
        if self.is_quiet() {
            return format!(
                "Nothing needs attention: no message is dead, and none has been waiting for longer than {age}."
            );
        }
        if dead + waiting == 0 {
            return "No message is dead. Mail waits until the refusal above is mended.".to_owned();
        }
        let mut line = format!("{dead} dead, {waiting} waiting for longer than {age}");
        if listed < dead + waiting {
            line.push_str(&format!("; {listed} shown (--limit)"));
        }
        line.push_str(if dead > 0 {
            ". Once mended: mailverse redrive --all, or MESSAGE…"
        } else {
            ". Mend what the reasons name: they are tried again by themselves."
        });
        line
    }
}

/// Who refuses, why, and when that is looked at again.
fn refused_line(who: &str, pause: &Pause) -> String {
    let what = match who.split_once('#') {
        None if who == "dataverse" => "Dataverse refuses all mail".to_owned(),
        Some(("dataverse", user)) => format!("Dataverse refuses all mail of user {user}"),
        Some((_, grant)) => format!("Nylas refuses the mailbox {grant}"),
        None => "Nylas refuses the API key".to_owned(),
    };
    let cause = pause.refused.cause.as_deref().unwrap_or_default();
    let probe = pause.until.map_or_else(String::new, |until| {
        format!(
            "\n  It waits, and none is lost. Next probe: {} UTC.",
            until.format("%F %T")
        )
    });
    format!("{}: {}.{probe}", printable(&what), printable(cause))
}

fn cells(one: &Attention) -> [String; 4] {
    let state = match (one.entry.state, one.entry.gave_up) {
        (State::Dead, false) => "dead\nrefused",
        (State::Dead, true) => "dead\ngiven up",
        (state, _) => state.as_str(),
    };
    let reason = one.entry.reason.as_deref();
    // Nothing has failed yet: a worker is at it, or died on it.
    let reason = reason.unwrap_or("no try has come to an end");
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
