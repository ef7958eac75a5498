//! What a run says of each message: to the log and the counts, and to people.

use chrono::{DateTime, Utc};

use super::fate::Fate;
use crate::dataverse::rows::Target;
use crate::dedupe::Entry;
use crate::ids::MessageKey;
use crate::mapping::Direction;
use crate::parties::Party;
use crate::policy::Decision;
use crate::telemetry::count;

/// A message that a run has dealt with.
pub struct Handled {
    /// Which.
    pub key: MessageKey,
    /// What became of it.
    pub fate: Fate,
    /// It was in this state before the run.
    pub settled_before: bool,
    /// When that was, if so.
    pub settled_at: Option<DateTime<Utc>>,
    /// What the policy said of it, rule by rule; `None` when the run did not get to ask. Holds no content.
    pub decision: Option<Decision>,
    /// What it looks like, for people; never logged. `None` when the run did not get to read it.
    pub summary: Option<Summary>,
}

impl Handled {
    /// What an earlier run settled; `None` when the entry is not settled, or incomplete.
    #[must_use]
    pub fn settled_before(key: MessageKey, entry: Entry) -> Option<Self> {
        let settled_at = entry.changed_at;
        Some(Self {
            key,
            fate: Fate::of_entry(entry)?,
            settled_before: true,
            settled_at,
            decision: None,
            summary: None,
        })
    }

    /// One log line and one count for each message; a final state of an earlier run is not counted again.
    pub(super) fn report(&self) {
        let Handled {
            key,
            fate,
            settled_before,
            ..
        } = self;
        let (state, reason) = (fate.state().as_str(), fate.reason().unwrap_or_default());
        if *settled_before {
            tracing::info!("sync.key" = %key, state, reason, "message was settled before");
            return;
        }
        match fate {
            Fate::Written { .. } | Fate::Skipped { .. } => {
                tracing::info!("sync.key" = %key, state, reason, "message settled");
            }
            Fate::Waiting { delay, .. } => {
                tracing::warn!("sync.key" = %key, state, reason, delay_ms = delay.as_millis(), "message goes back to the queue");
            }
            Fate::Dead { .. } => {
                tracing::error!("sync.key" = %key, state, reason, "message cannot be written");
            }
        }
        count(fate.counted_as(), 1);
    }
}

/// What a message looks like in Dynamics 365. Holds content: for the command's table only.
pub struct Summary {
    /// Its subject.
    pub subject: String,
    /// Which way it went; `None` when nobody had to know.
    pub direction: Option<Direction>,
    /// Who is on it; empty when nobody had to know.
    pub parties: Vec<Party>,
    /// The record that it concerns.
    pub regarding: Option<Target>,
}
