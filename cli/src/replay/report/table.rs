//! The report as a table, with the totals below it.

use std::collections::HashSet;
use std::io::{self, Write};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use mailverse::ledger::State;
use mailverse::mapping::Direction;
use mailverse::pipeline::{Outcome, Summary};

use super::{MessageReport, Report};
use crate::replay::harness::Harness;
use crate::terminal::printable;

/// How many people a row lists before it only counts the rest.
const PEOPLE_SHOWN: usize = 4;

/// The least width, in columns, with room for whole file names and addresses.
const WIDE: u16 = 140;

/// Width of the table in columns if the output is not a terminal.
const WIDTH: u16 = 160;

impl Report {
    pub(crate) fn print(&self, out: &mut impl Write, harness: &Harness) -> io::Result<()> {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Dynamic);
        if !table.is_tty() {
            table.set_width(WIDTH);
        }
        table.set_header([
            "event",
            "outcome",
            "reason",
            "subject",
            "direction",
            "people",
            "regarding",
        ]);
        // A file name or an address that is wrapped cannot be copied. A narrow terminal has to wrap
        // them.
        if table.width().is_some_and(|width| width >= WIDE) {
            for column in [0, 5] {
                if let Some(column) = table.column_mut(column) {
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
            }
        }
        table.add_rows(self.rows(harness));
        writeln!(out, "{table}")?;
        let count = |state| self.count(state);
        let (written, skipped) = (count(State::Written), count(State::Skipped));
        let (waiting, dead) = (count(State::Waiting), count(State::Dead));
        writeln!(
            out,
            "{} events, {} rejected. Messages: {written} written, {skipped} skipped, {waiting} waiting, {dead} dead.",
            self.events,
            self.refused.len()
        )?;
        writeln!(
            out,
            "{} email activities in Dynamics 365; {} deliveries repeated a message and changed nothing.",
            self.activities,
            self.duplicate_deliveries()
        )?;
        let (dataverse, nylas) = self.requests;
        writeln!(
            out,
            "{dataverse} requests to Dataverse, {nylas} to Nylas, {} ms.",
            self.elapsed.as_millis()
        )
    }

    /// Returns the rows of the table, in the order of delivery.
    fn rows(&self, harness: &Harness) -> Vec<Vec<String>> {
        let common = self.common_folder();
        let short = |file: &str| printable(file.strip_prefix(&common).unwrap_or(file));
        let messages = self
            .messages
            .iter()
            .filter_map(|key| self.message_reports.get(key));
        let messages = messages.map(|message_report| {
            (
                &message_report.event,
                message_report.cells(short(&message_report.event), harness),
            )
        });
        let others = self.others.iter();
        let others = others.map(|(file, outcome, reason)| {
            (
                file,
                vec![short(file), (*outcome).to_owned(), printable(reason)],
            )
        });
        let repeated = self.repeated.iter().map(|(file, firsts)| {
            let firsts: Vec<String> = firsts.iter().map(|first| short(first)).collect();
            let reason = format!("same messages as {}", firsts.join(", "));
            (file, vec![short(file), "repeat".to_owned(), reason])
        });
        let mut rows: Vec<_> = messages.chain(others).chain(repeated).collect();
        rows.sort_by_key(|(file, _)| self.places.get(*file));
        rows.into_iter().map(|(_, cells)| cells).collect()
    }

    /// Returns the folder that all events are in, so that the table can omit it; empty if there is
    /// no common folder.
    fn common_folder(&self) -> String {
        let folder = |file: &String| {
            file.rsplit_once('/')
                .map(|(folder, _)| format!("{folder}/"))
                .unwrap_or_default()
        };
        let mut folders = self.places.keys().map(folder);
        let first = folders.next().unwrap_or_default();
        if folders.all(|other| other == first) {
            first
        } else {
            String::new()
        }
    }
}

impl MessageReport {
    fn cells(&self, event: String, harness: &Harness) -> Vec<String> {
        let reason = self
            .outcome
            .as_ref()
            .and_then(Outcome::reason)
            .unwrap_or_default();
        let mut cells = vec![event, self.state().as_str().to_owned(), printable(reason)];
        if let Some(summary) = &self.summary {
            let subject = printable(&summary.subject);
            cells.push(if subject.trim().is_empty() {
                "(no subject)".to_owned()
            } else {
                subject
            });
            cells.push(match summary.direction {
                Some(Direction::Incoming) => "in".to_owned(),
                Some(Direction::Outgoing) => "out".to_owned(),
                None => String::new(),
            });
            cells.push(people(summary, harness));
            cells.push(
                summary
                    .regarding
                    .clone()
                    .map(|record| printable(&harness.name(record)))
                    .unwrap_or_default(),
            );
        }
        cells
    }
}

/// Returns one line per person: `✔ contact Ada Bell`, or `· bob@example.com` for an address without
/// a row in the organisation.
fn people(summary: &Summary, harness: &Harness) -> String {
    let mut seen = HashSet::new();
    let people = summary
        .parties
        .iter()
        .filter(|party| seen.insert(&party.address));
    let mut lines: Vec<String> = people
        .map(|party| match party.record {
            Some(record) => printable(&format!("✔ {}", harness.name(record))),
            None => printable(&format!("· {}", party.address.as_str())),
        })
        .collect();
    if lines.len() > PEOPLE_SHOWN + 1 {
        let rest = lines.len() - PEOPLE_SHOWN;
        lines.truncate(PEOPLE_SHOWN);
        lines.push(format!("… and {rest} more"));
    }
    lines.join("\n")
}
