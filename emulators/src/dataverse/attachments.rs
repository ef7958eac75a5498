//! Which attachments are accepted (Dataverse facts §4, §9a and §19 rules 9 and 10).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use uuid::Uuid;

use super::org::Work;
use super::refusal::Refusal;
use super::store::{Values, lookup};
use super::write;

/// Characters that a file name must not contain (inferred).
const BAD_IN_FILE_NAMES: [char; 9] = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];

impl Work<'_> {
    /// Checks an attachment before it is stored, and adds the values that the platform computes.
    pub(crate) fn complete_attachment(&mut self, values: &mut Values) -> Result<(), Refusal> {
        let (owner_table, owner) = values.get("objectid").and_then(lookup).ok_or_else(|| {
            Refusal::new(
                400,
                "0x80040200",
                "Required field missing: the attachment names no activity (objectid).",
            )
        })?;
        // Inferred: it must be sent although the owner is known (Dataverse facts §9a).
        let type_code = values
            .get("objecttypecode")
            .and_then(Value::as_str)
            .ok_or_else(|| {
                Refusal::new(400, "0x80040200", "Required field missing: objecttypecode.")
            })?;
        if type_code != owner_table {
            let message = format!(
                "objecttypecode is '{type_code}', but the attachment belongs to a row of {owner_table}."
            );
            return Err(Refusal::argument(message));
        }
        self.refuse_closed_owner(values)?;
        self.take_over_stored_file(values)?;
        let body = values
            .get("body")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let size = self.check_content(body, values)?;
        let subject = self
            .org
            .store
            .get(&owner_table, owner)
            .map(|row| row.get("subject").clone());
        values.insert("filesize".to_owned(), json!(size));
        values.insert(
            "activityid".to_owned(),
            values.get("objectid").cloned().unwrap_or_default(),
        );
        values.insert("activitysubject".to_owned(), subject.unwrap_or_default());
        if values.get("attachmentnumber").is_none_or(Value::is_null) {
            values.insert(
                "attachmentnumber".to_owned(),
                json!(self.attachments_of(owner) + 1),
            );
        }
        Ok(())
    }

    /// Rejects a change to an attachment of a closed activity. This is the cautious reading of an
    /// *unknown*.
    pub(crate) fn refuse_closed_owner(&self, values: &Values) -> Result<(), Refusal> {
        let Some((name, id)) = values.get("objectid").and_then(lookup) else {
            return Ok(());
        };
        let (Some(table), Some(row)) = (self.schema.table(&name), self.org.store.get(&name, id))
        else {
            return Ok(());
        };
        if write::is_closed(table, &row) {
            Err(write::closed(&name, id))
        } else {
            Ok(())
        }
    }

    /// Updates the attachment count of the activity of an attachment that was just written.
    pub(crate) fn count_attachments(&mut self, attachment: Uuid) {
        let row = self.org.store.get("activitymimeattachment", attachment);
        if let Some((table, id)) = row.and_then(|row| row.lookup("objectid")) {
            self.recount_attachments(&table, id);
        }
    }

    /// Writes the number of attachments into their activity.
    pub(crate) fn recount_attachments(&mut self, table: &str, id: Uuid) {
        let count = self.attachments_of(id);
        let has_column = self
            .schema
            .table(table)
            .is_some_and(|table| table.columns.contains_key("attachmentcount"));
        if let Some(row) = self.org.store.get(table, id).filter(|_| has_column) {
            let mut values = row.values.clone();
            values.insert("attachmentcount".to_owned(), json!(count));
            self.org.store.set(table, id, Some(values));
        }
    }

    fn attachments_of(&self, activity: Uuid) -> usize {
        self.org
            .store
            .children("activitymimeattachment", activity)
            .len()
    }

    /// Copies the content of a stored file that is bound. No content may be sent beside it.
    fn take_over_stored_file(&self, values: &mut Values) -> Result<(), Refusal> {
        let Some((_, stored)) = values.get("attachmentid").and_then(lookup) else {
            return Ok(());
        };
        if ["body", "filename", "mimetype"]
            .iter()
            .any(|column| values.get(*column).is_some_and(|value| !value.is_null()))
        {
            return Err(Refusal::argument(
                "An attachment that reuses a stored file brings no content of its own.",
            ));
        }
        if let Some(row) = self.org.store.get("activitymimeattachment", stored) {
            for column in ["body", "filename", "mimetype"] {
                values.insert(column.to_owned(), row.get(column).clone());
            }
            // The row has its own content now. With this column, a later update would be rejected.
            values.remove("attachmentid");
        }
        Ok(())
    }

    /// Returns the size of the file in bytes, if the content may be stored.
    fn check_content(&self, body: &str, values: &Values) -> Result<usize, Refusal> {
        let text = |column: &str| {
            values
                .get(column)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        if body.is_empty() {
            return Err(Refusal::new(400, "0x80044A04", "Attachment is empty."));
        }
        // The three must be set together (Dataverse facts §4.2); the code is inferred.
        let (Some(name), Some(_)) = (text("filename"), text("mimetype")) else {
            return Err(Refusal::argument(
                "An attachment needs filename, mimetype and body.",
            ));
        };
        if name.contains(BAD_IN_FILE_NAMES) {
            return Err(Refusal::new(
                400,
                "0x80044A08",
                "Attachment file name contains invalid characters.",
            ));
        }
        let ending = name
            .rsplit_once('.')
            .map(|(_, ending)| ending.trim().to_ascii_lowercase());
        if ending.is_some_and(|ending| self.org.settings.blocked.contains(&ending)) {
            let message = "The attachment is either not a valid type or is too large. It cannot be uploaded or downloaded.";
            return Err(Refusal::new(400, "0x80043E09", message));
        }
        // The limit counts the base64 text, not the file.
        if body.len() > self.org.settings.max_upload {
            return Err(Refusal::new(
                400,
                "0x80044A02",
                "Attachment file size is too big.",
            ));
        }
        let file = STANDARD
            .decode(body)
            .map_err(|_| Refusal::argument("The attachment's body is not base64."))?;
        Ok(file.len())
    }
}
