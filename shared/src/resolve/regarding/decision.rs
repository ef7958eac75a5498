//! The resolved regarding, and why it was chosen: values that can be stored and explained later.
//! They hold ids and counts, never content.

use serde::Serialize;

use crate::clients::dataverse::metadata::table_names::TableNames;
use crate::clients::dataverse::records::RecordReference;
use crate::model::ids::ActivityId;
use crate::policy::document::RegardingSource;

/// The record that an email regards, and everything that was checked to find it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegardingDecision {
    /// What was checked, in this order. A source that found nothing at all has no candidate.
    pub candidates: Vec<RegardingCandidate>,
    /// The chosen record; `None` if no source matched.
    pub choice: Option<RegardingChoice>,
}

impl RegardingDecision {
    /// Returns the chosen record.
    #[must_use]
    pub fn target(&self) -> Option<&RecordReference> {
        self.choice.as_ref().map(|choice| &choice.target)
    }
}

/// The record that was chosen as the regarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegardingChoice {
    /// The source that matched.
    pub source: RegardingSource,
    /// The record.
    pub target: RecordReference,
    /// The names with which the email is bound to the record.
    pub names: TableNames,
    /// The earlier email that this one replies to, if the source is the thread.
    pub parent: Option<ActivityId>,
}

/// Something that a source checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegardingCandidate {
    /// The source.
    pub source: RegardingSource,
    /// The result of the check.
    pub outcome: CandidateOutcome,
    /// The records that were found: one for a match, all if ambiguous.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordReference>,
    /// The earlier emails that the result is based on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub emails: Vec<ActivityId>,
}

/// The result of checking a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateOutcome {
    /// The candidate has exactly one record.
    Hit,
    /// The candidate has several records, and none was chosen.
    Ambiguous,
    /// The earlier email has no regarding.
    NoRegarding,
    /// The earlier email shares no external participant with this one.
    OtherPeople,
    /// Older emails with the same tracking token have other regardings; only the newest counts.
    Repeated,
    /// The record does not exist.
    Missing,
    /// No email can regard a row of this table.
    CannotBeBound,
    /// Dataverse rejected the query.
    Refused,
}

impl RegardingCandidate {
    pub(super) const fn of(source: RegardingSource, outcome: CandidateOutcome) -> Self {
        Self {
            source,
            outcome,
            records: Vec::new(),
            emails: Vec::new(),
        }
    }
}
