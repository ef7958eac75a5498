//! The lengths of the columns that the mapping fills, and how a row is shortened to the shorter
//! columns of an organisation.

use serde_json::Value;

use super::attachment::cut_name;
use super::email::BODY;
use crate::clients::dataverse::email_row::EmailWrite;
use crate::clients::dataverse::metadata::column_lengths::Lengths;
use crate::lookup::request::LONGEST_MESSAGE_ID;
use crate::model::text::{cut, length};

pub(super) const SUBJECT_LENGTH: usize = 800;
const BODY_LENGTH: usize = 1_073_741_823;
pub(super) const SENDER_LENGTH: usize = 250;
pub(super) const TO_RECIPIENTS_LENGTH: usize = 500;
pub(super) const FILE_NAME_LENGTH: usize = 255;
pub(super) const MEDIA_TYPE_LENGTH: usize = 256;
pub(super) const CONTENT_ID_LENGTH: usize = 250;

const EMAIL: &str = "email";
const FILE: &str = "activitymimeattachment";

/// The tables of [`LENGTHS`].
pub const TABLES: [&str; 2] = [EMAIL, FILE];

/// The maximum length of the text for each column, in UTF-16 code units: table, column, length. An
/// organisation with a shorter column rejects longer texts.
pub const LENGTHS: [(&str, &str, usize); 8] = [
    (EMAIL, "subject", SUBJECT_LENGTH),
    (EMAIL, BODY, BODY_LENGTH),
    (EMAIL, "messageid", LONGEST_MESSAGE_ID),
    (EMAIL, "sender", SENDER_LENGTH),
    (EMAIL, "torecipients", TO_RECIPIENTS_LENGTH),
    (FILE, "filename", FILE_NAME_LENGTH),
    (FILE, "mimetype", MEDIA_TYPE_LENGTH),
    (FILE, "attachmentcontentid", CONTENT_ID_LENGTH),
];

/// Shortens every text to its column in this organisation, by the rules of the table above. Returns
/// whether anything changed.
///
/// The key of an attachment is still derived from its full name, so that every worker finds it,
/// regardless of which column lengths it knows.
pub fn fit(email: &mut EmailWrite, lengths: &Lengths) -> bool {
    let mut changed = false;
    for (table, column, _) in LENGTHS {
        let Some(limit) = lengths.of(table, column) else {
            continue;
        };
        let rows = match table {
            EMAIL => std::slice::from_mut(&mut email.row),
            _ => &mut email.attachments[..],
        };
        for row in rows {
            let text = row.get(column).and_then(Value::as_str);
            // Bytes are checked first: a text has at least as many bytes as UTF-16 code units, and
            // counting the code units of a large body takes time.
            let Some(text) = text.filter(|text| text.len() > limit && length(text) > limit) else {
                continue;
            };
            match shortened(column, text, limit) {
                Some(short) => row.insert(column.to_owned(), Value::from(short)),
                None => row.remove(column),
            };
            changed = true;
        }
    }
    changed
}

/// Returns a text shortened to its column; `None` if a part of the text would mean something else.
fn shortened(column: &str, text: &str, limit: usize) -> Option<String> {
    match column {
        "subject" | BODY | "mimetype" => Some(cut(text, limit).to_owned()),
        "filename" => Some(cut_name(text, limit)),
        // Keep whole addresses; the separator may be just after the limit.
        "torecipients" => {
            let (whole, _) = cut(text, limit + 1).rsplit_once(';')?;
            Some(whole.to_owned())
        }
        _ => None,
    }
}
