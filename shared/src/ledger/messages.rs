//! The ledger: one DynamoDB item for each message of each mailbox.
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk` | S | `mailbox#` and the grant id |
//! | `sk` | S | `message#` and the provider's message id |
//! | `state` | S | `waiting`, `written`, `skipped` or `dead` |
//! | `claim_token` | S | the token of the worker that holds the claim; absent if unclaimed |
//! | `lease_until_ms` | N | the end of the lease, Unix milliseconds; present together with `claim_token` |
//! | `settled_by` | S | the token of the claim that ended last; absent while claimed. It shows whether a settlement whose response was lost was stored |
//! | `retry_at_ms` | N | when the queue delivers the message again, Unix milliseconds; only while released |
//! | `attempts` | N | how often the message was claimed |
//! | `failures` | N | how many attempts failed or did not finish. A claim counts its attempt in advance; settling it as postponed subtracts it again. Absent when written, skipped or settled as dead |
//! | `claimable` | BOOL | while dead: its attempts ran out, or the last one is running; it may be claimed again |
//! | `awaits_dead_letter` | BOOL | while `claimable`: the deliveries that its queue message has left do not claim it |
//! | `attention` | S | `waiting` or `dead`, like `state`; absent in the other two states. Key of the sparse index ([`super::attention_index`]) |
//! | `since_ms` | N | since when it has been waiting or dead, Unix milliseconds; present together with `attention` |
//! | `reason` | S | the rule, the error or the omissions, without content |
//! | `activity_id` | S | the row in Dataverse, once written. Key of the index by row ([`super::decisions`]) |
//! | `replaced_row` | S | our row that held the message, if another client's row has replaced it ([`super::row_replacement`]) |
//! | `decision` | S | the decision record, as JSON without content ([`crate::decision_record`]); in a final state |
//! | `attempted_decision` | S | while waiting or dead: the decision by which the row may have been written ([`super::decisions`]) |
//! | `changed_at_ms` | N | the last write, Unix milliseconds |
//! | `expires_at` | N | when the table's TTL may remove the item, Unix seconds; absent while waiting or dead |
//!
//! The table has further items: one for each Dataverse user and further pauses ([`super::pauses`]),
//! the policy ([`super::policy_document`]), up to two for each mailbox ([`super::mailbox_state`]),
//! and those of backfill runs ([`super::backfill_runs`]).
//!
//! If TTL has removed an item, the message only needs another lookup: the activity id still
//! prevents a second row.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, ReturnValue, ReturnValuesOnConditionCheckFailure,
};
use chrono::{DateTime, TimeDelta, Utc};

use super::decisions;
use super::decisions::DecisionToStore;
use super::{Claim, ClaimRequest, ClaimToken, Entry, LEASE, SKIPPED_FOR_NOW, State, decide_claim};
use crate::clients::aws;
use crate::model::ids::{ActivityId, MessageKey};

/// How long a final state is stored: longer than the longest backfill, so that it processes no
/// message twice.
const KEPT: TimeDelta = TimeDelta::days(3 * 365);

/// The reason of a message during its last attempt, until the attempt ends.
pub const LAST_DELIVERY_UNFINISHED: &str = "the last delivery did not finish";

/// The most keys of one BatchGetItem call. Source: Amazon DynamoDB API Reference, BatchGetItem.
const MOST_KEYS: usize = 100;

/// The most BatchGetItem calls for one set of keys, after which the table counts as unavailable. A
/// response has room for fifty of our largest items.
const MOST_CALLS: usize = 8;

/// The longest stored reason, in bytes. A longer one is cut.
const LONGEST_REASON: usize = 500;

/// Why a ledger operation failed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The table could not be reached, throttled the call, or contains something unreadable: try
    /// the message again later.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
    /// Another worker has taken over the message. Do not write its state; that worker will.
    #[error("the claim was lost: another worker took over the message")]
    ClaimLost,
}

/// How a claim ends: the outcome of the attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredOutcome {
    /// One completed email activity holds the message.
    Written {
        /// The row.
        activity_id: ActivityId,
        /// Its omissions, or how the row came to exist.
        note: Option<String>,
    },
    /// A policy rule excluded it.
    Skipped {
        /// The rule.
        rule: String,
    },
    /// It cannot be written.
    Dead {
        /// The error.
        reason: String,
        /// Its attempts ran out, so a new request may claim it again.
        claimable: bool,
    },
    /// It may be claimed again immediately; the queue delivers it at about `retry_at`.
    Released {
        /// When the queue delivers it again.
        retry_at: DateTime<Utc>,
        /// The error that delayed it.
        reason: String,
        /// The attempt counts as a failure of the message; a postponed attempt does not.
        counted: bool,
    },
    /// Like [`StoredOutcome::Released`], on the last delivery of its queue message. It is stored as
    /// dead and claimable until it is on the queue again ([`Ledger::mark_requeued`]), in case the
    /// worker dies before it queues it.
    Requeued {
        /// The error that delayed it.
        reason: String,
        /// See [`StoredOutcome::Released`].
        counted: bool,
    },
}

impl StoredOutcome {
    const fn state(&self) -> State {
        match self {
            Self::Written { .. } => State::Written,
            Self::Skipped { .. } => State::Skipped,
            Self::Dead { .. } | Self::Requeued { .. } => State::Dead,
            Self::Released { .. } => State::Waiting,
        }
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Written { note, .. } => note.as_deref(),
            Self::Skipped { rule } => Some(rule),
            Self::Dead { reason, .. }
            | Self::Released { reason, .. }
            | Self::Requeued { reason, .. } => Some(reason),
        }
    }
}

/// What a settlement does with the failure count, which includes the attempt that ends.
enum Failures {
    Counted,
    TakenBack,
    Forgotten,
}

impl StoredOutcome {
    const fn failures(&self) -> Failures {
        match self {
            Self::Released { counted: true, .. } | Self::Requeued { counted: true, .. } => {
                Failures::Counted
            }
            Self::Released { .. } | Self::Requeued { .. } => Failures::TakenBack,
            Self::Written { .. } | Self::Skipped { .. } | Self::Dead { .. } => Failures::Forgotten,
        }
    }

    /// Returns the attributes that depend on the outcome; those without a value are removed.
    fn attributes(&self, now: DateTime<Utc>) -> [(&'static str, Option<AttributeValue>); 7] {
        let state = self.state();
        let is_final = matches!(state, State::Written | State::Skipped);
        let activity_id = match self {
            Self::Written { activity_id, .. } => Some(text(activity_id.to_string())),
            _ => None,
        };
        let retry_at = match self {
            Self::Released { retry_at, .. } => Some(milliseconds(*retry_at)),
            _ => None,
        };
        let awaits_dead_letter = matches!(
            self,
            Self::Dead {
                claimable: true,
                ..
            }
        );
        let claimable = awaits_dead_letter || matches!(self, Self::Requeued { .. });
        let is_true = |it: bool| it.then_some(AttributeValue::Bool(true));
        let expires_at = is_final.then(|| (now + KEPT).timestamp());
        [
            ("attention", (!is_final).then(|| text(state.as_str()))),
            (
                "reason",
                self.reason().map(|reason| text(shortened(reason))),
            ),
            ("activity_id", activity_id),
            ("retry_at_ms", retry_at),
            ("claimable", is_true(claimable)),
            ("awaits_dead_letter", is_true(awaits_dead_letter)),
            (
                "expires_at",
                expires_at.map(|seconds| AttributeValue::N(seconds.to_string())),
            ),
        ]
    }
}

/// The ledger on one DynamoDB table.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub(super) client: Client,
    pub(super) table: String,
}

impl Ledger {
    /// Creates a ledger on the table of this name, which has the string keys `pk` and `sk`.
    #[must_use]
    pub fn new(client: Client, table: String) -> Self {
        Self { client, table }
    }

    /// Claims `key` for [`LEASE`].
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the claim may or may not be stored; let the queue deliver the
    /// message again.
    pub async fn claim(
        &self,
        key: &MessageKey,
        request: &ClaimRequest,
    ) -> Result<Claim, LedgerError> {
        let ClaimRequest {
            token,
            now,
            revisit,
            redelivery,
            last_delivery,
        } = *request;
        // A transcription of `decide_claim`.
        let given_up = if redelivery {
            "(claimable = :true AND attribute_not_exists(awaits_dead_letter))"
        } else {
            "claimable = :true"
        };
        let mut condition = format!(
            "attribute_not_exists(pk) OR ((#state = :waiting OR {given_up}) AND \
             (attribute_not_exists(claim_token) OR claim_token = :token OR lease_until_ms <= :now))"
        );
        let mut update =
            "SET #state = :state, attention = :state, since_ms = if_not_exists(since_ms, :now), \
             claim_token = :token, lease_until_ms = :until, changed_at_ms = :now"
                .to_owned();
        update.push_str(if last_delivery {
            ", claimable = :true, reason = :last \
             REMOVE settled_by, retry_at_ms, expires_at, awaits_dead_letter \
             ADD attempts :one, failures :one"
        } else {
            " REMOVE settled_by, retry_at_ms, expires_at, awaits_dead_letter, claimable \
             ADD attempts :one, failures :one"
        });
        let state = if last_delivery {
            State::Dead
        } else {
            State::Waiting
        };
        let mut call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)))
            .update_expression(update)
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":state", text(state.as_str()))
            .expression_attribute_values(":waiting", text(State::Waiting.as_str()))
            .expression_attribute_values(":true", AttributeValue::Bool(true))
            .expression_attribute_values(":token", text(token.to_string()))
            .expression_attribute_values(":until", milliseconds(now + LEASE))
            .expression_attribute_values(":now", milliseconds(now))
            .expression_attribute_values(":one", one())
            .return_values(ReturnValue::UpdatedNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        if last_delivery {
            call = call.expression_attribute_values(":last", text(LAST_DELIVERY_UNFINISHED));
        }
        if revisit {
            let names: Vec<String> = (0..SKIPPED_FOR_NOW.len())
                .map(|n| format!(":rule{n}"))
                .collect();
            condition.push_str(&format!(
                " OR (#state = :skipped AND reason IN ({}))",
                names.join(", ")
            ));
            call = call.expression_attribute_values(":skipped", text(State::Skipped.as_str()));
            for (name, rule) in names.into_iter().zip(SKIPPED_FOR_NOW) {
                call = call.expression_attribute_values(name, text(rule));
            }
        }
        let error = match call.condition_expression(condition).send().await {
            Ok(claimed) => return Ok(won(claimed.attributes(), now)),
            Err(error) => error,
        };
        let Some(refusal) = refusal(&error) else {
            return Err(unavailable(&error));
        };
        let winner = refusal.item().ok_or_else(|| {
            LedgerError::Unavailable("a rejected claim came without the stored item".to_owned())
        })?;
        match decide_claim(Some(&read_entry(winner)?), request) {
            // The stored item contradicts the condition that just failed, so it was read between
            // two writes: try later.
            Claim::Won { .. } => Ok(Claim::HeldUntil(now + LEASE)),
            lost => Ok(lost),
        }
    }

    /// Ends a claim with an outcome.
    ///
    /// # Errors
    /// - [`LedgerError::ClaimLost`] if `token` no longer holds `key`: leave the message to the
    ///   worker that holds it.
    /// - [`LedgerError::Unavailable`]: the claim may still be held; the message can be claimed
    ///   again after its lease.
    pub async fn settle(
        &self,
        key: &MessageKey,
        token: ClaimToken,
        now: DateTime<Utc>,
        stored_outcome: &StoredOutcome,
    ) -> Result<(), LedgerError> {
        self.settle_with_decision(key, token, now, stored_outcome, None)
            .await
    }

    /// Ends a claim with an outcome and stores the decision record by the rules of
    /// [`super::decisions`].
    ///
    /// # Errors
    /// The same as [`Ledger::settle`].
    pub async fn settle_with_decision(
        &self,
        key: &MessageKey,
        token: ClaimToken,
        now: DateTime<Utc>,
        stored_outcome: &StoredOutcome,
        decided: Option<&DecisionToStore>,
    ) -> Result<(), LedgerError> {
        let state = stored_outcome.state();
        let failures = stored_outcome.failures();
        let mut set = "SET #state = :state, changed_at_ms = :now, settled_by = :token".to_owned();
        let mut remove = "REMOVE claim_token, lease_until_ms".to_owned();
        let mut call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)));
        for (name, value) in stored_outcome.attributes(now) {
            match value {
                Some(value) => {
                    set.push_str(&format!(", {name} = :{name}"));
                    call = call.expression_attribute_values(format!(":{name}"), value);
                }
                None => remove.push_str(&format!(", {name}")),
            }
        }
        match failures {
            Failures::Counted => {}
            Failures::TakenBack => {
                set.push_str(", failures = failures - :one");
                call = call.expression_attribute_values(":one", one());
            }
            Failures::Forgotten => remove.push_str(", failures"),
        }
        if let Some(decided) = decided {
            let record_update = decided.record_update(state);
            if !record_update.set.is_empty() {
                set.push_str(", ");
                set.push_str(record_update.set);
                call = call.expression_attribute_values(":decision", decisions::value(decided));
            }
            if record_update.forget_tried {
                remove.push_str(", attempted_decision");
            }
        }
        match state {
            // `since_ms` keeps the time of the first claim, however many attempts follow.
            State::Waiting => {}
            State::Dead => set.push_str(", since_ms = :now"),
            State::Written | State::Skipped => remove.push_str(", since_ms"),
        }
        let call = call
            .condition_expression("claim_token = :token")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .update_expression(format!("{set} {remove}"))
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":state", text(state.as_str()))
            .expression_attribute_values(":token", text(token.to_string()))
            .expression_attribute_values(":now", milliseconds(now));
        let Err(error) = call.send().await else {
            return Ok(());
        };
        // If the response to the first call was lost, the SDK repeated it and met our own write.
        let is_ours = |item: &HashMap<_, _>| {
            text_of(item, "settled_by") == Some(token.to_string().as_str())
                && text_of(item, "state") == Some(state.as_str())
                && number(item, "changed_at_ms") == Some(now.timestamp_millis())
        };
        match refusal(&error) {
            Some(refusal) if refusal.item().is_some_and(is_ours) => Ok(()),
            Some(_) => Err(LedgerError::ClaimLost),
            None => Err(unavailable(&error)),
        }
    }

    /// Returns the state of one message; `None` if it has never been claimed.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn entry(&self, key: &MessageKey) -> Result<Option<Entry>, LedgerError> {
        let item = self.item(item_key(key)).await?;
        item.as_ref().map(read_entry).transpose()
    }

    /// Returns the states of many messages, eventually consistent, without those that have never
    /// been claimed. A final state in the result is reliable; other states may be outdated.
    ///
    /// This costs a fraction of as many rejected claims: a rejected write is billed by the size of
    /// the item that it met.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn entries(
        &self,
        keys: &[MessageKey],
    ) -> Result<HashMap<MessageKey, Entry>, LedgerError> {
        let mut entries = HashMap::new();
        for item in self.items(keys.iter().map(item_key)).await? {
            if let Some(key) = key_of(&item) {
                entries.insert(key, read_entry(&item)?);
            }
        }
        Ok(entries)
    }

    /// Reads many items of the table, eventually consistent. The keys must be distinct. Returns the
    /// items that exist, in any order.
    pub(super) async fn items(
        &self,
        keys: impl Iterator<Item = HashMap<String, AttributeValue>>,
    ) -> Result<Vec<HashMap<String, AttributeValue>>, LedgerError> {
        let keys: Vec<_> = keys.collect();
        let mut found = Vec::new();
        for some in keys.chunks(MOST_KEYS) {
            let mut asked = some.to_vec();
            let mut calls = 0;
            // A response returns the keys that it had no room for as unprocessed.
            while !asked.is_empty() {
                calls += 1;
                if calls > MOST_CALLS {
                    return Err(LedgerError::Unavailable(
                        "BatchGetItem returned unprocessed keys too many times".to_owned(),
                    ));
                }
                let wanted = KeysAndAttributes::builder().set_keys(Some(asked)).build();
                let wanted = wanted.map_err(|error| LedgerError::Unavailable(error.to_string()))?;
                let call = self
                    .client
                    .batch_get_item()
                    .request_items(&self.table, wanted);
                let mut answer = call.send().await.map_err(|error| unavailable(&error))?;
                let items = answer.responses.take().unwrap_or_default().into_values();
                found.extend(items.flatten());
                let left = answer.unprocessed_keys.unwrap_or_default().into_values();
                asked = left.flat_map(|left| left.keys).collect();
            }
        }
        Ok(found)
    }

    /// Reads an item of the table with strong consistency; `None` if it does not exist.
    pub(super) async fn item(
        &self,
        key: HashMap<String, AttributeValue>,
    ) -> Result<Option<HashMap<String, AttributeValue>>, LedgerError> {
        let call = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .consistent_read(true);
        let found = call.send().await.map_err(|error| unavailable(&error))?;
        Ok(found.item)
    }
}

pub(super) fn item_key(key: &MessageKey) -> HashMap<String, AttributeValue> {
    HashMap::from([
        ("pk".to_owned(), text(format!("mailbox#{}", key.grant_id))),
        ("sk".to_owned(), text(format!("message#{}", key.message_id))),
    ])
}

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn milliseconds(time: DateTime<Utc>) -> AttributeValue {
    AttributeValue::N(time.timestamp_millis().to_string())
}

pub(super) fn shortened(reason: &str) -> &str {
    reason
        .get(..reason.floor_char_boundary(LONGEST_REASON))
        .unwrap_or(reason)
}

pub(super) fn text_of<'a>(
    item: &'a HashMap<String, AttributeValue>,
    name: &str,
) -> Option<&'a str> {
    item.get(name)
        .and_then(|value| value.as_s().ok())
        .map(String::as_str)
}

pub(super) fn number(item: &HashMap<String, AttributeValue>, name: &str) -> Option<i64> {
    item.get(name)
        .and_then(|value| value.as_n().ok())
        .and_then(|n| n.parse().ok())
}

fn count_of(item: &HashMap<String, AttributeValue>, name: &str) -> u32 {
    number(item, name)
        .and_then(|n| u32::try_from(n).ok())
        .unwrap_or_default()
}

fn is_true(item: &HashMap<String, AttributeValue>, name: &str) -> bool {
    item.get(name).and_then(|value| value.as_bool().ok()) == Some(&true)
}

fn one() -> AttributeValue {
    AttributeValue::N("1".to_owned())
}

/// Returns the claim of a successful write. `failures` as stored already counts the new attempt.
fn won(written: Option<&HashMap<String, AttributeValue>>, now: DateTime<Utc>) -> Claim {
    let failures = written.map_or(1, |item| count_of(item, "failures"));
    let since = written.and_then(|item| number(item, "since_ms"));
    Claim::Won {
        failures: failures.saturating_sub(1),
        since: since
            .and_then(DateTime::from_timestamp_millis)
            .unwrap_or(now),
    }
}

/// Parses the key of an item, the inverse of [`item_key`]; `None` for an item that is not a
/// message.
pub(super) fn key_of(item: &HashMap<String, AttributeValue>) -> Option<MessageKey> {
    Some(MessageKey {
        grant_id: text_of(item, "pk")?
            .strip_prefix("mailbox#")?
            .parse()
            .ok()?,
        message_id: text_of(item, "sk")?
            .strip_prefix("message#")?
            .parse()
            .ok()?,
    })
}

pub(super) fn read_entry(item: &HashMap<String, AttributeValue>) -> Result<Entry, LedgerError> {
    let text = |name| text_of(item, name);
    let state = text("state").and_then(State::parse).ok_or_else(|| {
        LedgerError::Unavailable("an item has no state or an unknown one".to_owned())
    })?;
    let token = text("claim_token").and_then(ClaimToken::parse);
    let until = number(item, "lease_until_ms").and_then(DateTime::from_timestamp_millis);
    Ok(Entry {
        state,
        held: token.zip(until),
        retry_at: number(item, "retry_at_ms").and_then(DateTime::from_timestamp_millis),
        attempts: count_of(item, "attempts"),
        failures: count_of(item, "failures"),
        since: number(item, "since_ms").and_then(DateTime::from_timestamp_millis),
        claimable: is_true(item, "claimable"),
        awaits_dead_letter: is_true(item, "awaits_dead_letter"),
        reason: text("reason").map(str::to_owned),
        activity_id: text("activity_id")
            .and_then(|id| id.parse().ok())
            .map(ActivityId::new),
        changed_at: number(item, "changed_at_ms").and_then(DateTime::from_timestamp_millis),
    })
}

/// Returns the failed condition of a conditional write; `None` if it failed for another reason.
pub(super) fn refusal(
    error: &SdkError<UpdateItemError>,
) -> Option<&ConditionalCheckFailedException> {
    match error.as_service_error()? {
        UpdateItemError::ConditionalCheckFailedException(refusal) => Some(refusal),
        _ => None,
    }
}

/// Returns whether a conditional write was applied; `false` if the item did not meet its condition.
pub(super) fn took_effect(
    written: Result<UpdateItemOutput, SdkError<UpdateItemError>>,
) -> Result<bool, LedgerError> {
    match written {
        Ok(_) => Ok(true),
        Err(error) if refusal(&error).is_some() => Ok(false),
        Err(error) => Err(unavailable(&error)),
    }
}

pub(super) fn unavailable<E: ProvideErrorMetadata>(error: &SdkError<E>) -> LedgerError {
    LedgerError::Unavailable(aws::describe(error))
}
