//! The pauses that everybody keeps: one item of the ledger's table for each Dataverse user, for all who
//! send with it; one for each mailbox, for all who ask Nylas for it; and one for all of Nylas.
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk` | S | `pause` |
//! | `sk` | S | `dataverse`; of a further user `dataverse#` and its name; `nylas#` and the grant id; `nylas` |
//! | `until_ms` | N | nothing is sent before, Unix milliseconds; absent before the first pause |
//! | `booked_until_ms` | N | up to when the user's time is booked, Unix milliseconds ([`super::bookings`]) |
//! | `suggested` | N | the parallelism that Dataverse suggested last ([`super::bookings`]) |
//! | `expires_at` | N | when the table's TTL may remove it, Unix seconds |
//!
//! Why everybody pauses when a service refused the caller, and how such a pause ends: [`super::refusals`].
//!
//! Dataverse counts what one user sends, whichever worker it comes from, and every refused request lengthens the wait (Dataverse facts §11.1).
//! A pause only ever grows: of two workers that are refused, the one that has to wait for longer speaks for both.

use std::collections::HashMap;
use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, TimeDelta, Utc};

use super::ledger::{
    Ledger, LedgerError, milliseconds, number, text, text_of, took_effect, unavailable,
};
use super::refusals::read_refusals;
use crate::governor::{Standing, User};
use crate::ids::GrantId;
use crate::refusal::RefusalState;

/// How long the item is kept after it has lost its meaning.
const KEPT: TimeDelta = TimeDelta::days(1);

/// Who pauses together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Whoever sends to Dataverse as this user.
    Dataverse(User),
    /// Whoever asks Nylas for anything.
    Nylas,
    /// Whoever asks Nylas for something of this mailbox.
    Mailbox(GrantId),
}

impl Scope {
    pub(super) fn key(&self) -> HashMap<String, AttributeValue> {
        HashMap::from([
            ("pk".to_owned(), text("pause")),
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

/// How it stands with a mailbox, or with Nylas.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pause {
    /// Until when nobody asks for anything. It may have passed.
    pub until: Option<DateTime<Utc>>,
    /// What is known of refusals.
    pub refused: RefusalState,
}

impl Ledger {
    /// Nobody sends anything to Dataverse as `user` before `until`, unless somebody has been told to wait for longer already.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the others find out for themselves.
    pub async fn pause(&self, user: &User, until: DateTime<Utc>) -> Result<(), LedgerError> {
        self.pause_all(&Scope::Dataverse(user.clone()), until).await
    }

    /// The same for whoever pauses together.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the others find out for themselves.
    pub async fn pause_all(&self, scope: &Scope, until: DateTime<Utc>) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(scope.key()))
            .update_expression("SET until_ms = :until, expires_at = :seconds")
            .condition_expression("attribute_not_exists(until_ms) OR until_ms < :until")
            .expression_attribute_values(":until", milliseconds(until))
            .expression_attribute_values(":seconds", expiry(until));
        took_effect(call.send().await).map(drop)
    }

    /// Until when nothing may be sent as `user`; `None` when it may.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn paused_until(
        &self,
        user: &User,
        now: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, LedgerError> {
        Ok(self.standing(user).await?.pause(now))
    }

    /// How it stands with `user`.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn standing(&self, user: &User) -> Result<Standing, LedgerError> {
        let call = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(item_key(user)));
        let found = call.send().await.map_err(|error| unavailable(&error))?;
        Ok(read_standing(found.item()))
    }
}

impl Ledger {
    /// How it stands with these, each named once; only those that have an item, as it was a moment ago.
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
    /// Who pauses because everybody was refused, by name (`dataverse`, `nylas`, `nylas#` and a grant id),
    /// and why; in the order of the names.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn refused(&self) -> Result<Vec<(String, Pause)>, LedgerError> {
        let mut items = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pause")
            .expression_attribute_values(":pause", text("pause"))
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
        until: number(item, "until_ms").and_then(DateTime::from_timestamp_millis),
        refused: read_refusals(item),
    }
}

pub(super) fn item_key(user: &User) -> HashMap<String, AttributeValue> {
    Scope::Dataverse(user.clone()).key()
}

/// Of an item that matters until then.
pub(super) fn expiry(until: DateTime<Utc>) -> AttributeValue {
    AttributeValue::N((until + KEPT).timestamp().to_string())
}

pub(super) fn read_standing(item: Option<&HashMap<String, AttributeValue>>) -> Standing {
    let number = |name| item.and_then(|item| number(item, name));
    let time = |name| number(name).and_then(DateTime::from_timestamp_millis);
    Standing {
        paused_until: time("until_ms"),
        booked_until: time("booked_until_ms"),
        suggested: number("suggested").and_then(|n| u32::try_from(n).ok()),
        refused: item.map(read_refusals).unwrap_or_default(),
    }
}
