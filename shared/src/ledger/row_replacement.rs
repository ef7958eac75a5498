//! Records that another client's row of the same message has replaced our row after settlement.
//!
//! The decision record stays as it was written, so it still reports that the decision wrote our
//! row. The attribute `replaced_row` records that this row has been replaced.

use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;

use super::State;
use super::messages::{Ledger, LedgerError, item_key, shortened, text, took_effect};
use crate::model::ids::{ActivityId, MessageKey};

impl Ledger {
    /// Records that the row `now_carried_by` holds a message that was settled as `written` with the
    /// row `was`, and why.
    ///
    /// Returns whether the item was changed; it is not if it no longer is `written` with the row
    /// `was`. The settlement time stays as it is, so that the message is not reconciled forever.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the row in Dataverse is right, and the next reconciliation
    /// records it.
    pub async fn replace_row(
        &self,
        key: &MessageKey,
        was: ActivityId,
        now_carried_by: ActivityId,
        note: &str,
    ) -> Result<bool, LedgerError> {
        // If both rows are kept, ours still holds the message.
        let update = if was == now_carried_by {
            "SET activity_id = :now, reason = :note"
        } else {
            "SET activity_id = :now, reason = :note, replaced_row = :was"
        };
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(item_key(key)))
            .condition_expression("#state = :written AND activity_id = :was")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::None)
            .update_expression(update)
            .expression_attribute_names("#state", "state")
            .expression_attribute_values(":written", text(State::Written.as_str()))
            .expression_attribute_values(":was", text(was.to_string()))
            .expression_attribute_values(":now", text(now_carried_by.to_string()))
            .expression_attribute_values(":note", text(shortened(note)));
        took_effect(call.send().await)
    }
}
