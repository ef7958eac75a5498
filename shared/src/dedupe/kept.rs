//! Everything that the ledger keeps of a message, for people who ask why; and how its decision record ([`crate::decision`]) is kept.
//!
//! | A settlement | `decision` | `tried` |
//! | --- | --- | --- |
//! | without a record | stays | stays |
//! | `waiting`, after the row may have been written | stays | is this one |
//! | `waiting`, before that | stays | stays |
//! | `dead`, after the row may have been written | is this one | is this one |
//! | `dead`, before that; `skipped` | is this one | stays while dead, else goes |
//! | `written`, by this decision | is this one | goes |
//! | `written`, because the row was there already | is `tried` where there is one, else this one | goes |
//!
//! So a row whose write was not answered is explained by the decision that wrote it, and not by the one that found it. A claim leaves both alone.

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::ledger::{
    Ledger, LedgerError, item_key, key_of, number, read_entry, text, text_of, unavailable,
};
use super::{Entry, State};
use crate::ids::{ActivityId, MessageKey};

/// The index by the row in Dataverse. It has the keys of the items and nothing else.
pub const INDEX: &str = "activity";

/// What a decision has to do with the row in Dataverse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedRow {
    /// There is none: the mail was left out, or something failed before it could be written.
    #[default]
    None,
    /// It was written by this decision, or may have been: where a call's answer was lost, nobody knows.
    Ours,
    /// It was there before, by another decision: of another mailbox's copy, of a run that did not come to its end, or of another client.
    Found,
}

/// A decision record on its way into the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The record. Without content.
    pub text: String,
    /// What it has to do with the row.
    pub row: DecidedRow,
}

/// How an update keeps a record, whose text is `:decision`.
pub(super) struct Keep {
    /// Assignments; empty when the update does not mention the record.
    pub(super) set: &'static str,
    /// `tried` goes.
    pub(super) forget_tried: bool,
}

impl Decided {
    /// The module's table.
    pub(super) const fn keep(&self, state: State) -> Keep {
        let set = match (state, self.row) {
            (State::Waiting, DecidedRow::Ours) => "tried = :decision",
            (State::Waiting, DecidedRow::None | DecidedRow::Found) => "",
            (State::Dead, DecidedRow::Ours) => "decision = :decision, tried = :decision",
            (State::Written, DecidedRow::Found) => "decision = if_not_exists(tried, :decision)",
            (State::Dead | State::Written | State::Skipped, _) => "decision = :decision",
        };
        Keep {
            set,
            forget_tried: matches!(state, State::Written | State::Skipped),
        }
    }
}

/// What the ledger keeps of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub key: MessageKey,
    /// Where it stands.
    pub entry: Entry,
    /// Since when it has been waiting, or dead.
    pub since: Option<DateTime<Utc>>,
    /// Until when somebody works on it, or when the queue delivers it again.
    pub until: Option<DateTime<Utc>>,
    /// The last write.
    pub changed_at: Option<DateTime<Utc>>,
    /// The row of ours that carried it before it gave way to another client's, which carries it now.
    pub gave_way: Option<ActivityId>,
    /// The record of its decision: of the one that stands; while it waits, of the one that was tried, if any was.
    pub decision: Option<String>,
}

impl Ledger {
    /// Everything that is kept of one message; `None` when it has never been claimed.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn kept(&self, key: &MessageKey) -> Result<Option<Kept>, LedgerError> {
        let Some(item) = &self.item(item_key(key)).await? else {
            return Ok(None);
        };
        let time = |name| number(item, name).and_then(DateTime::from_timestamp_millis);
        let entry = read_entry(item)?;
        let record = match entry.state {
            State::Waiting => text_of(item, "tried").or_else(|| text_of(item, "decision")),
            State::Written | State::Skipped | State::Dead => text_of(item, "decision"),
        };
        Ok(Some(Kept {
            key: key.clone(),
            since: time("since_ms"),
            until: entry
                .held
                .map(|(_, until)| until)
                .or_else(|| time("retry_at_ms")),
            changed_at: time("changed_at_ms"),
            gave_way: text_of(item, "gave_way")
                .and_then(|text| text.parse().ok())
                .map(ActivityId::new),
            decision: record.map(str::to_owned),
            entry,
        }))
    }

    /// The messages that this row carries: a mail in several mailboxes is one message in each, in order.
    ///
    /// The index follows the table within moments.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn carried(&self, row: ActivityId) -> Result<Vec<MessageKey>, LedgerError> {
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

/// The value of `:decision`.
pub(super) fn value(decided: &Decided) -> AttributeValue {
    text(decided.text.as_str())
}
