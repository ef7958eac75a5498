//! The report of a run on each message: for the log, the metrics and the operator.

use chrono::{DateTime, Utc};

use super::outcome::Outcome;
use crate::clients::dataverse::records::RecordReference;
use crate::ledger::Entry;
use crate::mapping::Direction;
use crate::model::ids::MessageKey;
use crate::policy::PolicyDecision;
use crate::resolve::parties::Party;
use crate::telemetry::count;

/// A message that a run has handled.
pub struct Processed {
    /// The message.
    pub key: MessageKey,
    /// Its outcome.
    pub outcome: Outcome,
    /// An earlier run had already settled it.
    pub settled_before: bool,
    /// When an earlier run settled it; `None` if this run handled it.
    pub(crate) settled_at: Option<DateTime<Utc>>,
    /// The policy decision, rule by rule; `None` if the run did not get that far. Holds no content.
    pub decision: Option<PolicyDecision>,
    /// The message as shown to an operator; never logged. `None` if the run did not read the
    /// message.
    pub summary: Option<Summary>,
}

impl Processed {
    /// Returns the outcome of an earlier run; `None` if the entry is not settled, or is incomplete.
    #[must_use]
    pub fn settled_before(key: MessageKey, entry: Entry) -> Option<Self> {
        let settled_at = entry.changed_at;
        Some(Self {
            key,
            outcome: Outcome::of_entry(entry)?,
            settled_before: true,
            settled_at,
            decision: None,
            summary: None,
        })
    }

    /// Writes one log line and counts the outcome; a final state of an earlier run is not counted
    /// again.
    pub(super) fn report(&self) {
        let Processed {
            key,
            outcome,
            settled_before,
            ..
        } = self;
        let (state, reason) = (
            outcome.state().as_str(),
            outcome.reason().unwrap_or_default(),
        );
        if *settled_before {
            tracing::info!("sync.key" = %key, state, reason, "message was already settled");
            return;
        }
        match outcome {
            Outcome::Written { .. } | Outcome::Skipped { .. } => {
                tracing::info!("sync.key" = %key, state, reason, "message settled");
            }
            Outcome::Waiting { delay, .. } => {
                tracing::warn!("sync.key" = %key, state, reason, delay_ms = delay.as_millis(), "message goes back to the queue");
            }
            Outcome::Dead { .. } => {
                tracing::error!("sync.key" = %key, state, reason, "message cannot be written");
            }
        }
        count(outcome.counted_as(), 1);
    }
}

/// A message as it appears in Dynamics 365. Holds content: only for tables that the command prints.
pub struct Summary {
    /// Its subject.
    pub subject: String,
    /// Incoming or outgoing; `None` if it was not determined.
    pub direction: Option<Direction>,
    /// Its activity parties; empty if they were not resolved.
    pub parties: Vec<Party>,
    /// The regarding record; `None` if there is none, or if it was not resolved.
    pub regarding: Option<RecordReference>,
}
