//! A settled message whose row gave way to another client's row of the same mail.
//!
//! Its decision record stays as it was written, so it still says that the decision wrote our row. That this row is no more is said beside it, in `gave_way`.

use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;

use super::State;
use super::ledger::{Ledger, LedgerError, item_key, shortened, text, took_effect};
use crate::ids::{ActivityId, MessageKey};

impl Ledger {
    /// Says that the row `now_carried_by` carries a message that was settled as `written` with the row `was`, and why. Whether anything was changed: not when
    /// the item says something else meanwhile.
    ///
    /// When the message was settled stays as it is, so that it is not looked at for ever.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the row in Dataverse is right, and the next look at it says so again.
    pub async fn carried_by(
        &self,
        key: &MessageKey,
        was: ActivityId,
        now_carried_by: ActivityId,
        note: &str,
    ) -> Result<bool, LedgerError> {
        // Where both rows stay, ours carries it still.
        let update = if was == now_carried_by {
            "SET activity_id = :now, reason = :note"
        } else {
            "SET activity_id = :now, reason = :note, gave_way = :was"
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
