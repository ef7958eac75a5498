//! Stores the policy document: one item of the ledger's table, for all functions.
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk` | S | `policy` |
//! | `sk` | S | `current` |
//! | `document` | S | the document, as it was pushed |
//! | `version` | S | [`crate::policy::version_of`] the document |
//! | `pushed_at_ms` | N | when it was stored, Unix milliseconds |
//! | `revision` | N | counts the pushes, from 1; items of an earlier build have none, which counts as 0 |
//!
//! The content of the document, and the defaults without one: [`crate::policy`].

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, Utc};

use super::messages::{Ledger, LedgerError, milliseconds, number, text, text_of, took_effect};

/// A stored document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPolicy {
    /// The document, as it was pushed.
    pub document: String,
    /// Its version.
    pub version: String,
    /// When it was stored; `None` if the item does not record it.
    pub pushed_at: Option<DateTime<Utc>>,
    /// Counts the pushes: a later document has a higher revision, whatever its content.
    pub revision: u64,
}

/// The result of storing a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is stored.
    Stored,
    /// Another document was stored since the caller read it: look at that one first.
    Changed,
}

impl Ledger {
    /// Returns the stored document; `None` if there is none.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`], also if the item exists but lacks its document: which policy
    /// applies is unknown, so decide nothing.
    pub async fn stored_policy(&self) -> Result<Option<StoredPolicy>, LedgerError> {
        let Some(item) = self.item(item_key()).await? else {
            return Ok(None);
        };
        let document = text_of(&item, "document").ok_or_else(|| {
            LedgerError::Unavailable("the policy item has no document".to_owned())
        })?;
        Ok(Some(StoredPolicy {
            document: document.to_owned(),
            version: text_of(&item, "version").unwrap_or_default().to_owned(),
            pushed_at: number(&item, "pushed_at_ms").and_then(DateTime::from_timestamp_millis),
            revision: number(&item, "revision")
                .and_then(|it| it.try_into().ok())
                .unwrap_or(0),
        }))
    }

    /// Stores a document if the current one still has the version `seen`; `None` if there was none.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the document may or may not be stored.
    pub async fn push_policy(
        &self,
        document: &str,
        version: &str,
        seen: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<Pushed, LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key()))
            .update_expression(
                "SET document = :document, #version = :version, pushed_at_ms = :now \
                 ADD revision :one",
            )
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":document", text(document))
            .expression_attribute_values(":version", text(version))
            .expression_attribute_values(":now", milliseconds(now));
        // If the response to the first call was lost, the SDK repeats it and meets its own write.
        // The push then counts twice, which is harmless: revisions only increase.
        let call = match seen {
            None => call.condition_expression("attribute_not_exists(pk) OR #version = :version"),
            Some(seen) => call
                .condition_expression(
                    "#version = :seen OR #version = :version OR attribute_not_exists(#version)",
                )
                .expression_attribute_values(":seen", text(seen)),
        };
        let stored = took_effect(call.send().await)?;
        Ok(if stored {
            Pushed::Stored
        } else {
            Pushed::Changed
        })
    }
}

fn item_key() -> HashMap<String, AttributeValue> {
    HashMap::from([
        ("pk".to_owned(), text("policy")),
        ("sk".to_owned(), text("current")),
    ])
}
