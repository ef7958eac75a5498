//! Maps an attachment to a row of `activitymimeattachment`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::column_limits::{CONTENT_ID_LENGTH, FILE_NAME_LENGTH, MEDIA_TYPE_LENGTH};
use crate::model::ids::ActivityId;
use crate::model::keys;
use crate::model::message::Attachment;
use crate::model::text::{cut, length, without_forbidden};

pub(super) const FILE_KEY: &str = "activitymimeattachmentid";

/// The property that binds an attachment to its email.
pub(super) const FILE_OWNER: &str = "objectid_activitypointer@odata.bind";

pub(super) fn file_owner(activity: ActivityId) -> Value {
    Value::from(format!("/activitypointers({activity})"))
}

/// Returns the key of the row that [`attachment_row`] returns.
#[must_use]
pub(crate) fn attachment_key(
    activity: ActivityId,
    position: usize,
    attachment: &Attachment,
) -> Uuid {
    keys::attachment_id(
        activity,
        position,
        &file_name(&attachment.file_name, position),
    )
}

/// Returns the row of one attachment. `position` is its index in the message, from 0.
#[must_use]
pub fn attachment_row(
    activity: ActivityId,
    position: usize,
    attachment: &Attachment,
    bytes: &[u8],
) -> Map<String, Value> {
    let name = file_name(&attachment.file_name, position);
    let mut row = Map::new();
    row.insert(
        FILE_KEY.to_owned(),
        json!(attachment_key(activity, position, attachment)),
    );
    row.insert(FILE_OWNER.to_owned(), file_owner(activity));
    row.insert("objecttypecode".to_owned(), Value::from("email"));
    row.insert("filename".to_owned(), Value::from(name));
    row.insert(
        "mimetype".to_owned(),
        Value::from(cut(
            &without_forbidden(&attachment.media_type),
            MEDIA_TYPE_LENGTH,
        )),
    );
    row.insert("body".to_owned(), Value::from(STANDARD.encode(bytes)));
    if let Some(id) = attachment
        .content_id
        .as_deref()
        .filter(|id| length(id) <= CONTENT_ID_LENGTH)
    {
        row.insert(
            "attachmentcontentid".to_owned(),
            Value::from(without_forbidden(id)),
        );
    }
    row
}

/// Returns a file name that Dataverse accepts: without `\ / : * ? " < > |` and control characters,
/// cut to the column's length, with its extension.
#[must_use]
pub fn file_name(name: &str, position: usize) -> String {
    let clean = |c: char| {
        if c.is_control() || "\\/:*?\"<>|\u{fffe}\u{ffff}".contains(c) {
            '_'
        } else {
            c
        }
    };
    let name: String = name.trim().chars().map(clean).collect();
    if name.is_empty() {
        return format!("attachment-{}", position + 1);
    }
    cut_name(&name, FILE_NAME_LENGTH)
}

/// Cuts a file name to at most `limit` UTF-16 code units, keeping its extension.
pub(super) fn cut_name(name: &str, limit: usize) -> String {
    match name.rsplit_once('.') {
        Some((stem, extension)) if length(name) > limit && length(extension) < limit.min(32) => {
            format!("{}.{extension}", cut(stem, limit - length(extension) - 1))
        }
        _ => cut(name, limit).to_owned(),
    }
}
