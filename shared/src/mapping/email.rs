//! Maps a message to the rows of an email. Pure: a message and what was found out about it in, rows
//! out.
//!
//! | Column of `email` | From | Rule |
//! | --- | --- | --- |
//! | `activityid` | Message-ID and sender; also the content, if another message of the sender has the same Message-ID | [`crate::ledger`] |
//! | `subject` | subject | line breaks become blanks; empty becomes `(no subject)`; cut at 800 |
//! | `description` | body | unchanged, HTML or text; cut at 1,073,741,823, far more than a worker can hold |
//! | `sender` | sender's address | left out when longer than 250 |
//! | `torecipients` | To addresses | joined by `;`, whole addresses only, at most 500 |
//! | `directioncode` | sender | internal: `true`, outgoing; otherwise `false`, incoming |
//! | `actualstart`, `actualend`, `sortdate` | date | UTC; left out when the message has no date |
//! | `messageid` | Message-ID | with angle brackets; left out when longer than 320, or when another message's row has it ([`IdUse`]) |
//! | `email_activity_parties` | all participants | [`crate::resolve::parties`] |
//! | `regardingobjectid_…_email` | thread, folder, external participants | [`crate::resolve::regarding`] |
//! | `parentactivityid` | In-Reply-To, References | the email that this one replies to, if the thread determined the regarding; on create only |
//! | `ownerid` | the mailbox's user | if there is one |
//! | `overriddencreatedon` | date | on request, for backfilled messages; on create only ([`crate::pipeline::created_on`]) |
//! | `notifications` | | 1 when an attachment could not be stored |
//! | `statecode`, `statuscode` | direction | afterwards, by PATCH: 1 with 3 (sent) or 4 (received) |
//!
//! If the policy allows less than the full content to be stored, [`limit`] removes the rest first.
//! What it removes is in no row, and no file is downloaded.
//!
//! | `content` | `subject` | `description` | attachments |
//! | --- | --- | --- | --- |
//! | `full` | subject | body | all |
//! | `snippet` | subject | the provider's snippet of the body | none |
//! | `subject` | subject | empty | none |
//! | `participants` | `(not stored)` | empty | none |
//!
//! Attachments become rows of `activitymimeattachment` ([`super::attachment`]). Lengths are in
//! UTF-16 code units, as in SQL Server (*inferred*), and texts are cut at a character boundary. The
//! lengths above are the defaults of Dataverse; if an organisation has shortened a column,
//! [`fit`](super::column_limits::fit) shortens the text. Characters that XML cannot hold are
//! removed, because Dataverse rejects them (0x80040278; *inferred* for these columns). Columns that
//! the facts call read-only (§1.2, §2.1) are never sent: Dataverse would silently ignore them.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::attachment::{FILE_KEY, FILE_OWNER, attachment_key, file_owner};
use super::column_limits::{SENDER_LENGTH, SUBJECT_LENGTH, TO_RECIPIENTS_LENGTH};
use crate::clients::dataverse::email_row::EmailWrite;
use crate::clients::dataverse::emails::SOME_ATTACHMENTS_NOT_SAVED;
use crate::clients::dataverse::records::{PartyReference, Table};
use crate::lookup::request::fits_its_column;
use crate::lookup::same_message::{NO_SUBJECT, NOT_STORED};
use crate::model::address::EmailAddress;
use crate::model::ids::ActivityId;
use crate::model::message::{IdUse, Message, Omission};
use crate::model::text::{cut, length, without_forbidden};
use crate::policy::document::Content;
use crate::resolve::parties::Party;
use crate::resolve::regarding::RegardingDecision;

/// The column that holds the body.
pub(super) const BODY: &str = "description";

/// The direction of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The sender is internal.
    Outgoing,
    /// The sender is external or unknown.
    Incoming,
}

/// The results of the earlier steps for a message.
pub struct Findings {
    /// The direction.
    pub direction: Direction,
    /// The activity parties.
    pub parties: Vec<Party>,
    /// The resolved regarding.
    pub regarding: RegardingDecision,
    /// The Dynamics user of the mailbox; `None` if there is none.
    pub owner: Option<Uuid>,
}

/// Removes everything from a message that the policy does not allow to be stored.
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
    // Attachments and bodies that would not have been stored are not missing.
    message
        .omissions
        .retain(|omission| !matches!(omission, Omission::Attachment | Omission::Body));
    if content == Content::Participants {
        NOT_STORED.clone_into(&mut message.subject);
    }
}

/// Returns the rows of a message, without attachments.
#[must_use]
pub fn email(message: &Message, findings: &Findings) -> EmailWrite {
    let activity_id = message.activity_id();
    let mut row = Map::new();
    row.insert("activityid".to_owned(), json!(activity_id));
    row.insert("subject".to_owned(), Value::from(subject(&message.subject)));
    row.insert(
        BODY.to_owned(),
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
                PartyReference {
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

/// Moves the rows of an email, including its attachments, to another key.
pub(crate) fn move_to(email: &mut EmailWrite, message: &Message, key: ActivityId) {
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

/// Removes the Message-ID from the row.
pub(crate) fn without_message_id(email: &mut EmailWrite) {
    email.row.remove("messageid");
}

fn date_time(date: DateTime<Utc>) -> String {
    date.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns the body that will be stored.
#[must_use]
pub fn body(email: &EmailWrite) -> &str {
    let body = email.row.get(BODY).and_then(Value::as_str);
    body.unwrap_or_default()
}

/// The property that binds the owner.
pub(super) const OWNER: &str = "ownerid@odata.bind";

/// Removes the owner from the row; Dataverse then uses the application user. Returns whether there
/// was an owner.
pub(crate) fn without_owner(email: &mut EmailWrite) -> bool {
    email.row.remove(OWNER).is_some()
}

/// The column with the creation time of a row.
const CREATED_ON: &str = "overriddencreatedon";

/// Sets the creation time of the row.
pub(crate) fn set_created_on(email: &mut EmailWrite, date: DateTime<Utc>) {
    email
        .row
        .insert(CREATED_ON.to_owned(), Value::from(date_time(date)));
}

/// Removes the creation time from the row; Dataverse then uses the current time. Returns whether
/// there was one.
pub(crate) fn without_created_on(email: &mut EmailWrite) -> bool {
    email.row.remove(CREATED_ON).is_some()
}

/// Records in the row that not all attachments were stored.
pub(crate) fn note_missing_attachment(email: &mut EmailWrite) {
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

pub(super) fn party(party: &Party) -> Value {
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

pub(super) fn subject(text: &str) -> String {
    let line: String = without_forbidden(text)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    match line.trim() {
        "" => NO_SUBJECT.to_owned(),
        line => cut(line, SUBJECT_LENGTH).to_owned(),
    }
}

/// Returns as many whole addresses as fit, in order. An address that contains the separator is
/// skipped, because it would read as two.
pub(super) fn to_recipients(addresses: &[EmailAddress]) -> String {
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
