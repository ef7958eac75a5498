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

/// Width of the table in columns if the output is not a terminal, or one of unknown width.
const WIDTH: u16 = 160;

impl Report {
    /// Prints the report as wide as the terminal.
    pub(crate) fn print(&self, out: &mut impl Write, harness: &Harness) -> io::Result<()> {
        self.print_with_width(out, harness, Table::new().width().unwrap_or(WIDTH))
    }

    fn print_with_width(
        &self,
        out: &mut impl Write,
        harness: &Harness,
        width: u16,
    ) -> io::Result<()> {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
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
        if width >= WIDE {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use mailverse::policy::Policy;
    use secrecy::SecretString;
    use webhook_receiver::signature::Key;

    use super::*;
    use crate::replay::{deliver_all, event};

    /// Width of the terminal in the picture.
    const COLUMNS: u16 = 80;

    /// The number of milliseconds in the picture.
    const ELAPSED: Duration = Duration::from_millis(152);

    fn project() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
        let (_, value) = element.split_once(&format!(" {name}=\"")).unwrap();
        value.split_once('"').unwrap().0
    }

    fn number(element: &str, name: &str) -> f64 {
        attribute(element, name).parse().unwrap()
    }

    /// Returns how many steps `position` is from `start`. It must be a whole number.
    fn steps(position: f64, start: f64, step: f64) -> Option<usize> {
        (0..100)
            .find(|steps| (start + step * f64::from(*steps) - position).abs() < 0.01)
            .and_then(|steps| usize::try_from(steps).ok())
    }

    /// Returns the lines of the terminal in the picture: each text in the row and from the column
    /// where it is drawn.
    fn lines_of_picture(svg: &str) -> Vec<String> {
        let mut rows: BTreeMap<usize, String> = BTreeMap::new();
        for element in svg.lines().filter(|line| line.starts_with("<text ")) {
            let (tag, text) = element.split_once('>').unwrap();
            let text = text.strip_suffix("</text>").unwrap();
            let width = steps(number(tag, "textLength"), 0.0, 8.4);
            assert_eq!(width, Some(text.chars().count()), "{element}");
            let row = steps(number(tag, "y"), 48.0, 16.5).expect(element);
            let column = steps(number(tag, "x"), 20.0, 8.4).expect(element);
            let row = rows.entry(row).or_default();
            let gap = column.checked_sub(row.chars().count()).expect(element);
            row.push_str(&" ".repeat(gap));
            row.push_str(text);
        }
        rows.into_values().collect()
    }

    /// Returns the lines as the terminal wraps them, without the spaces at their ends.
    fn lines_of_terminal(printed: &str) -> Vec<String> {
        let characters: Vec<Vec<char>> =
            printed.lines().map(|line| line.chars().collect()).collect();
        let wrapped = characters
            .iter()
            .flat_map(|line| line.chunks(COLUMNS.into()));
        wrapped
            .map(|line| line.iter().collect::<String>().trim_end().to_owned())
            .collect()
    }

    #[tokio::test]
    async fn the_picture_of_the_readme_matches_the_report_of_its_five_events() {
        let saved = tempfile::tempdir().unwrap();
        for (number, name) in [
            ("09", "received-reply"),
            ("10", "received-truncated"),
            ("18", "spam"),
            ("19", "draft"),
            ("22", "no-subject"),
        ] {
            let event = project().join(format!("events/{number}-{name}.json"));
            std::fs::copy(event, saved.path().join(format!("{number}.json"))).unwrap();
        }
        let events = event::load(&[saved.path().to_owned()]).unwrap();
        let key = Key::new(&SecretString::from("a secret of this test")).unwrap();
        let harness = Harness::offline(&events, None, &Policy::default(), key)
            .await
            .unwrap();
        let mut report = deliver_all(&harness, &events, 2, false).await;
        report.measure(&harness, ELAPSED);
        let mut printed = b"$ mailverse replay saved\n".to_vec();
        report
            .print_with_width(&mut printed, &harness, COLUMNS)
            .unwrap();
        let picture = std::fs::read_to_string(project().join("docs/images/replay.svg")).unwrap();
        let printed = lines_of_terminal(&String::from_utf8(printed).unwrap());
        assert_eq!(lines_of_picture(&picture), printed);
    }
}
