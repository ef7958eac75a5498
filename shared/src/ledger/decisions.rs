//! Everything that the ledger stores about a message, for operators who ask why, and the rules for
//! storing its decision record ([`crate::decision_record`]).
//!
//! The attribute `attempted_decision` holds the decision by which the row may have been written.
//!
//! | Settled as | `decision` | `attempted_decision` |
//! | --- | --- | --- |
//! | anything, without a record | unchanged | unchanged |
//! | `waiting`, after the row may have been written | unchanged | set to this record |
//! | `waiting`, before that | unchanged | unchanged |
//! | `dead`, after the row may have been written | set to this record | set to this record |
//! | `dead`, before that | set to this record | unchanged |
//! | `skipped` | set to this record | removed |
//! | `written`, by this decision | set to this record | removed |
//! | `written`, because the row existed already | set to `attempted_decision` if there is one, else to this record | removed |
//!
//! So if the response to a write was lost, the row is explained by the decision that wrote it, not
//! by the later one that found it. A claim changes neither attribute.

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::messages::{
    Ledger, LedgerError, item_key, key_of, number, read_entry, text, text_of, unavailable,
};
use super::{Entry, State};
use crate::model::ids::{ActivityId, MessageKey};

/// The index by the row in Dataverse. It contains only the keys of the items.
pub(crate) const INDEX: &str = "activity";

/// How a decision relates to the row in Dataverse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedRow {
    /// There is no row: the message was skipped, or a step failed before the row could be written.
    #[default]
    None,
    /// This decision wrote the row, or may have: if the response to the call was lost, it is
    /// unknown.
    Ours,
    /// The row existed before, from another decision: for another mailbox's copy, by a run that did
    /// not finish, or by another client.
    Found,
}

/// A decision record to be stored in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionToStore {
    /// The record, without content.
    pub text: String,
    /// How the decision relates to the row.
    pub row: DecidedRow,
}

/// How an update stores a record, whose text is `:decision`.
pub(super) struct RecordUpdate {
    /// Assignments; empty if the update does not change the record.
    pub(super) set: &'static str,
    /// Whether the update removes `attempted_decision`.
    pub(super) forget_tried: bool,
}

impl DecisionToStore {
    /// Looks up the table in the module's documentation.
    pub(super) const fn record_update(&self, state: State) -> RecordUpdate {
        let set = match (state, self.row) {
            (State::Waiting, DecidedRow::Ours) => "attempted_decision = :decision",
            (State::Waiting, DecidedRow::None | DecidedRow::Found) => "",
            (State::Dead, DecidedRow::Ours) => {
                "decision = :decision, attempted_decision = :decision"
            }
            (State::Written, DecidedRow::Found) => {
                "decision = if_not_exists(attempted_decision, :decision)"
            }
            (State::Dead | State::Written | State::Skipped, _) => "decision = :decision",
        };
        RecordUpdate {
            set,
            forget_tried: matches!(state, State::Written | State::Skipped),
        }
    }
}

/// Everything that the ledger stores about one message, for the commands that explain it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// The message.
    pub key: MessageKey,
    /// Its state.
    pub entry: Entry,
    /// Since when it has been waiting or dead; `None` in the other two states.
    pub since: Option<DateTime<Utc>>,
    /// The end of its lease, or when the queue delivers it again; `None` if neither applies.
    pub until: Option<DateTime<Utc>>,
    /// The time of the last write.
    pub changed_at: Option<DateTime<Utc>>,
    /// Our row that held it, if another client's row has replaced it.
    pub replaced_row: Option<ActivityId>,
    /// Its decision record: the settled one or, while it waits, the attempted one if there is one.
    pub decision: Option<String>,
}

impl Ledger {
    /// Returns everything stored about one message; `None` if it has never been claimed.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn stored_message(
        &self,
        key: &MessageKey,
    ) -> Result<Option<StoredMessage>, LedgerError> {
        let Some(item) = &self.item(item_key(key)).await? else {
            return Ok(None);
        };
        let time = |name| number(item, name).and_then(DateTime::from_timestamp_millis);
        let entry = read_entry(item)?;
        let record = match entry.state {
            State::Waiting => {
                text_of(item, "attempted_decision").or_else(|| text_of(item, "decision"))
            }
            State::Written | State::Skipped | State::Dead => text_of(item, "decision"),
        };
        Ok(Some(StoredMessage {
            key: key.clone(),
            since: time("since_ms"),
            until: entry
                .held
                .map(|(_, until)| until)
                .or_else(|| time("retry_at_ms")),
            changed_at: time("changed_at_ms"),
            replaced_row: text_of(item, "replaced_row")
                .and_then(|text| text.parse().ok())
                .map(ActivityId::new),
            decision: record.map(str::to_owned),
            entry,
        }))
    }

    /// Returns the messages that this row holds, sorted: an email in several mailboxes is one
    /// message in each.
    ///
    /// The index is eventually consistent with the table.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn messages_of_row(&self, row: ActivityId) -> Result<Vec<MessageKey>, LedgerError> {
        let items = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(INDEX)
            .key_condition_expression("activity_id = :row")
            .expression_attribute_values(":row", text(row.to_string()))
            .into_paginator()
            .items()
            .send();
        let items: Vec<_> = items
            .collect::<Result<_, _>>()
            .await
            .map_err(|error| unavailable(&error))?;
        let mut keys: Vec<MessageKey> = items.iter().filter_map(key_of).collect();
        keys.sort();
        Ok(keys)
    }
}

/// Returns the value of `:decision`.
pub(super) fn value(decided: &DecisionToStore) -> AttributeValue {
    text(decided.text.as_str())
}
