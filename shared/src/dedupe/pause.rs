//! The pause that Dataverse asked for: one item of the ledger's table, for all workers.
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk` | S | `pause` |
//! | `sk` | S | `dataverse` |
//! | `until_ms` | N | nothing is sent before, Unix milliseconds |
//! | `expires_at` | N | when the table's TTL may remove it, Unix seconds |
//!
//! Dataverse counts what one user sends, whichever worker it comes from, and every refused request lengthens the wait (Dataverse facts §11.1).
//! A pause only ever grows: of two workers that are refused, the one that has to wait for longer speaks for both.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, Utc};

use super::ledger::{Ledger, LedgerError, milliseconds, text, took_effect, unavailable};

impl Ledger {
    /// Nobody sends anything to Dataverse before `until`, unless somebody has been told to wait for longer already.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the others find out for themselves.
    pub async fn pause(&self, until: DateTime<Utc>) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key()))
            .update_expression("SET until_ms = :until, expires_at = :seconds")
            .condition_expression("attribute_not_exists(pk) OR until_ms < :until")
            .expression_attribute_values(":until", milliseconds(until))
            .expression_attribute_values(
                ":seconds",
                AttributeValue::N(until.timestamp().to_string()),
            );
        took_effect(call.send().await).map(drop)
    }

    /// Until when nothing may be sent; `None` when it may.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn paused_until(
        &self,
        now: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, LedgerError> {
        let call = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(item_key()));
        let found = call.send().await.map_err(|error| unavailable(&error))?;
        let until = found
            .item()
            .and_then(|item| item.get("until_ms"))
            .and_then(|value| value.as_n().ok())
            .and_then(|n| n.parse().ok())
            .and_then(DateTime::from_timestamp_millis);
        Ok(until.filter(|until| *until > now))
    }
}

fn item_key() -> HashMap<String, AttributeValue> {
    HashMap::from([
        ("pk".to_owned(), text("pause")),
        ("sk".to_owned(), text("dataverse")),
    ])
}
