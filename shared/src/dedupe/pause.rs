//! The pause that Dataverse asked for: one item of the ledger's table for each Dataverse user, for all who send with it.
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk` | S | `pause` |
//! | `sk` | S | `dataverse`; of a further user `dataverse#` and its name |
//! | `until_ms` | N | nothing is sent before, Unix milliseconds; absent before the first pause |
//! | `booked_until_ms` | N | up to when the user's time is booked, Unix milliseconds ([`super::bookings`]) |
//! | `suggested` | N | the parallelism that Dataverse suggested last ([`super::bookings`]) |
//! | `expires_at` | N | when the table's TTL may remove it, Unix seconds |
//!
//! Dataverse counts what one user sends, whichever worker it comes from, and every refused request lengthens the wait (Dataverse facts §11.1).
//! A pause only ever grows: of two workers that are refused, the one that has to wait for longer speaks for both.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, TimeDelta, Utc};

use super::ledger::{Ledger, LedgerError, milliseconds, number, text, took_effect, unavailable};
use crate::governor::{Standing, User};

/// How long the item is kept after it has lost its meaning.
const KEPT: TimeDelta = TimeDelta::days(1);

impl Ledger {
    /// Nobody sends anything to Dataverse as `user` before `until`, unless somebody has been told to wait for longer already.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the others find out for themselves.
    pub async fn pause(&self, user: &User, until: DateTime<Utc>) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(user)))
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

pub(super) fn item_key(user: &User) -> HashMap<String, AttributeValue> {
    let of_user = format!("dataverse{}", user.suffix('#'));
    HashMap::from([
        ("pk".to_owned(), text("pause")),
        ("sk".to_owned(), text(of_user)),
    ])
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
    }
}
