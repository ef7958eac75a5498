//! What the backfill knows about a mailbox as a whole: its watermark, its leases and its parked
//! tasks, in two items of the ledger's table.
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk`, `sk` | S | `mailbox#` and the grant id; `backfill`. A second item, `history`, has only the lease of operators' tasks |
//! | `watermark_ms` | N | the watermark: every message up to this time was listed and has a state, Unix milliseconds |
//! | `lease_task` | S | the task that holds the mailbox |
//! | `lease_token` | S | the token of the worker that runs the task; absent while the task is on the queue |
//! | `lease_until_ms` | N | the end of the lease, Unix milliseconds |
//! | `parked` | SS | tasks that wait until the mailbox is signed in again, as they were queued |
//!
//! One worker at a time lists a mailbox for the schedule, and another one for an operator: an
//! operator's backfill may take days, and today's mail must not wait for it. Two concurrent lists
//! of one mailbox are safe, since every message is claimed. A task that returns to its queue keeps
//! the lease, so that no other task starts between two of its invocations. If a worker dies, others
//! wait no longer than [`TASK_LEASE`].
//!
//! The schedule lists from the watermark, so it recovers from any outage: our own, Nylas', or that
//! of a mailbox that had to be signed in again.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use chrono::{DateTime, TimeDelta, Utc};

use super::ClaimToken;
use super::messages::{
    Ledger, LedgerError, milliseconds, number, refusal, text, text_of, took_effect, unavailable,
};
use crate::model::ids::GrantId;

/// How long a worker leases a mailbox: longer than the function runs, and shorter than the queue
/// hides the task. A check reads `template.yaml`.
pub const TASK_LEASE: TimeDelta = TimeDelta::seconds(900);

/// The watermark and the parked tasks of a mailbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MailboxRecord {
    /// The watermark: every message up to this time was listed and has a state. `None` if the
    /// mailbox was never listed completely.
    pub watermark: Option<DateTime<Utc>>,
    /// Tasks that wait until the mailbox is signed in again.
    pub parked: Vec<String>,
}

/// The kinds of lists, each of which has a separate lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// The schedule.
    Schedule,
    /// An operator who requested a backfill.
    Operator,
}

/// The result of leasing a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// The caller holds the lease.
    Won,
    /// Another task holds the lease until this time.
    HeldUntil(DateTime<Utc>),
}

impl Ledger {
    /// Returns the records of these mailboxes, without those that no run has reached.
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
                watermark: number(&item, "watermark_ms").and_then(DateTime::from_timestamp_millis),
                parked: parked.cloned().unwrap_or_default(),
            };
            records.insert(grant, record);
        }
        Ok(records)
    }

    /// Leases a mailbox to `task` for [`TASK_LEASE`], with this worker as the holder.
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

    /// Ends the work of `token` on a mailbox. `kept_until` keeps the lease for the same task, which
    /// returns by then; `None` releases the mailbox.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the mailbox is free once the lease has expired.
    pub async fn release_mailbox(
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

    /// Advances the watermark of a mailbox to `until`. It never moves back.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the next run lists more than necessary.
    pub async fn advance_watermark(
        &self,
        grant: &GrantId,
        until: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(grant)))
            .update_expression("SET watermark_ms = :until")
            .condition_expression("attribute_not_exists(watermark_ms) OR watermark_ms < :until")
            .expression_attribute_values(":until", milliseconds(until));
        took_effect(call.send().await).map(drop)
    }

    /// Parks a task until the mailbox can be read again.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: leave the task on its queue.
    pub async fn park(&self, grant: &GrantId, task: &str) -> Result<(), LedgerError> {
        self.change_parked(grant, "ADD parked :task", task).await
    }

    /// Removes a parked task that is on the queue again.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the task is queued again, which only adds one check of it.
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
