//! The report of `mailverse import`, as text or as one JSON object. It has positions, ids, states
//! and reasons, but no content.

use std::collections::BTreeMap;
use std::io::{self, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use mailverse::ledger::{Entry, State};
use mailverse::model::ids::MessageKey;
use mailverse::pipeline::Processed;
use mailverse::pipeline::contact_import::CardOutcome;
use serde_json::{Value, json};

use super::saved_files::SavedFile;
use crate::terminal::printable;

/// How many notes the text shows at most; `--json` has them all.
const MOST_LINES: usize = 50;

/// The position of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    /// The index of its file in the order of the command line, from 0.
    pub(super) file: usize,
    /// The index of the object in its file, from 0.
    pub(super) index: usize,
}

/// The numbers of messages by outcome.
#[derive(Default)]
pub(super) struct Messages {
    written: usize,
    there_before: usize,
    skipped: BTreeMap<String, usize>,
    waiting: usize,
    dead: usize,
    pub(super) repeated: usize,
    pub(super) not_imported: usize,
}

/// The numbers of contacts by outcome.
#[derive(Default)]
pub(super) struct People {
    pub(super) created: usize,
    pub(super) filled: usize,
    pub(super) complete: usize,
    pub(super) merged: usize,
    pub(super) ambiguous: usize,
    pub(super) internal: usize,
    pub(super) role: usize,
    pub(super) known: usize,
    pub(super) without_address: usize,
    /// Contacts of mailboxes that do not take part.
    pub(super) excluded: usize,
    pub(super) failed: usize,
}

struct Note {
    at: At,
    key: Option<MessageKey>,
    outcome: &'static str,
    reason: String,
}

impl Note {
    /// Returns whether the text shows the note: the object was not imported as expected.
    fn is_problem(&self) -> bool {
        !matches!(self.outcome, "filled" | "merged" | "inside")
    }
}

/// The outcome of an import.
pub(super) struct Report {
    files: Vec<String>,
    pub(super) messages: Messages,
    pub(super) people: People,
    /// Objects that are neither messages nor contacts.
    others: usize,
    notes: Vec<Note>,
    /// The service that asked for a pause, and when the pause ends.
    pause: Option<(&'static str, DateTime<Utc>)>,
    /// The number of objects that were not processed because of the pause.
    left: usize,
    /// Whether Dataverse rejected an overridden created-on.
    pub(super) created_on_refused: bool,
}

impl Report {
    /// Starts the report with the objects that are neither messages nor contacts.
    pub(super) fn new(files: &[SavedFile]) -> Self {
        let name = |file: &SavedFile| file.path.display().to_string();
        let mut report = Self {
            files: files.iter().map(name).collect(),
            messages: Messages::default(),
            people: People::default(),
            others: 0,
            notes: Vec::new(),
            pause: None,
            left: 0,
            created_on_refused: false,
        };
        for (file, saved) in files.iter().enumerate() {
            for index in saved.others() {
                report.others += 1;
                let why = "it is neither a message nor a contact, or not valid JSON";
                report.note(At { file, index }, "not imported", why);
            }
        }
        report
    }

    /// Returns whether every object was imported or skipped by a rule.
    pub(super) fn is_success(&self) -> bool {
        let Messages {
            waiting,
            dead,
            not_imported,
            ..
        } = self.messages;
        let people = self.people.failed + self.people.excluded;
        let lost = waiting + dead + not_imported + people + self.others + self.left;
        lost == 0 && self.pause.is_none()
    }

    /// Adds a note about an object.
    pub(super) fn note(&mut self, at: At, outcome: &'static str, reason: &str) {
        self.push(at, None, outcome, reason);
    }

    /// Adds a note about a message whose key is known.
    pub(super) fn about(&mut self, at: At, key: &MessageKey, outcome: &'static str, reason: &str) {
        self.push(at, Some(key.clone()), outcome, reason);
    }

    fn push(&mut self, at: At, key: Option<MessageKey>, outcome: &'static str, reason: &str) {
        self.notes.push(Note {
            at,
            key,
            outcome,
            reason: reason.to_owned(),
        });
    }

    /// Records a card that was merged with the earlier card at `first`.
    pub(super) fn merged(&mut self, at: At, first: At) {
        let reason = format!("shares an address with {}", self.place(first));
        self.note(at, "merged", &reason);
    }

    /// Records the outcome of a message that went through the pipeline.
    pub(super) fn processed(&mut self, at: At, message: &Processed) {
        let state = message.outcome.state();
        let reason = message.outcome.reason();
        self.count(at, &message.key, state, reason, message.settled_before);
    }

    /// Records a message that was settled before.
    pub(super) fn settled(&mut self, at: At, key: &MessageKey, entry: &Entry) {
        self.count(at, key, entry.state, entry.reason.as_deref(), true);
    }

    fn count(
        &mut self,
        at: At,
        key: &MessageKey,
        state: State,
        reason: Option<&str>,
        before: bool,
    ) {
        let reason = reason.unwrap_or_default();
        match state {
            State::Written if before => self.messages.there_before += 1,
            State::Written => self.messages.written += 1,
            State::Skipped => *self.messages.skipped.entry(reason.to_owned()).or_default() += 1,
            State::Waiting => {
                self.messages.waiting += 1;
                self.about(at, key, "waiting", reason);
            }
            State::Dead => {
                self.messages.dead += 1;
                self.about(at, key, "dead", reason);
            }
        }
    }

    /// Records that `service` asked for a pause until `until`. The first pause wins.
    pub(super) fn paused(&mut self, service: &'static str, until: DateTime<Utc>) {
        self.pause.get_or_insert((service, until));
    }

    /// Adds `objects` to the number of objects that were not processed.
    pub(super) fn left(&mut self, objects: usize) {
        self.left += objects;
    }

    pub(super) fn is_paused(&self) -> bool {
        self.pause.is_some()
    }

    fn place(&self, at: At) -> String {
        let file = self.files.get(at.file).map_or("", String::as_str);
        format!("{file}[{}]", at.index)
    }

    pub(super) fn json(&self) -> Value {
        let note = |note: &Note| {
            json!({
                "file": self.files.get(note.at.file), "index": note.at.index, "outcome": note.outcome, "reason": note.reason,
                "grant_id": note.key.as_ref().map(|key| &key.grant_id), "message_id": note.key.as_ref().map(|key| &key.message_id),
            })
        };
        let Messages {
            written,
            there_before,
            skipped,
            waiting,
            dead,
            repeated,
            not_imported,
        } = &self.messages;
        let People {
            created,
            filled,
            complete,
            merged,
            ambiguous,
            internal,
            role,
            known,
            without_address,
            excluded,
            failed,
        } = &self.people;
        json!({
            "messages": {
                "written": written, "there_before": there_before, "skipped": skipped, "waiting": waiting, "dead": dead,
                "repeated": repeated, "not_imported": not_imported,
            },
            "contacts": {
                "created": created, "filled": filled, "complete": complete, "merged": merged, "ambiguous": ambiguous, "inside": internal,
                "role": role, "known": known, "without_address": without_address, "excluded": excluded, "failed": failed,
            },
            "others": self.others,
            "left": self.left,
            "paused_by": self.pause.map(|(service, _)| service),
            "paused_until": self.pause.map(|(_, until)| until.to_rfc3339_opts(SecondsFormat::Secs, true)),
            "created_on_refused": self.created_on_refused,
            "notes": self.notes.iter().map(note).collect::<Vec<_>>(),
        })
    }

    pub(super) fn print(&self, out: &mut impl Write, dry: bool) -> io::Result<()> {
        let trouble: Vec<&Note> = self.notes.iter().filter(|note| note.is_problem()).collect();
        for note in trouble.iter().take(MOST_LINES) {
            let place = printable(&self.place(note.at));
            let key = note
                .key
                .as_ref()
                .map(|key| format!(" {}", printable(&key.to_string())));
            let key = key.unwrap_or_default();
            writeln!(
                out,
                "{place}{key}: {}: {}",
                note.outcome,
                printable(&note.reason)
            )?;
        }
        let more = trouble.len().saturating_sub(MOST_LINES);
        if more > 0 {
            writeln!(out, "… and {more} more; --json shows all")?;
        }
        let would = if dry { "would be " } else { "" };
        let Messages {
            written,
            there_before,
            skipped,
            waiting,
            dead,
            repeated,
            not_imported,
        } = &self.messages;
        let all_skipped: usize = skipped.values().sum();
        writeln!(
            out,
            "Messages: {written} {would}written, {there_before} written before, {all_skipped} skipped{}, {waiting} waiting, {dead} dead, {repeated} repeated, {not_imported} not imported.",
            rules(skipped)
        )?;
        let People {
            created,
            filled,
            complete,
            merged,
            ambiguous,
            internal,
            role,
            known,
            without_address,
            excluded,
            failed,
        } = &self.people;
        writeln!(
            out,
            "Contacts: {created} {would}created, {filled} {would}filled, {complete} complete, {merged} merged, {ambiguous} ambiguous, {internal} internal, {role} role addresses, \
             {known} known as lead or account, {without_address} without a usable address, {failed} failed.",
        )?;
        if *excluded > 0 {
            writeln!(
                out,
                "Contacts of mailboxes that do not take part, not imported: {excluded}."
            )?;
        }
        if let Some((service, until)) = self.pause {
            writeln!(
                out,
                "{service} asked for a pause until {}: {} objects were not processed. Run the same command again after that.",
                until.format("%F %T UTC"),
                self.left
            )?;
        } else if self.messages.waiting + self.people.failed > 0 {
            writeln!(
                out,
                "Run the same command again: nothing is imported twice."
            )?;
        }
        if self.created_on_refused {
            writeln!(
                out,
                "Dataverse rejected the original created-on: the application user lacks a privilege."
            )?;
        }
        Ok(())
    }
}

fn rules(skipped: &BTreeMap<String, usize>) -> String {
    let rules: Vec<String> = skipped
        .iter()
        .map(|(rule, count)| format!("{count} {}", printable(rule)))
        .collect();
    if rules.is_empty() {
        return String::new();
    }
    format!(" ({})", rules.join(", "))
}

/// Returns the outcome of a contact, and the reason if the report should have a note about it.
pub(super) fn card_outcome(outcome: &CardOutcome) -> (&'static str, Option<String>) {
    match outcome {
        CardOutcome::Created {
            contact,
            without_company,
        } => {
            let without =
                || format!("contact {contact} has no company: Dataverse rejected the account");
            ("created", without_company.then(without))
        }
        CardOutcome::Filled { contact, columns } => {
            let columns = columns.join(", ");
            ("filled", Some(format!("contact {contact}: {columns}")))
        }
        CardOutcome::Complete { .. } => ("complete", None),
        CardOutcome::Ambiguous { contacts } => {
            let contacts: Vec<String> = contacts.iter().map(ToString::to_string).collect();
            let contacts = contacts.join(", ");
            (
                "ambiguous",
                Some(format!(
                    "nothing was changed: contacts {contacts} have its addresses"
                )),
            )
        }
        CardOutcome::Internal => (
            "inside",
            Some("it is an internal address: contacts are external people".to_owned()),
        ),
        CardOutcome::Known { table } => (
            "known",
            Some(format!("a row of table {} has its address", table.name())),
        ),
        CardOutcome::Failed { reason } => ("failed", Some(reason.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change to the report of an import in which nothing else happened.
    type Change = fn(&mut Report);

    fn is_success_with(change: Change) -> bool {
        let mut report = Report::new(&[]);
        change(&mut report);
        report.is_success()
    }

    #[test]
    fn each_kind_of_object_that_was_not_imported_is_enough_to_fail() {
        let failing: [(&str, Change); 8] = [
            ("waiting", |report| report.messages.waiting = 1),
            ("dead", |report| report.messages.dead = 1),
            ("not imported", |report| report.messages.not_imported = 1),
            ("failed", |report| report.people.failed = 1),
            ("excluded", |report| report.people.excluded = 1),
            ("others", |report| report.others = 1),
            ("left", |report| report.left(1)),
            ("paused", |report| {
                report.paused("Nylas", DateTime::UNIX_EPOCH);
            }),
        ];
        for (name, change) in failing {
            assert!(!is_success_with(change), "{name}");
        }
    }

    #[test]
    fn objects_that_are_imported_or_left_out_by_a_rule_are_a_success() {
        assert!(is_success_with(|_| {}));
        assert!(is_success_with(|report| {
            report.messages = Messages {
                written: 1,
                there_before: 1,
                skipped: BTreeMap::from([("spam".to_owned(), 1)]),
                repeated: 1,
                ..Messages::default()
            };
            report.people = People {
                created: 1,
                filled: 1,
                complete: 1,
                merged: 1,
                ambiguous: 1,
                internal: 1,
                role: 1,
                known: 1,
                without_address: 1,
                ..People::default()
            };
        }));
    }
}
