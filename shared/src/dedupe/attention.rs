//! What needs attention: messages that wait for too long, and dead ones.
//!
//! Such items have the attribute `attention`, and only they are in the index [`INDEX`], whose keys are `attention` and `since_ms`: what is written or
//! skipped, nearly everything, costs it nothing to read.

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, TimeDelta, Utc};

use super::ledger::{
    Ledger, LedgerError, item_key, key_of, milliseconds, number, read_entry, text, took_effect,
    unavailable,
};
use super::{Entry, State};
use crate::ids::MessageKey;

/// The sparse index, which has all attributes of its items.
pub const INDEX: &str = "attention";

/// How much later than expected a delivery may be before nobody believes in it any more.
pub const OVERDUE: TimeDelta = TimeDelta::hours(1);

/// A message that needs somebody's attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// Which.
    pub key: MessageKey,
    /// Since when it has been waiting, or dead.
    pub since: DateTime<Utc>,
    /// What the ledger says of it.
    pub entry: Entry,
}

impl Attention {
    /// Nobody is at it and the queue should have delivered it long ago: a process died that no queue message stood behind, as that of a
    /// scheduled run, or the queue message is gone.
    #[must_use]
    pub fn is_stranded(&self, now: DateTime<Utc>) -> bool {
        let expected = self
            .entry
            .held
            .map(|(_, until)| until)
            .max(self.entry.retry_at);
        self.entry.state == State::Waiting && expected.is_none_or(|at| at + OVERDUE < now)
    }
}

impl Ledger {
    /// Those that are `wanted` of the messages that have been waiting, or dead, since before `before`: the longest first, `limit` at most. What is not wanted is
    /// read and passed over.
    ///
    /// The index follows the table within moments; whoever acts on an entry looks at the item again.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn needing_attention(
        &self,
        state: State,
        before: DateTime<Utc>,
        limit: usize,
        wanted: impl Fn(&Attention) -> bool,
    ) -> Result<Vec<Attention>, LedgerError> {
        let mut items = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(INDEX)
            .key_condition_expression("attention = :state AND since_ms < :before")
            .expression_attribute_values(":state", text(state.as_str()))
            .expression_attribute_values(":before", milliseconds(before))
            .into_paginator()
            .items()
            .send();
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(item) = items.next().await
        {
            let item = item.map_err(|error| unavailable(&error))?;
            let entry = read_entry(&item)?;
            let (Some(key), Some(since)) = (
                key_of(&item),
                number(&item, "since_ms").and_then(DateTime::from_timestamp_millis),
            ) else {
                return Err(LedgerError::Unavailable(
                    "an item of the index has no message id or no time".to_owned(),
                ));
            };
            let message = Attention { key, since, entry };
            if wanted(&message) {
                found.push(message);
            }
        }
        Ok(found)
    }

    /// Notes that a waiting message that nobody is at is about to be queued again, so that it is not queued once more before that delivery is
    /// overdue as well. Whether it was still waiting so.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: nothing is known; leave it to the next look.
    pub async fn expect_delivery(
        &self,
        key: &MessageKey,
        now: DateTime<Utc>,
    ) -> Result<bool, LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)))
            .update_expression("SET retry_at_ms = :now")
            .condition_expression(
                "#state = :waiting AND (attribute_not_exists(claim_token) OR lease_until_ms <= :now)",
            )
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":waiting", text(State::Waiting.as_str()))
            .expression_attribute_values(":now", milliseconds(now));
        took_effect(call.send().await)
    }

    /// Notes that a message that was given up is on the sync queue once more and is to be tried then: it waits. Whether it was given up, and nobody was at it.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: nothing is known; it can be claimed either way.
    pub async fn queued_anew(
        &self,
        key: &MessageKey,
        retry_at: DateTime<Utc>,
    ) -> Result<bool, LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)))
            .update_expression(
                "SET #state = :waiting, attention = :waiting, retry_at_ms = :retry_at REMOVE gave_up",
            )
            .condition_expression(
                "#state = :dead AND gave_up = :true AND attribute_not_exists(claim_token)",
            )
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":waiting", text(State::Waiting.as_str()))
            .expression_attribute_values(":dead", text(State::Dead.as_str()))
            .expression_attribute_values(":true", AttributeValue::Bool(true))
            .expression_attribute_values(":retry_at", milliseconds(retry_at));
        took_effect(call.send().await)
    }

    /// Allows a dead message, whatever killed it, to be claimed again. Whether it was dead.
    ///
    /// It stays dead until somebody names it: put a request on the sync queue afterwards.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: nothing is known; ask again.
    pub async fn redrive(&self, key: &MessageKey) -> Result<bool, LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)))
            .update_expression("SET gave_up = :true REMOVE awaits_dead_letter")
            .condition_expression("#state = :dead")
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":dead", text(State::Dead.as_str()))
            .expression_attribute_values(":true", AttributeValue::Bool(true));
        took_effect(call.send().await)
    }
}
