//! The decision record: why a message was left out or tracked, who its people are and what it concerns, kept with its ledger item for
//! `mailverse explain`.
//!
//! It holds names of rules, places in lists, tables and ids, and nothing that a mail says: no address, name, subject or text. A person is named by a
//! role and a place in that role's list, as the policy left the list, so only who may read the mailbox can tell who is meant.
//!
//! How it is written and read, and what one loses that is too long: `decision/text.rs`.

mod text;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::dataverse::rows::{Record, Target};
use crate::dedupe::kept::DecidedRow;
use crate::ids::ActivityId;
use crate::mapping::{Direction, Findings};
use crate::message::Omission;
use crate::parties::{Choice, Party, Role};
use crate::{policy, regarding};

pub use self::text::{LONGEST, LeftOut};

/// The format that this build writes. A reader takes fields that it does not know for those of a later one.
pub const FORMAT: u32 = 1;

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
    /// [`policy::Policy::revision`]. Of two decisions, the later policy has the higher one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
    /// The rules that were asked, in order. The last one decided, if it skips.
    pub path: Vec<Asked>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(number: &u64) -> bool {
    *number == 0
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
                revision: decision.revision,
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
