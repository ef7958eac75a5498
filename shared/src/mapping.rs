//! How an email is mapped. Pure: a message and what was found about it in, rows out.
//!
//! | Column of `email` | From | Rule |
//! | --- | --- | --- |
//! | `activityid` | Message-ID and sender; the content as well, where another mail of the sender has the Message-ID | [`crate::dedupe`] |
//! | `subject` | subject | line breaks become blanks; empty becomes `(no subject)`; cut at 800 |
//! | `description` | body | as it is, HTML or text |
//! | `sender` | sender's address | left out when longer than 250 |
//! | `torecipients` | To addresses | joined by `;`, whole addresses only, at most 500 |
//! | `directioncode` | sender | inside: `true`, outgoing; otherwise `false`, incoming |
//! | `actualstart`, `actualend`, `sortdate` | date | UTC; left out when the mail has no date |
//! | `messageid` | Message-ID | with angle brackets; left out when longer than 320, or when another mail's row has it ([`IdUse`]) |
//! | `email_activity_parties` | all people | [`crate::parties`] |
//! | `regardingobjectid_…_email` | thread, folder, people outside | [`crate::regarding`] |
//! | `parentactivityid` | In-Reply-To, References | the mail that is answered, when the thread told what this one concerns; on create only |
//! | `ownerid` | the mailbox's user | when there is one |
//! | `overriddencreatedon` | date | on request, for history; on create only ([`crate::pipeline::created_on`]) |
//! | `notifications` | | 1 when an attachment could not be kept |
//! | `statecode`, `statuscode` | direction | afterwards, by PATCH: 1 with 3 (sent) or 4 (received) |
//!
//! Where the policy lets less than the full content be stored, [`limit`] takes the rest out first: what it takes is in no row, and no file is downloaded.
//!
//! | `content` | `subject` | `description` | attachments |
//! | --- | --- | --- | --- |
//! | `full` | subject | body | all |
//! | `snippet` | subject | the provider's snippet of the body | none |
//! | `subject` | subject | empty | none |
//! | `participants` | `(not stored)` | empty | none |
//!
//! Attachments become rows of `activitymimeattachment` ([`attachment_row`]). Lengths count UTF-16 code units, as SQL Server does (inferred); a cut falls on a
//! character boundary. The lengths above are Dataverse's; where an organisation has made a column shorter, [`fit`] makes the text so. Characters that XML
//! cannot hold are left out, because Dataverse refuses them (0x80040278; inferred for these columns).
//! Nothing that the facts call read-only (§1.2, §2.1) is sent: Dataverse would drop it without a word.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::dataverse::lengths::Lengths;
use crate::dataverse::look_up::{LONGEST_MESSAGE_ID, fits_its_column};
use crate::dataverse::rows::{Record, Table};
use crate::dataverse::write::{EmailWrite, SOME_ATTACHMENTS_NOT_SAVED};
use crate::dedupe;
use crate::ids::{ActivityId, EmailAddress};
use crate::message::{Attachment, IdUse, Message, Omission};
use crate::parties::Party;
use crate::policy::document::Content;
use crate::regarding::Decision;
use crate::same_mail::{NO_SUBJECT, NOT_STORED};

const SUBJECT_LENGTH: usize = 800;
const SENDER_LENGTH: usize = 250;
const TO_RECIPIENTS_LENGTH: usize = 500;
const FILE_NAME_LENGTH: usize = 255;
const MEDIA_TYPE_LENGTH: usize = 256;
const CONTENT_ID_LENGTH: usize = 250;

const EMAIL: &str = "email";
const FILE: &str = "activitymimeattachment";

/// The tables of [`LENGTHS`].
pub const TABLES: [&str; 2] = [EMAIL, FILE];

/// The longest text that goes into each column, in UTF-16 code units: table, column, length. An organisation with a shorter column refuses what is longer.
pub const LENGTHS: [(&str, &str, usize); 7] = [
    (EMAIL, "subject", SUBJECT_LENGTH),
    (EMAIL, "messageid", LONGEST_MESSAGE_ID),
    (EMAIL, "sender", SENDER_LENGTH),
    (EMAIL, "torecipients", TO_RECIPIENTS_LENGTH),
    (FILE, "filename", FILE_NAME_LENGTH),
    (FILE, "mimetype", MEDIA_TYPE_LENGTH),
    (FILE, "attachmentcontentid", CONTENT_ID_LENGTH),
];

/// Which way a mail went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Somebody inside wrote it.
    Outgoing,
    /// Somebody outside, or nobody knows who.
    Incoming,
}

/// What the earlier steps found out about a mail.
pub struct Findings {
    /// Which way it went.
    pub direction: Direction,
    /// The people on it.
    pub parties: Vec<Party>,
    /// The record that it concerns.
    pub regarding: Decision,
    /// The mailbox's user.
    pub owner: Option<Uuid>,
}

/// Takes out of a mail what the policy does not let be stored.
pub fn limit(message: &mut Message, content: Content) {
    if content == Content::Full {
        return;
    }
    message.body = match content {
        Content::Full | Content::Snippet => std::mem::take(&mut message.snippet),
        Content::Subject | Content::Participants => String::new(),
    };
    message.snippet.clear();
    message.attachments.clear();
    // Nothing that was to be stored is missing.
    message
        .omissions
        .retain(|omission| *omission != Omission::Attachment);
    if content == Content::Participants {
        NOT_STORED.clone_into(&mut message.subject);
    }
}

/// The rows of a mail, without attachments.
#[must_use]
pub fn email(message: &Message, findings: &Findings) -> EmailWrite {
    let activity_id = message.activity_id();
    let mut row = Map::new();
    row.insert("activityid".to_owned(), json!(activity_id));
    row.insert("subject".to_owned(), Value::from(subject(&message.subject)));
    row.insert(
        "description".to_owned(),
        Value::from(without_forbidden(&message.body)),
    );
    row.insert(
        "directioncode".to_owned(),
        Value::from(findings.direction == Direction::Outgoing),
    );
    if let Some(sender) = message
        .from
        .as_ref()
        .map(EmailAddress::as_str)
        .filter(|sender| length(sender) <= SENDER_LENGTH)
    {
        row.insert("sender".to_owned(), Value::from(sender));
    }
    row.insert(
        "torecipients".to_owned(),
        Value::from(to_recipients(&message.to)),
    );
    if let Some(date) = message.date {
        let date = date_time(date);
        for column in ["actualstart", "actualend", "sortdate"] {
            row.insert(column.to_owned(), Value::from(date.clone()));
        }
    }
    if let Some(id) = message
        .internet_message_id
        .as_ref()
        .filter(|id| fits_its_column(id) && message.id_use == IdUse::Own)
    {
        row.insert(
            "messageid".to_owned(),
            Value::from(without_forbidden(&id.in_brackets())),
        );
    }
    row.insert(
        "email_activity_parties".to_owned(),
        findings.parties.iter().map(party).collect(),
    );
    if let Some(choice) = &findings.regarding.choice {
        choice.names.bind(&choice.target, &mut row);
        if let Some(parent) = choice.parent {
            row.insert(
                "parentactivityid@odata.bind".to_owned(),
                Value::from(format!("/emails({parent})")),
            );
        }
    }
    if let Some(id) = findings.owner {
        row.insert(
            OWNER.to_owned(),
            Value::from(
                Record {
                    table: Table::SystemUser,
                    id,
                }
                .binding(),
            ),
        );
    }
    EmailWrite {
        activity_id,
        row,
        attachments: Vec::new(),
        completion: completion(findings.direction),
    }
}

/// Gives a mail, with the files that it has, a row of another key.
pub fn move_to(email: &mut EmailWrite, message: &Message, key: ActivityId) {
    let old = std::mem::replace(&mut email.activity_id, key);
    email.row.insert("activityid".to_owned(), json!(key));
    for row in &mut email.attachments {
        let id = row.get(FILE_KEY).cloned();
        let mut files = message.attachments.iter().enumerate();
        let file = files.find(|(at, file)| id == Some(json!(attachment_key(old, *at, file))));
        if let Some((at, file)) = file {
            row.insert(FILE_KEY.to_owned(), json!(attachment_key(key, at, file)));
            row.insert(FILE_OWNER.to_owned(), file_owner(key));
        }
    }
}

/// Leaves the Message-ID out.
pub fn without_message_id(email: &mut EmailWrite) {
    email.row.remove("messageid");
}

const FILE_KEY: &str = "activitymimeattachmentid";

/// The name that binds a file to its email.
const FILE_OWNER: &str = "objectid_activitypointer@odata.bind";

fn file_owner(activity: ActivityId) -> Value {
    Value::from(format!("/activitypointers({activity})"))
}

fn date_time(date: DateTime<Utc>) -> String {
    date.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The name that binds the owner.
const OWNER: &str = "ownerid@odata.bind";

/// Leaves the owner to Dataverse, which then takes the application user. Says whether there was one to leave out.
pub fn without_owner(email: &mut EmailWrite) -> bool {
    email.row.remove(OWNER).is_some()
}

/// The name of the column that says when a row was made.
const CREATED_ON: &str = "overriddencreatedon";

/// Makes the row say that it was made at this time.
pub fn set_created_on(email: &mut EmailWrite, date: DateTime<Utc>) {
    email
        .row
        .insert(CREATED_ON.to_owned(), Value::from(date_time(date)));
}

/// Leaves it to Dataverse to say when the row was made. Says whether there was something to leave out.
pub fn without_created_on(email: &mut EmailWrite) -> bool {
    email.row.remove(CREATED_ON).is_some()
}

/// Records in Dataverse that not all attachments were kept.
pub fn note_missing_attachment(email: &mut EmailWrite) {
    email.row.insert(
        "notifications".to_owned(),
        Value::from(SOME_ATTACHMENTS_NOT_SAVED),
    );
}

fn completion(direction: Direction) -> Map<String, Value> {
    let status = match direction {
        Direction::Outgoing => 3,
        Direction::Incoming => 4,
    };
    Map::from_iter([
        ("statecode".to_owned(), Value::from(1)),
        ("statuscode".to_owned(), Value::from(status)),
    ])
}

fn party(party: &Party) -> Value {
    let mut row = Map::new();
    row.insert(
        "participationtypemask".to_owned(),
        Value::from(party.role.mask()),
    );
    row.insert(
        "addressused".to_owned(),
        Value::from(party.address.as_str()),
    );
    if let Some(record) = party.record {
        row.insert(record.party_binding_name(), Value::from(record.binding()));
    }
    Value::Object(row)
}

/// The key of the row that [`attachment_row`] makes.
#[must_use]
pub fn attachment_key(activity: ActivityId, position: usize, attachment: &Attachment) -> Uuid {
    dedupe::attachment_id(
        activity,
        position,
        &file_name(&attachment.file_name, position),
    )
}

/// The row of one attachment. `position` is its place on the mail.
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

/// The name of a file as Dataverse takes it: without `\ / : * ? " < > |` and control characters, within its length, its extension kept.
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

/// At most `limit` of a file's name, with its extension.
fn cut_name(name: &str, limit: usize) -> String {
    match name.rsplit_once('.') {
        Some((stem, extension)) if length(name) > limit && length(extension) < limit.min(32) => {
            format!("{}.{extension}", cut(stem, limit - length(extension) - 1))
        }
        _ => cut(name, limit).to_owned(),
    }
}

/// Makes every text fit its column in this organisation, by the rules of the table above. Says whether there was anything to do.
///
/// The key of an attachment stays that of its whole name, so that every worker finds it, whatever it knows of the columns.
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
            let Some(text) = text.filter(|text| length(text) > limit) else {
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

/// What is left of a text that is longer than its column; `None` where half of it would be another thing.
fn shortened(column: &str, text: &str, limit: usize) -> Option<String> {
    match column {
        "subject" | "mimetype" => Some(cut(text, limit).to_owned()),
        "filename" => Some(cut_name(text, limit)),
        // Whole addresses; the separator may stand just beyond the end.
        "torecipients" => {
            let (whole, _) = cut(text, limit + 1).rsplit_once(';')?;
            Some(whole.to_owned())
        }
        _ => None,
    }
}

fn subject(text: &str) -> String {
    let line: String = without_forbidden(text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    match line.trim() {
        "" => NO_SUBJECT.to_owned(),
        line => cut(line, SUBJECT_LENGTH).to_owned(),
    }
}

/// As many whole addresses as fit, in order. One that holds the separator would read as two and is passed over.
fn to_recipients(addresses: &[EmailAddress]) -> String {
    let mut text = String::new();
    for address in addresses
        .iter()
        .map(EmailAddress::as_str)
        .filter(|address| !address.contains(';'))
    {
        let separator = usize::from(!text.is_empty());
        if length(&text) + separator + length(address) > TO_RECIPIENTS_LENGTH {
            break;
        }
        if separator == 1 {
            text.push(';');
        }
        text.push_str(address);
    }
    text
}

/// Without the characters that XML 1.0 cannot hold; line breaks and tabs stay.
pub(crate) fn without_forbidden(text: &str) -> String {
    let allowed = |c: &char| !matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}');
    text.chars().filter(allowed).collect()
}

pub(crate) fn length(text: &str) -> usize {
    text.encode_utf16().count()
}

/// The longest beginning of at most `limit` UTF-16 code units that ends on a character boundary.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let mut units = 0;
    let over = text.char_indices().find(|(_, c)| {
        units += c.len_utf16();
        units > limit
    });
    over.and_then(|(at, _)| text.get(..at)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
