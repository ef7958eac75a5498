//! Booking a Dataverse user's time, on the item of [`super::pause`]. What the time is and who waits for it: [`crate::governor`].
//!
//! Live mail moves the moment on and takes no heed of it; the same call tells of a pause, so it costs no further one, unless more is booked than counts
//! ([`Budget::ahead`]). History moves it on only if it has passed and nobody has to pause: one conditional write, and a second one after a time in which nobody
//! sent anything. All processes have one moment, so a clock that is wrong by a second is a second of the window.

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use chrono::{DateTime, TimeDelta, Utc};

use super::ledger::{Ledger, LedgerError, milliseconds, refusal, unavailable};
use super::pause::{expiry, item_key, read_standing};
use crate::governor::{Booking, Budget, Standing, User};

/// How often history tries to book against others who do so at the same moment.
const TRIES: usize = 3;

/// When nobody else books, a later moment than this is one that others have moved on meanwhile.
const BUSY: TimeDelta = TimeDelta::milliseconds(100);

impl Ledger {
    /// Books for live mail, and tells how it stands with the user then.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: it may or may not be booked.
    pub async fn book(
        &self,
        user: &User,
        booking: &Booking,
        budget: &Budget,
        now: DateTime<Utc>,
    ) -> Result<Standing, LedgerError> {
        let call = self
            .booking(user, now)
            .expression_attribute_values(":time", of(booking.time()))
            .update_expression(
                "SET booked_until_ms = if_not_exists(booked_until_ms, :now) + :time, expires_at = :seconds",
            )
            .expression_attribute_values(":now", milliseconds(now));
        let booked = call.send().await.map_err(|error| unavailable(&error))?;
        let standing = read_standing(booked.attributes());
        let most = now + budget.ahead();
        if standing.booked_until > Some(most) {
            let call = self
                .booking(user, now)
                .update_expression("SET booked_until_ms = :most, expires_at = :seconds")
                .condition_expression("booked_until_ms > :most")
                .expression_attribute_values(":most", milliseconds(most));
            // Should it fail, the next one who books comes to the same.
            let _unbooked = call.send().await;
        }
        Ok(standing)
    }

    /// Books for history if it may begin a batch now. Of what was not booked before now, only the last bit ([`Budget::kept`]) can be booked still.
    ///
    /// The inner error is the moment from which on it is worth asking again.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: it may or may not be booked.
    pub async fn book_if_free(
        &self,
        user: &User,
        booking: &Booking,
        budget: &Budget,
        now: DateTime<Utc>,
    ) -> Result<Result<Standing, DateTime<Utc>>, LedgerError> {
        // Up to when others may have booked, so that with what is owed the time is free.
        let (least, most) = (now - budget.kept() - booking.owed, now - booking.owed);
        for _ in 0..TRIES {
            let call = self
                .booking(user, now)
                .expression_attribute_values(":time", of(booking.time()))
                .update_expression(
                    "SET booked_until_ms = booked_until_ms + :time, expires_at = :seconds",
                )
                .condition_expression(
                    "(attribute_not_exists(until_ms) OR until_ms <= :now) AND booked_until_ms BETWEEN :least AND :most",
                )
                .expression_attribute_values(":now", milliseconds(now))
                .expression_attribute_values(":least", milliseconds(least))
                .expression_attribute_values(":most", milliseconds(most))
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            let error = match call.send().await {
                Ok(booked) => return Ok(Ok(read_standing(booked.attributes()))),
                Err(error) => error,
            };
            let Some(refused) = refusal(&error) else {
                return Err(unavailable(&error));
            };
            let standing = read_standing(refused.item());
            if let Some(free_at) = standing.free_at(booking.owed, now) {
                return Ok(Err(free_at));
            }
            // Nobody has booked anything for a while.
            let call = self
                .booking(user, now)
                .update_expression("SET booked_until_ms = :begun, expires_at = :seconds")
                .expression_attribute_values(":begun", milliseconds(least + booking.time()))
                .condition_expression(
                    "(attribute_not_exists(until_ms) OR until_ms <= :now) AND \
                     (attribute_not_exists(booked_until_ms) OR booked_until_ms < :least)",
                )
                .expression_attribute_values(":now", milliseconds(now))
                .expression_attribute_values(":least", milliseconds(least));
            match call.send().await {
                Ok(booked) => return Ok(Ok(read_standing(booked.attributes()))),
                // Somebody else was faster.
                Err(error) if refusal(&error).is_some() => {}
                Err(error) => return Err(unavailable(&error)),
            }
        }
        Ok(Err(now + BUSY))
    }

    /// Keeps how many requests at the same time Dataverse suggests.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the next answer suggests it again.
    pub async fn keep_suggestion(
        &self,
        user: &User,
        suggested: u32,
        now: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(user)))
            .update_expression("SET suggested = :suggested, expires_at = :seconds")
            .expression_attribute_values(":suggested", AttributeValue::N(suggested.to_string()))
            .expression_attribute_values(":seconds", expiry(now));
        call.send()
            .await
            .map(drop)
            .map_err(|error| unavailable(&error))
    }

    fn booking(&self, user: &User, now: DateTime<Utc>) -> UpdateItemFluentBuilder {
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
