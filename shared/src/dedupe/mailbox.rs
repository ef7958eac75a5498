//! What the backfill knows of a mailbox as a whole: one item of the ledger's table.
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk`, `sk` | S | `mailbox#` and the grant id; `backfill`. A second item, `history`, has the lease of operators' tasks alone |
//! | `listed_until_ms` | N | the watermark: every message up to then was listed and has a state, Unix milliseconds |
//! | `lease_task` | S | the task that the mailbox is kept for |
//! | `lease_token` | S | who works on it; absent while the task is on the queue |
//! | `lease_until_ms` | N | until when it is kept, Unix milliseconds |
//! | `parked` | SS | tasks that wait until somebody has signed in again, as they were queued |
//!
//! One worker at a time lists a mailbox for the schedule, and one for an operator: history may take days, and the mail of today does not wait for it. Two lists
//! of one mailbox harm nobody, since every message is claimed. A task that goes back to its queue keeps the mailbox, so that no other one slips in between two of its
//! invocations; whoever dies keeps nobody waiting for longer than [`TASK_LEASE`].
//!
//! The watermark makes every outage cover itself: the schedule lists from there, whether it was our own, Nylas', or a mailbox that needed signing in.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use chrono::{DateTime, TimeDelta, Utc};

use super::ClaimToken;
use super::ledger::{
    Ledger, LedgerError, milliseconds, number, refusal, text, text_of, took_effect, unavailable,
};
use crate::ids::GrantId;

/// How long a worker keeps a mailbox: longer than the function runs, shorter than the queue hides the task. A check reads `template.yaml`.
pub const TASK_LEASE: TimeDelta = TimeDelta::seconds(900);

/// What the backfill knows of a mailbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailboxRecord {
    /// Every message up to then was listed and has a state; `None` when the mailbox was never listed to the end.
    pub listed_until: Option<DateTime<Utc>>,
    /// Tasks that wait until somebody has signed in again.
    pub parked: Vec<String>,
}

/// For whom a mailbox is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// The schedule.
    Schedule,
    /// Somebody who asked for history.
    Operator,
}

/// What came of asking for a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// It is ours.
    Won,
    /// It is kept for another worker until then.
    HeldUntil(DateTime<Utc>),
}

impl Ledger {
    /// What is known of these mailboxes; nothing of one that no run has come to.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn mailbox_records(
        &self,
        grants: &[GrantId],
    ) -> Result<HashMap<GrantId, MailboxRecord>, LedgerError> {
        let mut records = HashMap::new();
        for item in self.items(grants.iter().map(item_key)).await? {
            let grant = text_of(&item, "pk").and_then(|pk| pk.strip_prefix("mailbox#"));
            let Some(grant) = grant.and_then(|grant| grant.parse().ok()) else {
                continue;
            };
            let parked = item.get("parked").and_then(|value| value.as_ss().ok());
            let record = MailboxRecord {
                listed_until: number(&item, "listed_until_ms")
                    .and_then(DateTime::from_timestamp_millis),
                parked: parked.cloned().unwrap_or_default(),
            };
            records.insert(grant, record);
        }
        Ok(records)
    }

    /// Keeps a mailbox for `task` for [`TASK_LEASE`], with this worker on it.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn lease_mailbox(
        &self,
        grant: &GrantId,
        lists: Lists,
        task: &str,
        token: ClaimToken,
        now: DateTime<Utc>,
    ) -> Result<Lease, LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(lease_key(grant, lists)))
            .update_expression("SET lease_task = :task, lease_token = :token, lease_until_ms = :until")
            .condition_expression(
                "attribute_not_exists(lease_until_ms) OR lease_until_ms <= :now OR lease_token = :token \
                 OR (lease_task = :task AND attribute_not_exists(lease_token))",
            )
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .expression_attribute_values(":task", text(task))
            .expression_attribute_values(":token", text(token.to_string()))
            .expression_attribute_values(":until", milliseconds(now + TASK_LEASE))
            .expression_attribute_values(":now", milliseconds(now));
        let Err(error) = call.send().await else {
            return Ok(Lease::Won);
        };
        let Some(refusal) = refusal(&error) else {
            return Err(unavailable(&error));
        };
        let until = refusal
            .item()
            .and_then(|item| number(item, "lease_until_ms"));
        let until = until.and_then(DateTime::from_timestamp_millis);
        Ok(Lease::HeldUntil(until.unwrap_or(now + TASK_LEASE)))
    }

    /// Ends the work of `token` on a mailbox. `kept_until` keeps it for the same task, which comes back by then; `None` leaves it to anybody.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the mailbox is free once the lease has run out.
    pub async fn leave_mailbox(
        &self,
        grant: &GrantId,
        lists: Lists,
        token: ClaimToken,
        kept_until: Option<DateTime<Utc>>,
    ) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(lease_key(grant, lists)))
            .condition_expression("lease_token = :token")
            .expression_attribute_values(":token", text(token.to_string()));
        let call = match kept_until {
            Some(until) => call
                .update_expression("SET lease_until_ms = :until REMOVE lease_token")
                .expression_attribute_values(":until", milliseconds(until)),
            None => call.update_expression("REMOVE lease_task, lease_token, lease_until_ms"),
        };
        took_effect(call.send().await).map(drop)
    }

    /// Moves the watermark of a mailbox on to `until`, and never back.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the next run lists more than it would have to.
    pub async fn listed_until(
        &self,
        grant: &GrantId,
        until: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(grant)))
            .update_expression("SET listed_until_ms = :until")
            .condition_expression(
                "attribute_not_exists(listed_until_ms) OR listed_until_ms < :until",
            )
            .expression_attribute_values(":until", milliseconds(until));
        took_effect(call.send().await).map(drop)
    }

    /// Keeps a task until the mailbox can be read again.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: leave the task on its queue.
    pub async fn park(&self, grant: &GrantId, task: &str) -> Result<(), LedgerError> {
        self.change_parked(grant, "ADD parked :task", task).await
    }

    /// Forgets a task that was parked and is on the queue again.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: it is queued once more, which costs one look at it.
    pub async fn unpark(&self, grant: &GrantId, task: &str) -> Result<(), LedgerError> {
        self.change_parked(grant, "DELETE parked :task", task).await
    }

    async fn change_parked(
        &self,
        grant: &GrantId,
        change: &str,
        task: &str,
    ) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(grant)))
            .update_expression(change)
            .expression_attribute_values(":task", AttributeValue::Ss(vec![task.to_owned()]));
        took_effect(call.send().await).map(drop)
    }
}

fn lease_key(grant: &GrantId, lists: Lists) -> HashMap<String, AttributeValue> {
    let mut key = item_key(grant);
    if lists == Lists::Operator {
        key.insert("sk".to_owned(), text("history"));
    }
    key
}

fn item_key(grant: &GrantId) -> HashMap<String, AttributeValue> {
    HashMap::from([
        ("pk".to_owned(), text(format!("mailbox#{grant}"))),
        ("sk".to_owned(), text("backfill")),
    ])
}
