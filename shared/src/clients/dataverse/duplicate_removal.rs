//! Deletes or cancels one of our rows because another client's row of the same message exists.

use std::collections::HashMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::DataverseClient;
use super::error::DataverseError;
use super::odata::row;
use super::records::{ExistingEmail, RowState};
use super::session::Session;
use crate::model::ids::ActivityId;

/// A file of a row, as far as files of two rows can be compared: name in lower case, and size in
/// bytes if known.
pub type File = (String, Option<i64>);

/// The columns of an attachment by which it is compared. Dataverse omits what has no value.
#[derive(Deserialize)]
struct AttachmentInfo {
    filename: Option<String>,
    filesize: Option<i64>,
    #[serde(rename = "_objectid_value")]
    email_id: Option<Uuid>,
}

/// How a row was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DuplicateRemoval {
    /// It was deleted, with its parties and attachments.
    Deleted,
    /// It was cancelled, because Dataverse rejected the deletion.
    Canceled,
}

impl DataverseClient {
    /// Deletes one of our rows, if it still has the version that was read.
    ///
    /// That a completed row may be deleted, with the privilege, is inferred (Dataverse facts §3.2).
    /// A draft that we may not delete is cancelled instead. A completed row is not cancelled, since
    /// we assume that it accepts no other state (the cautious reading, §3.2).
    ///
    /// # Errors
    /// - [`DataverseError::Rejected`]: the row is unchanged.
    /// - [`DataverseError::Stale`]: another user or client changed or deleted it meanwhile; read it
    ///   again.
    pub(crate) async fn remove_duplicate(
        &self,
        session: &Session,
        email: &ExistingEmail,
    ) -> Result<DuplicateRemoval, DataverseError> {
        let id = email.activity_id.uuid();
        let version = email.etag.as_deref().unwrap_or("*");
        let path = row("emails", id);
        let deleted = self.call(session, Method::DELETE, &path, Some(version), None);
        match deleted.await {
            Ok(_) => Ok(DuplicateRemoval::Deleted),
            Err(DataverseError::Rejected { .. }) if email.state == RowState::Open => {
                let canceled = Map::from_iter([
                    ("statecode".to_owned(), Value::from(2)),
                    ("statuscode".to_owned(), Value::from(5)),
                ]);
                self.update(session, id, version, &canceled).await?;
                Ok(DuplicateRemoval::Canceled)
            }
            Err(error) => Err(error),
        }
    }

    /// Lists the files of some emails: name in lower case, and size in bytes.
    ///
    /// # Errors
    /// [`DataverseError`]. That files can be listed with this query is inferred.
    pub async fn files(
        &self,
        session: &Session,
        emails: &[ActivityId],
    ) -> Result<HashMap<ActivityId, Vec<File>>, DataverseError> {
        let of_emails: Vec<String> = emails
            .iter()
            .map(|email| format!("_objectid_value eq {email}"))
            .collect();
        let attachments: Vec<AttachmentInfo> = self
            .query(
                session,
                "activitymimeattachments",
                "filename,filesize,_objectid_value",
                &of_emails.join(" or "),
            )
            .await?;
        let mut files: HashMap<ActivityId, Vec<File>> = HashMap::new();
        for attachment in attachments {
            let Some(email) = attachment.email_id.map(ActivityId::new) else {
                continue;
            };
            let name = attachment.filename.unwrap_or_default().to_lowercase();
            let file = (name, attachment.filesize);
            files.entry(email).or_default().push(file);
        }
        Ok(files)
    }
}
