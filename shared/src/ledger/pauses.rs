//! Shared pauses: one item of the ledger's table for each Dataverse user, for all processes that
//! send as that user; one for each mailbox, for all that read it through Nylas; and one for all of
//! Nylas.
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk` | S | `rate_limit` |
//! | `sk` | S | `dataverse`; for a further application user `dataverse#` and its name; `nylas#` and the grant id; `nylas` |
//! | `paused_until_ms` | N | nothing is sent before this time, Unix milliseconds; absent before the first pause |
//! | `tat_ms` | N | the theoretical arrival time: the user's capacity is reserved up to it, Unix milliseconds ([`super::reservations`]) |
//! | `suggested_concurrency` | N | the concurrency that Dataverse suggested last ([`super::reservations`]) |
//! | `expires_at` | N | when the table's TTL may remove the item, Unix seconds |
//!
//! Why all processes pause when a service refused the caller, and how such a pause ends:
//! [`super::refusals`].
//!
//! Dataverse counts what one user sends, from whichever worker, and every refused request lengthens
//! the wait (Dataverse facts §11.1). A pause only ever grows: if two workers are refused, the
//! longer wait applies to both.

use std::collections::HashMap;
use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, TimeDelta, Utc};

use super::messages::{
    Ledger, LedgerError, milliseconds, number, text, text_of, took_effect, unavailable,
};
use super::refusals::read_refusals;
use crate::clients::refusal::RefusalState;
use crate::model::ids::GrantId;
use crate::rate_limit::{ApplicationUser, LimiterState};

/// How long the item is stored after it has become irrelevant.
const KEPT: TimeDelta = TimeDelta::days(1);

/// What a pause applies to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All requests to Dataverse as this user.
    Dataverse(ApplicationUser),
    /// All requests to Nylas.
    Nylas,
    /// All requests to Nylas for this mailbox.
    Mailbox(GrantId),
}

impl Scope {
    pub(super) fn key(&self) -> HashMap<String, AttributeValue> {
        HashMap::from([
            ("pk".to_owned(), text("rate_limit")),
            ("sk".to_owned(), text(self.to_string())),
        ])
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dataverse(user) => write!(f, "dataverse{}", user.suffix('#')),
            Self::Nylas => f.write_str("nylas"),
            Self::Mailbox(grant_id) => write!(f, "nylas#{grant_id}"),
        }
    }
}

/// The pause of a mailbox or of Nylas.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pause {
    /// Nothing is requested before this time. It may have passed; `None` if there is no pause.
    pub until: Option<DateTime<Utc>>,
    /// The recent refusals.
    pub refused: RefusalState,
}

impl Ledger {
    /// Pauses all requests to Dataverse as `user` until `until`. A longer pause that is already
    /// stored stays.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: other processes are refused too and then store a pause.
    pub async fn pause(
        &self,
        user: &ApplicationUser,
        until: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        self.pause_all(&Scope::Dataverse(user.clone()), until).await
    }

    /// Pauses all requests of a scope until `until`. A longer pause that is already stored stays.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: other processes are refused too and then store a pause.
    pub async fn pause_all(&self, scope: &Scope, until: DateTime<Utc>) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(scope.key()))
            .update_expression("SET paused_until_ms = :until, expires_at = :seconds")
            .condition_expression(
                "attribute_not_exists(paused_until_ms) OR paused_until_ms < :until",
            )
            .expression_attribute_values(":until", milliseconds(until))
            .expression_attribute_values(":seconds", expiry(until));
        took_effect(call.send().await).map(drop)
    }

    /// Returns until when nothing may be sent as `user`; `None` if requests are allowed now.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn paused_until(
        &self,
        user: &ApplicationUser,
        now: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, LedgerError> {
        Ok(self.limiter_state(user).await?.pause(now))
    }

    /// Returns the limiter state of `user`, eventually consistent.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn limiter_state(&self, user: &ApplicationUser) -> Result<LimiterState, LedgerError> {
        let call = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(item_key(user)));
        let found = call.send().await.map_err(|error| unavailable(&error))?;
        Ok(read_limiter_state(found.item()))
    }
}

impl Ledger {
    /// Returns the pauses of these scopes, eventually consistent, without those that have no item.
    /// Each scope must be named once.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn pauses(&self, scopes: &[Scope]) -> Result<HashMap<Scope, Pause>, LedgerError> {
        let mut by_name: HashMap<String, &Scope> = HashMap::new();
        for scope in scopes {
            if let Some(name) = text_of(&scope.key(), "sk") {
                by_name.insert(name.to_owned(), scope);
            }
        }
        let items = self.items(scopes.iter().map(Scope::key)).await?;
        let pauses = items.iter().filter_map(|item| {
            let scope = by_name.get(text_of(item, "sk")?)?;
            Some(((*scope).clone(), read_pause(item)))
        });
        Ok(pauses.collect())
    }
}

impl Ledger {
    /// Returns the pauses that followed refusals of the caller, with the name of the scope
    /// (`dataverse`, `nylas`, `nylas#` and a grant id), in the order of the names.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn refused(&self) -> Result<Vec<(String, Pause)>, LedgerError> {
        let mut items = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pause")
            .expression_attribute_values(":pause", text("rate_limit"))
            .into_paginator()
            .items()
            .send();
        let mut refused = Vec::new();
        while let Some(item) = items.next().await {
            let item = item.map_err(|error| unavailable(&error))?;
            let pause = read_pause(&item);
            if let (Some(name), Some(_)) = (text_of(&item, "sk"), &pause.refused.cause) {
                refused.push((name.to_owned(), pause));
            }
        }
        Ok(refused)
    }
}

fn read_pause(item: &HashMap<String, AttributeValue>) -> Pause {
    Pause {
        until: number(item, "paused_until_ms").and_then(DateTime::from_timestamp_millis),
        refused: read_refusals(item),
    }
}

pub(super) fn item_key(user: &ApplicationUser) -> HashMap<String, AttributeValue> {
    Scope::Dataverse(user.clone()).key()
}

/// Returns `expires_at` for an item that matters until `until`.
pub(super) fn expiry(until: DateTime<Utc>) -> AttributeValue {
    AttributeValue::N((until + KEPT).timestamp().to_string())
}

pub(super) fn read_limiter_state(item: Option<&HashMap<String, AttributeValue>>) -> LimiterState {
    let number = |name| item.and_then(|item| number(item, name));
    let time = |name| number(name).and_then(DateTime::from_timestamp_millis);
    LimiterState {
        paused_until: time("paused_until_ms"),
        tat: time("tat_ms"),
        suggested_concurrency: number("suggested_concurrency").and_then(|n| u32::try_from(n).ok()),
        refused: item.map(read_refusals).unwrap_or_default(),
    }
}
