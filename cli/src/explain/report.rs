//! Prints what the ledger has about a message, as text or as JSON.

use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use mailverse::decision_record::{CandidatePart, DecisionRecord, PersonPart, RegardingPart, Row};
use mailverse::ledger::State;
use mailverse::ledger::decisions::{DecidedRow, StoredMessage};
use serde_json::{Value, json};

use super::addresses::Names;
use crate::terminal::printable;

/// Returns the stored state and decision of a message, never with addresses.
///
/// If our row was replaced by another client's row, `decision.row` is `gave_way` instead of
/// `ours`.
pub(super) fn json(stored_message: &StoredMessage) -> Value {
    // Passed through as it is stored, so that fields of a later build are not lost.
    let decision = stored_message.decision.as_deref();
    let mut decision: Option<Value> = decision.and_then(|text| serde_json::from_str(text).ok());
    if stored_message.replaced_row.is_some()
        && let Some(row) = decision.as_mut().and_then(|it| it.get_mut("row"))
        && *row == json!(DecidedRow::Ours)
    {
        *row = json!("gave_way");
    }
    json!({
        "grant_id": stored_message.key.grant_id,
        "message_id": stored_message.key.message_id,
        "state": stored_message.entry.state.as_str(),
        "given_up": stored_message.entry.claimable,
        "reason": stored_message.entry.reason,
        "attempts": stored_message.entry.attempts,
        "since": stored_message.since.map(rfc3339),
        "until": stored_message.until.map(rfc3339),
        "changed_at": stored_message.changed_at.map(rfc3339),
        "activity_id": stored_message.entry.activity_id,
        "gave_way": stored_message.replaced_row,
        "decision": decision,
    })
}

/// Prints the state and the decision of a message.
pub(super) fn print(
    out: &mut impl Write,
    stored_message: &StoredMessage,
    names: &Names,
) -> io::Result<()> {
    writeln!(out, "{}", printable(&stored_message.key.to_string()))?;
    line(out, "state", &state(stored_message))?;
    if let Some(reason) = &stored_message.entry.reason {
        line(out, "reason", &printable(reason))?;
    }
    if let Some(row) = stored_message.entry.activity_id {
        line(out, "row", &format!("email {row}"))?;
    }
    if let Some(ours) = stored_message.replaced_row {
        let text = format!("written by another client; it replaced our email {ours}");
        line(out, "", &text)?;
    }
    match stored_message
        .decision
        .as_deref()
        .map(DecisionRecord::parse)
    {
        None => line(out, "decision", "not recorded")?,
        Some(Err(_)) => line(
            out,
            "decision",
            "recorded in a form that this version cannot read",
        )?,
        Some(Ok(record)) => print_decision(out, &record, names)?,
    }
    writeln!(out)
}

fn state(stored_message: &StoredMessage) -> String {
    let entry = &stored_message.entry;
    let mut text = entry.state.as_str().to_owned();
    if entry.state == State::Dead && entry.claimable {
        text.push_str(" (given up)");
    }
    let times = [
        (
            "since",
            stored_message.since.filter(|_| entry.activity_id.is_none()),
        ),
        ("until", stored_message.until),
        ("last change", stored_message.changed_at),
    ];
    for (what, time) in times {
        if let Some(time) = time {
            text.push_str(&format!(", {what} {}", readable(time)));
        }
    }
    let tries = if entry.attempts == 1 { "try" } else { "tries" };
    format!("{text}, {} {tries}", entry.attempts)
}

fn print_decision(out: &mut impl Write, record: &DecisionRecord, names: &Names) -> io::Result<()> {
    let at = DateTime::from_timestamp(record.at, 0).map_or_else(String::new, readable);
    let version = printable(&record.policy.version);
    let revision = match record.policy.revision {
        0 => String::new(),
        revision => format!(", revision {revision}"),
    };
    line(out, "decided", &format!("{at}, policy {version}{revision}"))?;
    for asked in &record.policy.path {
        line(
            out,
            "",
            &format!("{} {}", printable(&asked.rule), printable(&asked.answer)),
        )?;
    }
    if let Some(direction) = &record.direction {
        line(out, "direction", &printable(direction))?;
    }
    if record.row == DecidedRow::Found {
        line(out, "", "the row existed before: another decision wrote it")?;
    }
    let mut label = "people";
    for person in &record.people {
        line(out, label, &described(person, names))?;
        label = "";
    }
    if !record.people.is_empty() && !names.missing().is_empty() {
        line(out, "", &format!("({})", names.missing()))?;
    }
    if let Some(regarding) = &record.regarding {
        print_regarding(out, regarding)?;
    }
    if !record.made.is_empty() {
        line(out, "created", &rows(&record.made))?;
    }
    for (what, count) in &record.omissions {
        line(out, "left out", &format!("{count} × {}", printable(what)))?;
    }
    let lost = &record.left_out;
    if !lost.is_nothing() {
        let (candidates, made, people) = (lost.candidates, lost.made, lost.people);
        let text = format!(
            "not recorded, because the record is full: {people} people, {candidates} candidates, {made} created rows"
        );
        line(out, "", &text)?;
    }
    Ok(())
}

/// Describes a person: `to 2 (ada@ours.example): contact/… (only, exact); also contact/…`.
fn described(person: &PersonPart, names: &Names) -> String {
    let mut text = format!("{} {}", printable(&person.role), person.place + 1);
    if let Some(address) = names.at(&person.role, person.place) {
        text.push_str(&format!(" ({})", printable(address)));
    }
    text.push_str(": ");
    if person.chosen.is_empty() {
        text.push_str("address only");
    } else {
        text.push_str(&rows(&person.chosen));
    }
    let how: Vec<String> = [&person.choice, &person.matched]
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| printable(part))
        .collect();
    if !how.is_empty() {
        text.push_str(&format!(" ({})", how.join(", ")));
    }
    if !person.others.is_empty() {
        text.push_str(&format!("; also {}", rows(&person.others)));
    }
    text
}

fn print_regarding(out: &mut impl Write, regarding: &RegardingPart) -> io::Result<()> {
    let chosen = regarding.chosen.as_ref().map_or_else(
        || "nothing".to_owned(),
        |chosen| {
            let parent = chosen.parent.map_or_else(String::new, |parent| {
                format!(", an answer to email/{parent}")
            });
            let by = if chosen.source.is_empty() {
                String::new()
            } else {
                format!(" by {}", printable(&chosen.source))
            };
            format!("{}{by}{parent}", printable(&chosen.record.0))
        },
    );
    line(out, "regarding", &chosen)?;
    for candidate in &regarding.candidates {
        line(out, "", &evidence(candidate))?;
    }
    Ok(())
}

/// Describes a candidate for the regarding: `thread: hit opportunity/…, seen in email/…`.
fn evidence(candidate: &CandidatePart) -> String {
    let mut text = format!(
        "{}: {}",
        printable(&candidate.source),
        printable(&candidate.outcome)
    );
    if !candidate.records.is_empty() {
        text.push_str(&format!(" {}", rows(&candidate.records)));
    }
    let emails: Vec<String> = candidate
        .emails
        .iter()
        .map(|id| format!("email/{id}"))
        .collect();
    if !emails.is_empty() {
        text.push_str(&format!(", seen in {}", emails.join(", ")));
    }
    text
}

fn rows(rows: &[Row]) -> String {
    let names: Vec<String> = rows.iter().map(|row| printable(&row.0)).collect();
    names.join(", ")
}

fn line(out: &mut impl Write, label: &str, text: &str) -> io::Result<()> {
    writeln!(out, "  {label:<10} {text}")
}

fn readable(time: DateTime<Utc>) -> String {
    time.format("%F %T UTC").to_string()
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
