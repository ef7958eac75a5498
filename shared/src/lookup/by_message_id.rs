//! Reads the rows with a Message-ID and the body of a row: for operators who ask about a message,
//! and to find a row that blocks a write.

use std::collections::BTreeSet;

use serde_json::Value;

use super::request::with_message_id;
use crate::clients::dataverse::DataverseClient;
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::odata::row;
use crate::clients::dataverse::records::{EMAIL_COLUMNS, ExistingEmail, existing_email};
use crate::clients::dataverse::session::Session;
use crate::model::ids::{ActivityId, InternetMessageId};

impl DataverseClient {
    /// Returns the keys of [`Self::rows_with_message_id`].
    ///
    /// # Errors
    /// [`DataverseError`]: the rows are unknown.
    pub async fn activity_ids_by_message_id(
        &self,
        session: &Session,
        id: &InternetMessageId,
    ) -> Result<BTreeSet<ActivityId>, DataverseError> {
        let found = self.rows_with_message_id(session, id).await?;
        Ok(found.into_iter().map(|email| email.activity_id).collect())
    }

    /// Returns the rows with this Message-ID, whichever client wrote them and whatever their state.
    /// Empty if the id is longer than its column, since it was not stored then.
    ///
    /// # Errors
    /// [`DataverseError`]: the rows are unknown.
    pub(crate) async fn rows_with_message_id(
        &self,
        session: &Session,
        id: &InternetMessageId,
    ) -> Result<Vec<ExistingEmail>, DataverseError> {
        let terms = with_message_id(id);
        if terms.is_empty() {
            return Ok(Vec::new());
        }
        let found: Vec<Value> = self
            .query(session, "emails", EMAIL_COLUMNS, &terms.join(" or "))
            .await?;
        // Dataverse compares without case, but Message-IDs may differ only in case.
        let same = |row: &&Value| {
            let stored = row.get("messageid").and_then(Value::as_str);
            stored.and_then(InternetMessageId::from_header).as_ref() == Some(id)
        };
        Ok(found
            .iter()
            .filter(same)
            .filter_map(existing_email)
            .collect())
    }

    /// Returns the body of a row; empty if it has none or may not be read.
    ///
    /// # Errors
    /// [`DataverseError`]: the body may be readable later.
    pub async fn body(&self, session: &Session, id: ActivityId) -> Result<String, DataverseError> {
        let path = format!("{}?$select=description", row("emails", id.uuid()));
        let body = match self.get_json(session, &path).await {
            Ok(found) => found
                .get("description")
                .and_then(Value::as_str)
                .map(str::to_owned),
            Err(DataverseError::Rejected { .. } | DataverseError::Stale { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(body.unwrap_or_default())
    }
}
