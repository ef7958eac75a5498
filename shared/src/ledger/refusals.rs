//! Refusals that may concern the caller instead of one message ([`crate::clients::refusal`]),
//! stored on the item of a pause ([`super::pauses`]).
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `cause` | S | why all processes pause: the refusal's status and code, without content. Absent for a pause that the service asked for |
//! | `refusals` | N | how many refusals of the caller there were in a row |
//! | `refused_code` | S | the code that different messages met in a row; absent if the last one passed, and from the start of a pause with a cause |
//! | `refused_messages` | SS | digests of these messages |
//! | `passed_ms` | N | when a message passed after others had been refused, Unix milliseconds |
//!
//! A pause with a cause ends in two steps. When its time has passed, one worker takes the probe
//! ([`Ledger::take_probe`]), which extends the pause for all other workers. If the probe passes,
//! the pause is removed ([`Ledger::passed`]). If a worker dies during the probe, the others wait
//! one pause longer.
//!
//! While messages pass, nothing of this is written.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::messages::{
    Ledger, LedgerError, milliseconds, number, refusal, shortened, text, text_of, took_effect,
    unavailable,
};
use super::pauses::{Scope, expiry};
use crate::clients::refusal::RefusalState;
use crate::model::ids::MessageKey;

/// The namespace of the message digests.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d61_696c_7665_5273_8000_7265_6675_7365);

/// Reads the refusal state from an item.
pub(super) fn read_refusals(item: &HashMap<String, AttributeValue>) -> RefusalState {
    let count = |name| number(item, name).and_then(|n| u32::try_from(n).ok());
    let messages = item
        .get("refused_messages")
        .and_then(|set| set.as_ss().ok());
    RefusalState {
        cause: text_of(item, "cause").map(str::to_owned),
        times: count("refusals").unwrap_or_default(),
        code: text_of(item, "refused_code").map(str::to_owned),
        messages: messages.map_or(0, Vec::len),
        passed_at: number(item, "passed_ms").and_then(DateTime::from_timestamp_millis),
    }
}

impl Ledger {
    /// Pauses a scope until `until` because the caller was refused for the `times`-th time in a
    /// row. A longer pause that the service asked for stays.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: other processes are refused too and then store a pause.
    pub async fn pause_refused(
        &self,
        scope: &Scope,
        cause: &str,
        times: u32,
        until: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(scope.key()))
            .update_expression(
                "SET paused_until_ms = :until, cause = :cause, refusals = :times, expires_at = :seconds \
                 REMOVE refused_code, refused_messages",
            )
            // The result of a probe replaces the end that the probe had set.
            .condition_expression(
                "attribute_not_exists(paused_until_ms) OR paused_until_ms < :until OR attribute_exists(cause)",
            )
            .expression_attribute_values(":until", milliseconds(until))
            .expression_attribute_values(":cause", text(shortened(cause)))
            .expression_attribute_values(":times", AttributeValue::N(times.to_string()))
            .expression_attribute_values(":seconds", expiry(until));
        took_effect(call.send().await).map(drop)
    }

    /// Takes the single probe of a pause whose time has passed, and extends the pause to `until`
    /// for all other workers. Returns whether the caller has the probe.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the caller may or may not have the probe; send nothing.
    pub async fn take_probe(
        &self,
        scope: &Scope,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Result<bool, LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(scope.key()))
            .update_expression("SET paused_until_ms = :until, expires_at = :seconds")
            .condition_expression("attribute_exists(cause) AND paused_until_ms <= :now")
            .expression_attribute_values(":until", milliseconds(until))
            .expression_attribute_values(":now", milliseconds(now))
            .expression_attribute_values(":seconds", expiry(until));
        took_effect(call.send().await)
    }

    /// Returns a probe that gave no result: the next one may be taken immediately.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the next probe follows after the pause.
    pub async fn return_probe(&self, scope: &Scope, now: DateTime<Utc>) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(scope.key()))
            .update_expression("SET paused_until_ms = :now")
            .condition_expression("attribute_exists(cause)")
            .expression_attribute_values(":now", milliseconds(now));
        took_effect(call.send().await).map(drop)
    }

    /// Records that a message passed: a pause with a cause ends, and refused messages are judged
    /// again with this knowledge.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the next message that passes records it.
    pub async fn passed(&self, scope: &Scope, now: DateTime<Utc>) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(scope.key()))
            .update_expression(
                "SET passed_ms = :now, expires_at = :seconds \
                 REMOVE paused_until_ms, cause, refusals, refused_code, refused_messages",
            )
            // A pause that the service asked for stays.
            .condition_expression("attribute_exists(cause) OR attribute_exists(refused_code)")
            .expression_attribute_values(":now", milliseconds(now))
            .expression_attribute_values(":seconds", expiry(now));
        took_effect(call.send().await).map(drop)
    }

    /// Records which messages met a code. Returns how many different messages met it in a row,
    /// these included.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: they may or may not be recorded.
    pub async fn note_refused(
        &self,
        scope: &Scope,
        code: &str,
        messages: &[&MessageKey],
        now: DateTime<Utc>,
    ) -> Result<usize, LedgerError> {
        let digests: BTreeSet<String> = messages.iter().map(|key| digest(key)).collect();
        let digests = AttributeValue::Ss(digests.into_iter().collect());
        let call = || {
            self.client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(scope.key()))
                .expression_attribute_values(":code", text(shortened(code)))
                .expression_attribute_values(":messages", digests.clone())
                .expression_attribute_values(":seconds", expiry(now))
                .return_values(ReturnValue::AllNew)
        };
        let more = call()
            .update_expression("SET expires_at = :seconds ADD refused_messages :messages")
            .condition_expression("refused_code = :code");
        let noted = match more.send().await {
            Ok(noted) => noted,
            // The messages before met another code, or this is the first refusal.
            Err(error) if refusal(&error).is_some() => {
                let first = call().update_expression(
                    "SET refused_code = :code, refused_messages = :messages, expires_at = :seconds",
                );
                first.send().await.map_err(|error| unavailable(&error))?
            }
            Err(error) => return Err(unavailable(&error)),
        };
        let state = noted.attributes().map(read_refusals);
        Ok(state.map_or(0, |state| state.messages))
    }
}

fn digest(key: &MessageKey) -> String {
    Uuid::new_v5(&NAMESPACE, key.to_string().as_bytes())
        .simple()
        .to_string()
}
