//! Stores the rate limiter state of each Dataverse user on the item of [`super::pauses`]: the
//! GCRA's theoretical arrival time (TAT), in `tat_ms`. How usage becomes time, and who
//! waits for it: [`crate::rate_limit`].
//!
//! Live mail always advances the TAT and never waits for it. The same call returns the pause, so a
//! reservation reads it without another call. A second call follows only if the TAT is further
//! ahead than the limit ([`Limits::max_backlog`]). Backfill advances the TAT only if it has passed
//! and the user is not paused: one conditional write, and a second one after an idle time. All
//! processes share one timestamp, so a clock that is wrong by a second affects one second of the
//! window.

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use chrono::{DateTime, TimeDelta, Utc};

use super::messages::{Ledger, LedgerError, milliseconds, refusal, unavailable};
use super::pauses::{expiry, item_key, read_limiter_state};
use crate::rate_limit::{ApplicationUser, LimiterState, Limits, Reservation};

/// How often backfill tries to reserve while other processes reserve at the same time.
const TRIES: usize = 3;

/// How long backfill waits after losing all [`TRIES`] to other reservations.
const BUSY: TimeDelta = TimeDelta::milliseconds(100);

impl Ledger {
    /// Reserves for live mail and returns the limiter state after the reservation.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the reservation may or may not be stored.
    pub async fn reserve(
        &self,
        user: &ApplicationUser,
        reservation: &Reservation,
        limits: &Limits,
        now: DateTime<Utc>,
    ) -> Result<LimiterState, LedgerError> {
        let call = self
            .reservation(user, now)
            .expression_attribute_values(":time", of(reservation.time()))
            .update_expression(
                "SET tat_ms = if_not_exists(tat_ms, :now) + :time, expires_at = :seconds",
            )
            .expression_attribute_values(":now", milliseconds(now));
        let reserved = call.send().await.map_err(|error| unavailable(&error))?;
        let limiter_state = read_limiter_state(reserved.attributes());
        let most = now + limits.max_backlog();
        if limiter_state.tat > Some(most) {
            let call = self
                .reservation(user, now)
                .update_expression("SET tat_ms = :most, expires_at = :seconds")
                .condition_expression("tat_ms > :most")
                .expression_attribute_values(":most", milliseconds(most));
            // If it fails, the next reservation reduces the TAT in the same way.
            let _unbooked = call.send().await;
        }
        Ok(limiter_state)
    }

    /// Reserves for backfill if it may start a batch now. Of the capacity that was unused before
    /// now, only the burst ([`Limits::burst`]) can still be used.
    ///
    /// The inner error is the earliest time at which a reservation can succeed.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the reservation may or may not be stored.
    pub async fn try_reserve(
        &self,
        user: &ApplicationUser,
        reservation: &Reservation,
        limits: &Limits,
        now: DateTime<Utc>,
    ) -> Result<Result<LimiterState, DateTime<Utc>>, LedgerError> {
        // The range of the TAT in which a batch may start now, including the usage that is owed.
        let (least, most) = (
            now - limits.burst() - reservation.owed,
            now - reservation.owed,
        );
        for _ in 0..TRIES {
            let call = self
                .reservation(user, now)
                .expression_attribute_values(":time", of(reservation.time()))
                .update_expression(
                    "SET tat_ms = tat_ms + :time, expires_at = :seconds",
                )
                .condition_expression(
                    "(attribute_not_exists(paused_until_ms) OR paused_until_ms <= :now) AND tat_ms BETWEEN :least AND :most",
                )
                .expression_attribute_values(":now", milliseconds(now))
                .expression_attribute_values(":least", milliseconds(least))
                .expression_attribute_values(":most", milliseconds(most))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            let error = match call.send().await {
                Ok(reserved) => return Ok(Ok(read_limiter_state(reserved.attributes()))),
                Err(error) => error,
            };
            let Some(refused) = refusal(&error) else {
                return Err(unavailable(&error));
            };
            let limiter_state = read_limiter_state(refused.item());
            if let Some(free_at) = limiter_state.free_at(reservation.owed, now) {
                return Ok(Err(free_at));
            }
            // No process has reserved for a while, so the TAT starts again at `least`.
            let call = self
                .reservation(user, now)
                .update_expression("SET tat_ms = :begun, expires_at = :seconds")
                .expression_attribute_values(":begun", milliseconds(least + reservation.time()))
                .condition_expression(
                    "(attribute_not_exists(paused_until_ms) OR paused_until_ms <= :now) AND \
                     (attribute_not_exists(tat_ms) OR tat_ms < :least)",
                )
                .expression_attribute_values(":now", milliseconds(now))
                .expression_attribute_values(":least", milliseconds(least));
            match call.send().await {
                Ok(reserved) => return Ok(Ok(read_limiter_state(reserved.attributes()))),
                // Another process was faster.
                Err(error) if refusal(&error).is_some() => {}
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Ok(Err(now + BUSY))
    }

    /// Stores the concurrency that Dataverse suggests.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the next response suggests it again.
    pub async fn store_suggested_concurrency(
        &self,
        user: &ApplicationUser,
        suggested_concurrency: u32,
        now: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(user)))
            .update_expression("SET suggested_concurrency = :suggested, expires_at = :seconds")
            .expression_attribute_values(
                ":suggested",
                AttributeValue::N(suggested_concurrency.to_string()),
            )
            .expression_attribute_values(":seconds", expiry(now));
        call.send()
            .await
            .map(drop)
            .map_err(|error| unavailable(&error))
    }

    fn reservation(&self, user: &ApplicationUser, now: DateTime<Utc>) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(user)))
            .expression_attribute_values(":seconds", expiry(now))
            .return_values(ReturnValue::AllNew)
    }
}

fn of(time: TimeDelta) -> AttributeValue {
    AttributeValue::N(time.num_milliseconds().to_string())
}
