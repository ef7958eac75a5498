//! What was decided, and why: values that can be kept and explained later. Ids and counts, never content.

use serde::Serialize;

use crate::dataverse::names::TableNames;
use crate::dataverse::rows::Target;
use crate::ids::ActivityId;
use crate::policy::document::RegardingSource;

/// Which record a mail concerns, and everything that was looked at on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// In the order in which they were looked at. A source that found nothing at all has none.
    pub candidates: Vec<Candidate>,
    /// The record; `None` when no source had one.
    pub choice: Option<Choice>,
}

impl Decision {
    /// The record.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        self.choice.as_ref().map(|choice| &choice.target)
    }
}

/// The record that a mail concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which source had it.
    pub source: RegardingSource,
    /// The record.
    pub target: Target,
    /// By which names the email is bound to it.
    pub names: TableNames,
    /// The earlier mail that this one answers, when the thread decided.
    pub parent: Option<ActivityId>,
}

/// One thing that a source looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Which source.
    pub source: RegardingSource,
    /// What came of it.
    pub outcome: Outcome,
    /// The records that were found: one for a hit, all for an ambiguity.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<Target>,
    /// The earlier mails that say so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub emails: Vec<ActivityId>,
}

/// What came of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It names the record.
    Hit,
    /// It names several records, and none of them was taken.
    Ambiguous,
    /// The earlier mail concerns no record.
    NoRegarding,
    /// Everybody outside is a stranger to the earlier mail.
    OtherPeople,
    /// Older emails with the same tracking token concern other records; only the newest counts.
    Repeated,
    /// The record is not there.
    Missing,
    /// No email can concern a row of that table.
    CannotBeBound,
    /// Dataverse refused the question.
    Refused,
}

impl Candidate {
    pub(super) const fn of(source: RegardingSource, outcome: Outcome) -> Self {
        Self {
            source,
            outcome,
            records: Vec::new(),
            emails: Vec::new(),
        }
    }
}
