//! An email as mailverse understands it, independent of the provider.
//!
//! Reading is tolerant: a field that is missing or of a wrong type is left out and recorded as an
//! [`Omission`], so that one odd field does not fail the message. How Nylas' JSON is read:
//! [`crate::clients::nylas::wire`].

use std::collections::HashMap;
use std::fmt;

use chrono::{DateTime, Utc};

use crate::model::address::EmailAddress;
use crate::model::ids::{ActivityId, AttachmentId, InternetMessageId, MessageKey};
use crate::model::keys;

/// The most ancestors of a message that are kept. Entries of a longer References header precede the
/// nearer ones in the same thread.
pub const MOST_ANCESTORS: usize = 10;

/// One email in one mailbox.
#[derive(Clone)]
pub struct Message {
    /// Identifies the mailbox and the message in it.
    pub key: MessageKey,
    /// The Message-ID, which all copies share; `None` if the provider has none.
    pub internet_message_id: Option<InternetMessageId>,
    /// The Message-IDs of the emails that it answers, the nearest first: In-Reply-To, then
    /// References from the end. Distinct, at most [`MOST_ANCESTORS`].
    pub ancestors: Vec<InternetMessageId>,
    /// May be empty.
    pub subject: String,
    /// HTML, or plain text if the email has no HTML; Nylas does not report which.
    pub body: String,
    /// The start of the body as the provider extracted it, as plain text; may be empty.
    pub snippet: String,
    /// The display name of each address: the first one that is not empty.
    pub names: HashMap<EmailAddress, String>,
    /// The first sender with a usable address; `None` if there is none.
    pub from: Option<EmailAddress>,
    /// In the order of the header, each address once.
    pub to: Vec<EmailAddress>,
    /// In the order of the header, each address once.
    pub cc: Vec<EmailAddress>,
    /// In the order of the header, each address once. Only the sender's copy has these.
    pub bcc: Vec<EmailAddress>,
    /// When the mail server received it; `None` if the date is missing or invalid.
    pub date: Option<DateTime<Utc>>,
    /// Ids of the folders (labels) that contain it.
    pub folders: Vec<String>,
    /// In the order of the message.
    pub attachments: Vec<Attachment>,
    /// The bulk mail marker in its headers; `None` if there is none or the headers were not
    /// available.
    pub bulk: Option<Bulk>,
    /// Whether more than the three basic headers were available.
    pub has_all_headers: bool,
    /// The sender, if [`Message::strip`] has removed it: still part of the row's key, but not
    /// stored anywhere.
    pub(crate) stripped_sender: Option<EmailAddress>,
    /// How its row uses the Message-ID.
    pub(crate) id_use: IdUse,
    /// What was left out of the message or its row.
    pub omissions: Vec<Omission>,
}

/// How a message's row can use its Message-ID, given the rows that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum IdUse {
    /// It determines the row's key and is stored in the row.
    #[default]
    Own,
    /// It determines the row's key, but is not stored in the row: another client's row, of another
    /// email or not completed, has it in its column already.
    Taken,
    /// Another email of the same sender has it. The row has this key instead
    /// (`lookup::same_message::key_by_content`).
    Reused(ActivityId),
}

/// A file of an email; its content is downloaded when the email is written.
#[derive(Clone)]
pub struct Attachment {
    /// The id for the download.
    pub id: AttachmentId,
    /// May be empty.
    pub file_name: String,
    /// A media type without parameters; `application/octet-stream` if the provider has none.
    pub(crate) media_type: String,
    /// The content id of an inline image, without angle brackets; `None` otherwise.
    pub content_id: Option<String>,
    /// The provider's estimate, in bytes; `None` if it has none.
    pub size: Option<u64>,
}

/// The header that marks an email as bulk or automatic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bulk {
    /// `List-Id`
    ListId,
    /// `List-Unsubscribe`
    ListUnsubscribe,
    /// `Precedence: bulk`, `list` or `junk`
    Precedence,
    /// `Auto-Submitted`, other than `no`
    AutoSubmitted,
}

/// Something that was left out of a message or its row. Contains no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Omission {
    /// The date is missing or invalid.
    Date,
    /// An address is invalid.
    Address,
    /// An attachment is too large, has a rejected type, no longer exists, or was not available for
    /// a long time.
    Attachment,
    /// Dataverse rejected the owner.
    Owner,
    /// The row was not written as its owner, which the policy requires: Dataverse rejected that, or
    /// the user has no Entra object id.
    Impersonation,
    /// The Message-ID is longer than its column; the activity id is still derived from it.
    LongMessageId,
    /// No contact was created for an address, because Dataverse rejected the row.
    Contact,
    /// A new contact has no company, because Dataverse rejected the company's row.
    Company,
    /// Another email's row has the Message-ID, so this row is written without it ([`IdUse`]).
    MessageIdReused,
    /// Part of the body, or all of it except the provider's snippet: it is longer than its column,
    /// or larger than a worker can hold in memory.
    Body,
    /// A party was not looked up, because the message has more addresses than the limit. The party
    /// has only its address.
    Resolution,
    /// A recipient is no party, because the message has more recipients than a row may have.
    Recipient,
}

impl fmt::Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Date => "date",
            Self::Address => "address",
            Self::Attachment => "attachment",
            Self::Owner => "owner refused",
            Self::Impersonation => "owner's name",
            Self::LongMessageId => "long Message-ID",
            Self::Contact => "contact refused",
            Self::Company => "company refused",
            Self::MessageIdReused => "message_id_reused",
            Self::Body => "part of the body",
            Self::Resolution => "record of a recipient",
            Self::Recipient => "recipient",
        })
    }
}

/// Returns a note such as `left out: date, 2 × address`; `None` if nothing was left out.
#[must_use]
pub fn omissions_note(omissions: &[Omission]) -> Option<String> {
    let mut kinds = omissions.to_vec();
    kinds.sort_unstable();
    let parts: Vec<String> = kinds
        .chunk_by(PartialEq::eq)
        .filter_map(|same| {
            same.first().map(|kind| {
                if same.len() == 1 {
                    kind.to_string()
                } else {
                    format!("{} × {kind}", same.len())
                }
            })
        })
        .collect();
    (!parts.is_empty()).then(|| format!("left out: {}", parts.join(", ")))
}

impl Message {
    /// Returns the key of its row in Dataverse.
    #[must_use]
    pub fn activity_id(&self) -> ActivityId {
        match self.id_use {
            IdUse::Reused(key) => key,
            IdUse::Own | IdUse::Taken => {
                keys::activity_id(&self.key, self.internet_message_id.as_ref(), self.author())
            }
        }
    }

    /// Writes the row without the Message-ID from now on, because another row has it. The omission
    /// is recorded once.
    pub(crate) fn drop_message_id(&mut self, id_use: IdUse) {
        self.id_use = id_use;
        if !self.omissions.contains(&Omission::MessageIdReused) {
            self.omissions.push(Omission::MessageIdReused);
        }
    }

    /// Returns the sender, even if the policy excludes it from what is stored.
    #[must_use]
    pub(crate) fn author(&self) -> Option<&EmailAddress> {
        self.from.as_ref().or(self.stripped_sender.as_ref())
    }

    /// Removes addresses as if the email did not contain them. The row's key does not change, so
    /// that a copy in another mailbox with another policy has the same row.
    pub fn strip(&mut self, is_out: impl Fn(&EmailAddress) -> bool) {
        if let Some(sender) = self.from.take_if(|sender| is_out(sender)) {
            self.stripped_sender = Some(sender);
        }
        for list in [&mut self.to, &mut self.cc, &mut self.bcc] {
            list.retain(|address| !is_out(address));
        }
        self.names.retain(|address, _| !is_out(address));
    }

    /// Returns sender, To, Cc and Bcc in this order; an address may appear more than once.
    pub fn participants(&self) -> impl Iterator<Item = &EmailAddress> {
        self.from
            .iter()
            .chain(&self.to)
            .chain(&self.cc)
            .chain(&self.bcc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stripped_participant_is_removed_everywhere_but_the_activity_id_stays() {
        let mail = |from: &str| {
            let object = serde_json::json!({"id": "m", "from": [{"name": "Eve", "email": from}],
                "to": [{"email": "eve@x.example"}, {"email": "ada@ours.example"}], "cc": [{"email": "eve@x.example"}], "bcc": [{"email": "EVE@x.example"}],
                "headers": [{"name": "Message-ID", "value": "<a@x>"}]});
            crate::clients::nylas::wire::message(&"g".parse().unwrap(), &object).unwrap()
        };
        let is_eve = |address: &EmailAddress| address.as_str() == "eve@x.example";
        let mut stripped = mail("eve@x.example");
        stripped.strip(is_eve);
        let left: Vec<&str> = stripped.participants().map(EmailAddress::as_str).collect();
        assert_eq!(left, ["ada@ours.example"]);
        assert!(stripped.names.is_empty());
        assert_eq!(stripped.activity_id(), mail("eve@x.example").activity_id());
        let mut by_another = mail("bob@x.example");
        by_another.strip(is_eve);
        assert_eq!(by_another.from, mail("bob@x.example").from);
        assert_eq!(by_another.author(), by_another.from.as_ref());
    }

    #[test]
    fn omissions_are_counted_by_kind() {
        let note = omissions_note(&[Omission::Address, Omission::Date, Omission::Address]);
        assert_eq!(note.as_deref(), Some("left out: date, 2 × address"));
        assert_eq!(omissions_note(&[]), None);
    }
}
