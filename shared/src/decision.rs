//! The decision record: why a message was left out or tracked, who its people are and what it concerns, kept with its ledger item for
//! `mailverse explain`.
//!
//! It holds names of rules, places in lists, tables and ids, and nothing that a mail says: no address, name, subject or text. A person is named by a
//! role and a place in that role's list, as the policy left the list, so only who may read the mailbox can tell who is meant.
//!
//! It is JSON of [`LONGEST`] bytes at most. What is longer loses, in this order, until it fits: the candidates that were not chosen, the list of
//! the rows that were made (the people say so too), the last people. How many of each is said in `left_out`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::dataverse::rows::{Record, Target};
use crate::dedupe::kept::{Decided, DecidedRow};
use crate::ids::ActivityId;
use crate::mapping::{Direction, Findings};
use crate::message::Omission;
use crate::parties::{Choice, Party, Role};
use crate::{policy, regarding};

/// The format that this build writes. A reader takes fields that it does not know for those of a later one.
pub const FORMAT: u32 = 1;

/// Longest record, in bytes. An item of the ledger is read and written as a whole.
pub const LONGEST: usize = 8 * 1024;

/// How a message was decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DecisionRecord {
    /// [`FORMAT`]
    pub format: u32,
    /// When, in Unix seconds.
    pub at: i64,
    /// The policy's part.
    pub policy: PolicyPart,
    /// `incoming` or `outgoing`; `None` when nobody had to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// What it has to do with the row in Dataverse.
    pub row: DecidedRow,
    /// Who is on it: sender, To, Cc, Bcc. Empty when nobody had to know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub people: Vec<PersonPart>,
    /// What it concerns; `None` when nobody had to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regarding: Option<RegardingPart>,
    /// Contacts and accounts that were made for it, or for another mail of the same run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<Row>,
    /// What was left out of the row, and how often.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub omissions: BTreeMap<String, usize>,
    /// What this record itself lacks.
    #[serde(skip_serializing_if = "LeftOut::is_nothing")]
    pub left_out: LeftOut,
}

/// What the policy said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPart {
    /// [`policy::Policy::version`]
    pub version: String,
    /// The rules that were asked, in order. The last one decided, if it skips.
    pub path: Vec<Asked>,
}

/// A rule that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Its name.
    pub rule: String,
    /// `passes`, `skips` or `open`.
    pub answer: String,
}

/// A row, as `table/id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Row(pub String);

impl Row {
    /// The row of this table with this key.
    #[must_use]
    pub fn of(table: &str, id: Uuid) -> Self {
        Self(format!("{table}/{id}"))
    }
}

impl From<Record> for Row {
    fn from(record: Record) -> Self {
        Self::of(record.table.name(), record.id)
    }
}

impl From<&Target> for Row {
    fn from(target: &Target) -> Self {
        Self::of(&target.table, target.id)
    }
}

/// Somebody on the mail.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersonPart {
    /// `from`, `to`, `cc` or `bcc`.
    pub role: String,
    /// The place in that list, from 0.
    pub place: usize,
    /// By what the rows were found.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub matched: String,
    /// Which of them it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub choice: String,
    /// The rows that were found and not chosen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Row>,
    /// The rows that were chosen; none when the person stays an address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<Row>,
}

/// What the mail concerns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegardingPart {
    /// What was looked at, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<CandidatePart>,
    /// The record; `None` when no source had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<ChosenPart>,
}

impl From<&regarding::Decision> for RegardingPart {
    fn from(decision: &regarding::Decision) -> Self {
        let candidate = |one: &regarding::Candidate| CandidatePart {
            source: name(&one.source),
            outcome: name(&one.outcome),
            records: one.records.iter().map(Row::from).collect(),
            emails: one.emails.clone(),
        };
        let chosen = decision.choice.as_ref().map(|choice| ChosenPart {
            source: name(&choice.source),
            record: Row::from(&choice.target),
            parent: choice.parent,
        });
        Self {
            candidates: decision.candidates.iter().map(candidate).collect(),
            chosen,
        }
    }
}

/// As the policy document, or the type itself, spells it.
fn name<T: Serialize>(value: &T) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// One thing that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CandidatePart {
    /// Which source.
    pub source: String,
    /// What came of it.
    pub outcome: String,
    /// The records that were found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Row>,
    /// The earlier mails that say so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub emails: Vec<ActivityId>,
}

/// The record that the mail concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenPart {
    /// Which source had it.
    #[serde(default)]
    pub source: String,
    /// The record.
    pub record: Row,
    /// The earlier mail that this one answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ActivityId>,
}

/// How much a record had to lose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeftOut {
    /// Candidates that were not chosen.
    pub candidates: usize,
    /// Rows that were made.
    pub made: usize,
    /// People, from the end.
    pub people: usize,
}

impl LeftOut {
    /// Nothing was lost.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl DecisionRecord {
    /// What the policy said, when nothing else was decided.
    #[must_use]
    pub fn of_policy(decision: &policy::Decision) -> Self {
        let asked = |step: &policy::Step| Asked {
            rule: step.rule.name().to_owned(),
            answer: match step.answer {
                policy::Answer::Passes => "passes",
                policy::Answer::Skips => "skips",
                policy::Answer::Open => "open",
            }
            .to_owned(),
        };
        Self {
            format: FORMAT,
            policy: PolicyPart {
                version: decision.policy.clone(),
                path: decision.path.iter().map(asked).collect(),
            },
            ..Self::default()
        }
    }

    /// The same, with the rows that were made.
    #[must_use]
    pub fn with_made(mut self, made: &BTreeSet<Record>) -> Self {
        self.made = made.iter().map(|record| Row::from(*record)).collect();
        self
    }

    /// The same, with what was found out about the mail.
    #[must_use]
    pub fn with_findings(
        mut self,
        findings: &Findings,
        row: DecidedRow,
        omissions: &[Omission],
    ) -> Self {
        let direction = match findings.direction {
            Direction::Incoming => "incoming",
            Direction::Outgoing => "outgoing",
        };
        self.direction = Some(direction.to_owned());
        self.row = row;
        self.people = people(&findings.parties);
        let regarding = &findings.regarding;
        // Nobody had to know what a mail concerns whose row is complete.
        let asked = row != DecidedRow::Found || *regarding != regarding::Decision::default();
        self.regarding = asked.then(|| RegardingPart::from(regarding));
        for omission in omissions {
            *self.omissions.entry(omission.to_string()).or_default() += 1;
        }
        self
    }

    /// Reads back what [`DecisionRecord::decided`] wrote.
    ///
    /// # Errors
    /// It is no such record: what it is cannot be told.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The record as the ledger takes it, of a decision of this moment.
    ///
    /// # Errors
    /// It cannot be written as JSON, which its types rule out.
    pub fn decided(mut self, at: DateTime<Utc>) -> Result<Decided, serde_json::Error> {
        self.at = at.timestamp();
        let row = self.row;
        Ok(Decided {
            text: self.text()?,
            row,
        })
    }

    /// Compact JSON of [`LONGEST`] bytes at most.
    fn text(mut self) -> Result<String, serde_json::Error> {
        let mut text = serde_json::to_string(&self)?;
        let mut lose = [Self::lose_candidates, Self::lose_made].into_iter();
        while text.len() > LONGEST {
            match lose.next() {
                Some(lose) => lose(&mut self),
                None if self.people.is_empty() => break,
                None => self.lose_people(),
            }
            text = serde_json::to_string(&self)?;
        }
        Ok(text)
    }

    fn lose_candidates(&mut self) {
        for person in &mut self.people {
            self.left_out.candidates += person.others.len();
            person.others.clear();
        }
        if let Some(regarding) = &mut self.regarding {
            self.left_out.candidates += regarding.candidates.len();
            regarding.candidates.clear();
        }
    }

    fn lose_made(&mut self) {
        self.left_out.made += self.made.len();
        self.made.clear();
    }

    fn lose_people(&mut self) {
        let lost = self.people.len() / 16 + 1;
        self.left_out.people += lost;
        self.people.truncate(self.people.len() - lost);
    }
}

/// The parties by person. Several parties in a row with one role and one address are one person who is several rows.
fn people(parties: &[Party]) -> Vec<PersonPart> {
    let mut places: BTreeMap<Role, usize> = BTreeMap::new();
    let same = |one: &Party, other: &Party| one.role == other.role && one.address == other.address;
    let persons = parties.chunk_by(same).filter_map(|rows| {
        let first = rows.first()?;
        let next = places.entry(first.role).or_default();
        let place = *next;
        *next += 1;
        let resolution = &first.resolution;
        let chosen: Vec<Record> = rows.iter().filter_map(|party| party.record).collect();
        let others = resolution.candidates.iter();
        let others = others.filter(|record| !chosen.contains(record));
        Some(PersonPart {
            role: role_name(first.role).to_owned(),
            place,
            matched: match resolution.choice {
                // Nothing was found, so by nothing.
                Choice::Unknown => String::new(),
                _ => resolution.matched.as_str().to_owned(),
            },
            choice: resolution.choice.as_str().to_owned(),
            others: others.map(|record| Row::from(*record)).collect(),
            chosen: chosen.into_iter().map(Row::from).collect(),
        })
    });
    persons.collect()
}

/// As the header of a mail calls it.
#[must_use]
pub const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Sender => "from",
        Role::To => "to",
        Role::Cc => "cc",
        Role::Bcc => "bcc",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u128) -> Row {
        Row::of("contact", Uuid::from_u128(n))
    }

    /// A record of a mail to so many people, each of whom is one of three rows.
    fn record(people: usize) -> DecisionRecord {
        let person = |place| PersonPart {
            role: "to".to_owned(),
            place,
            matched: "exact".to_owned(),
            choice: "most_recent".to_owned(),
            others: vec![row(1), row(2)],
            chosen: vec![row(3)],
        };
        DecisionRecord {
            format: FORMAT,
            people: (0..people).map(person).collect(),
            made: (0..people as u128).map(row).collect(),
            regarding: Some(RegardingPart {
                candidates: vec![CandidatePart::default(); 3],
                chosen: None,
            }),
            ..DecisionRecord::default()
        }
    }

    fn kept(record: &DecisionRecord) -> DecisionRecord {
        let decided = record.clone().decided(DateTime::UNIX_EPOCH).unwrap();
        assert!(
            decided.text.len() <= LONGEST,
            "{} bytes",
            decided.text.len()
        );
        DecisionRecord::parse(&decided.text).unwrap()
    }

    #[test]
    fn what_fits_is_kept_whole() {
        let record = record(10);
        assert_eq!(kept(&record), record);
    }

    #[test]
    fn what_was_not_chosen_goes_first() {
        let kept = kept(&record(30));
        assert_eq!((kept.people.len(), kept.made.len()), (30, 30));
        assert!(
            kept.people
                .iter()
                .all(|person| person.others.is_empty() && person.chosen.len() == 1)
        );
        let lost = LeftOut {
            candidates: 30 * 2 + 3,
            ..LeftOut::default()
        };
        assert_eq!(kept.left_out, lost);
    }

    #[test]
    fn of_very_many_people_the_first_are_kept_and_the_others_counted() {
        for count in [60, 500, 5_000] {
            let kept = kept(&record(count));
            assert!(kept.people.len() >= 40, "{} of {count}", kept.people.len());
            assert_eq!(kept.people.len() + kept.left_out.people, count);
            assert_eq!(kept.people[0].place, 0);
            assert_eq!((kept.made.len(), kept.left_out.made), (0, count));
        }
    }

    #[test]
    fn a_record_of_a_later_build_can_be_read() {
        let text = r#"{"format":2,"at":7,"policy":{"version":"v","path":[],"more":1},"people":[{"role":"to","mood":"good"}],"else":{}}"#;
        let read = DecisionRecord::parse(text).unwrap();
        assert_eq!((read.format, read.at, read.people.len()), (2, 7, 1));
    }
}
