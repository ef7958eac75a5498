//! The decision record: why a message was skipped or tracked, how its participants were resolved,
//! and what it regards. Stored with its ledger item for `mailverse explain`.
//!
//! It holds names of rules, positions in lists, tables and ids, but no content: no address, name,
//! subject or text. A participant is identified by a role and a position in that role's list, as
//! the policy left the list. So only someone who can read the mailbox can determine who is meant.
//!
//! How a record is written and read, and what is dropped if it is too long:
//! `decision_record/text.rs`.

mod text;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clients::dataverse::records::{PartyReference, RecordReference};
use crate::ledger::decisions::DecidedRow;
use crate::mapping::{Direction, Findings};
use crate::model::ids::ActivityId;
use crate::model::message::Omission;
use crate::policy;
use crate::resolve::parties::{Choice, Party, Role};
use crate::resolve::regarding;

pub use self::text::{LONGEST, LeftOut};

/// The format that this build writes. A reader ignores unknown fields, which a later format may
/// add.
pub(crate) const FORMAT: u32 = 1;

/// The recorded decision on a message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DecisionRecord {
    /// The record's [`FORMAT`].
    pub format: u32,
    /// The time of the decision, in Unix seconds.
    pub at: i64,
    /// The policy's decision.
    pub policy: PolicyPart,
    /// Either `incoming` or `outgoing`; `None` if it was not determined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// How the decision relates to the row in Dataverse.
    pub row: DecidedRow,
    /// The participants: sender, To, Cc, Bcc. Empty if they were not resolved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub people: Vec<PersonPart>,
    /// The resolution of the regarding; `None` if it was not resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regarding: Option<RegardingPart>,
    /// The contacts and accounts that were created for this message, or for another message of the
    /// same batch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<Row>,
    /// What was left out of the row, by reason code, and how often.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub omissions: BTreeMap<String, usize>,
    /// What was dropped from this record because it was too long.
    #[serde(skip_serializing_if = "LeftOut::is_nothing")]
    pub left_out: LeftOut,
}

/// The policy's decision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPart {
    /// The policy's [`policy::Policy::version`].
    pub version: String,
    /// The policy's [`policy::Policy::revision`]. Of two decisions, the one by the later policy has
    /// the higher revision.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
    /// The rules that were evaluated, in order. If the last one skips, it decided.
    pub path: Vec<Asked>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A rule that was evaluated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The rule's name.
    pub rule: String,
    /// The answer: `passes`, `skips` or `open`.
    pub answer: String,
}

/// A row reference, written as `table/id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Row(pub String);

impl Row {
    /// Returns the reference to the row of this table with this key.
    #[must_use]
    pub fn of(table: &str, id: Uuid) -> Self {
        Self(format!("{table}/{id}"))
    }
}

impl From<PartyReference> for Row {
    fn from(record: PartyReference) -> Self {
        Self::of(record.table.name(), record.id)
    }
}

impl From<&RecordReference> for Row {
    fn from(target: &RecordReference) -> Self {
        Self::of(&target.table, target.id)
    }
}

/// A participant of the message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersonPart {
    /// The role: `from`, `to`, `cc` or `bcc`.
    pub role: String,
    /// The position in that role's list, from 0.
    pub place: usize,
    /// How the rows were found, as in [`crate::resolve::parties::Match::as_str`]. Empty if no row
    /// was found.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub matched: String,
    /// How a row was chosen, as in [`Choice::as_str`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub choice: String,
    /// The rows that were found and not chosen.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Row>,
    /// The rows that were chosen; empty if the party holds only the address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<Row>,
}

/// How the regarding of a message was resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegardingPart {
    /// What was checked, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<CandidatePart>,
    /// The chosen record; `None` if no source matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<ChosenPart>,
}

impl From<&regarding::RegardingDecision> for RegardingPart {
    fn from(decision: &regarding::RegardingDecision) -> Self {
        let candidate = |one: &regarding::RegardingCandidate| CandidatePart {
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

/// Returns a value as the policy document, or its own type, spells it.
fn name<T: Serialize>(value: &T) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// Something that a source checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CandidatePart {
    /// The source.
    pub source: String,
    /// The result of the check.
    pub outcome: String,
    /// The records that were found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Row>,
    /// The earlier emails that the result is based on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub emails: Vec<ActivityId>,
}

/// The record that was chosen as the regarding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenPart {
    /// The source that matched.
    #[serde(default)]
    pub source: String,
    /// The record.
    pub record: Row,
    /// The earlier email that this one replies to, if the source is the thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ActivityId>,
}

impl DecisionRecord {
    /// Returns the record of a policy decision, with everything else left empty.
    #[must_use]
    pub(crate) fn of_policy(decision: &policy::PolicyDecision) -> Self {
        let asked = |step: &policy::EvaluatedRule| Asked {
            rule: step.rule.name().to_owned(),
            answer: match step.answer {
                policy::RuleAnswer::Passes => "passes",
                policy::RuleAnswer::Skips => "skips",
                policy::RuleAnswer::Open => "open",
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

    /// Returns the record with the rows that were created.
    #[must_use]
    pub(crate) fn with_made(mut self, made: &BTreeSet<PartyReference>) -> Self {
        self.made = made.iter().map(|record| Row::from(*record)).collect();
        self
    }

    /// Returns the record with the results of the steps after the policy decision.
    #[must_use]
    pub(crate) fn with_findings(
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
        // The regarding is not resolved for a message whose row is already complete.
        let asked =
            row != DecidedRow::Found || *regarding != regarding::RegardingDecision::default();
        self.regarding = asked.then(|| RegardingPart::from(regarding));
        for omission in omissions {
            *self.omissions.entry(omission.to_string()).or_default() += 1;
        }
        self
    }
}

/// Groups the parties by participant. Consecutive parties with the same role and address are one
/// participant who resolves to several rows.
fn people(parties: &[Party]) -> Vec<PersonPart> {
    let mut places: BTreeMap<Role, usize> = BTreeMap::new();
    let same = |one: &Party, other: &Party| one.role == other.role && one.address == other.address;
    let persons = parties.chunk_by(same).filter_map(|rows| {
        let first = rows.first()?;
        let next = places.entry(first.role).or_default();
        let place = *next;
        *next += 1;
        let resolution = &first.resolution;
        let chosen: Vec<PartyReference> = rows.iter().filter_map(|party| party.record).collect();
        let others = resolution.candidates.iter();
        let others = others.filter(|record| !chosen.contains(record));
        Some(PersonPart {
            role: role_name(first.role).to_owned(),
            place,
            matched: match resolution.choice {
                // No row was found, so there is no way in which it was found.
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

/// Returns the name of a role's header.
#[must_use]
pub const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Sender => "from",
        Role::To => "to",
        Role::Cc => "cc",
        Role::Bcc => "bcc",
    }
}
