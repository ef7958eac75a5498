//! Messages that need attention: those that wait too long, and dead ones.
//!
//! Such items have the attribute `attention`, and only they are in the sparse index [`INDEX`],
//! whose keys are `attention` and `since_ms`. Written and skipped messages, which are nearly all,
//! are not read.

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, TimeDelta, Utc};

use super::messages::{
    Ledger, LedgerError, item_key, key_of, milliseconds, number, read_entry, text, took_effect,
    unavailable,
};
use super::{Entry, State};
use crate::model::ids::MessageKey;

/// The sparse index. It contains all attributes of its items.
pub(crate) const INDEX: &str = "attention";

/// How late an expected delivery may be before the message counts as stranded.
pub const OVERDUE: TimeDelta = TimeDelta::hours(1);

/// A message that needs attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// The message.
    pub key: MessageKey,
    /// Since when it has been waiting, or dead.
    pub since: DateTime<Utc>,
    /// Its state in the ledger.
    pub entry: Entry,
}

impl Attention {
    /// Returns whether no worker and no queue has the message: it waits, no lease runs, and its
    /// delivery is overdue. Either a process died that had no queue message behind it, such as a
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
    /// Returns messages in `state` that have been waiting or dead since before `before`, the
    /// longest first. Returns at most `limit` messages for which `wanted` is true; others are read
    /// and skipped.
    ///
    /// The index is eventually consistent with the table. Before acting on an entry, check the item
    /// again, as [`Ledger::expect_delivery`] does.
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
                    "an item of the attention index has no message id or no `since_ms`".to_owned(),
                ));
            };
            let message = Attention { key, since, entry };
            if wanted(&message) {
                found.push(message);
            }
        }
        Ok(found)
    }

    /// Records that a waiting, unclaimed message is about to be queued again, so that it is not
    /// queued again before that delivery is overdue too.
    ///
    /// Returns whether it was still waiting and unclaimed.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the state is unknown; leave the message to the next check.
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

    /// Records that a message whose attempts ran out is on the sync queue again, and waits for the
    /// attempt at `retry_at`.
    ///
    /// Returns whether its attempts had run out and no worker held it.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the state is unknown; the message can be claimed either way.
    pub async fn mark_requeued(
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
                "SET #state = :waiting, attention = :waiting, retry_at_ms = :retry_at REMOVE claimable",
            )
            .condition_expression(
                "#state = :dead AND claimable = :true AND attribute_not_exists(claim_token)",
            )
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":waiting", text(State::Waiting.as_str()))
            .expression_attribute_values(":dead", text(State::Dead.as_str()))
            .expression_attribute_values(":true", AttributeValue::Bool(true))
            .expression_attribute_values(":retry_at", milliseconds(retry_at));
        took_effect(call.send().await)
    }

    /// Allows a dead message to be claimed again, whatever the cause of death. Returns whether it
    /// was dead.
    ///
    /// It stays dead until a request names it: put one on the sync queue afterwards.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the state is unknown; call it again.
    pub async fn redrive(&self, key: &MessageKey) -> Result<bool, LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)))
            .update_expression("SET claimable = :true REMOVE awaits_dead_letter")
            .condition_expression("#state = :dead")
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":dead", text(State::Dead.as_str()))
            .expression_attribute_values(":true", AttributeValue::Bool(true));
        took_effect(call.send().await)
    }
}
