//! A mail as we understand it, whatever the provider sent.
//!
//! Reading is tolerant: what is missing or of a wrong type is left out and remembered as an [`Omission`], so that one odd
//! field does not cost the mail. How Nylas' JSON becomes this: [`crate::nylas::wire`].

use std::collections::HashMap;
use std::fmt;

use chrono::{DateTime, Utc};

use crate::ids::{ActivityId, AttachmentId, EmailAddress, InternetMessageId, MessageKey};
use crate::keys;

/// How far back a thread is followed. A longer list of References names mails that the nearer ones stand for.
pub const MOST_ANCESTORS: usize = 10;

/// One mail in one mailbox.
#[derive(Clone)]
pub struct Message {
    /// Which mail in which mailbox.
    pub key: MessageKey,
    /// The name that all copies share; `None` when the provider has none.
    pub internet_message_id: Option<InternetMessageId>,
    /// The mails that it answers, the nearest first: In-Reply-To, then References from the end. Each once, [`MOST_ANCESTORS`] at most.
    pub ancestors: Vec<InternetMessageId>,
    /// May be empty.
    pub subject: String,
    /// HTML, or plain text where the mail has no HTML; Nylas does not say which.
    pub body: String,
    /// The provider's first words of the body, as plain text; may be empty.
    pub snippet: String,
    /// The display names that stand beside the addresses; the first that is not empty.
    pub names: HashMap<EmailAddress, String>,
    /// The first sender with a usable address.
    pub from: Option<EmailAddress>,
    /// In order, each address once.
    pub to: Vec<EmailAddress>,
    /// In order, each address once.
    pub cc: Vec<EmailAddress>,
    /// In order, each address once. Only the sender's own copy has these.
    pub bcc: Vec<EmailAddress>,
    /// When the mail server received it.
    pub date: Option<DateTime<Utc>>,
    /// Ids of the folders (labels) that it lies in.
    pub folders: Vec<String>,
    /// In order.
    pub attachments: Vec<Attachment>,
    /// What its headers say of bulk mail, as far as they are at hand.
    pub bulk: Option<Bulk>,
    /// More than the three basic headers were at hand.
    pub has_all_headers: bool,
    /// The sender, once [`Message::strip`] has taken them out: part of the mail's key still, and of nothing that is stored.
    pub stripped_sender: Option<EmailAddress>,
    /// Whether its row is found by its Message-ID.
    pub id_use: IdUse,
    /// What could not be read.
    pub omissions: Vec<Omission>,
}

/// What the Message-ID of a mail is good for, beside the rows that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdUse {
    /// It gives the row its key, and stands in it.
    #[default]
    Own,
    /// It gives the row its key. Another client's row, of another mail or not completed, has it in its column already.
    Taken,
    /// Another mail of the same sender has it. The row has this key instead (`same_mail::key_by_content`).
    Reused(ActivityId),
}

/// A file on a mail; its content is downloaded when the mail is written.
#[derive(Clone)]
pub struct Attachment {
    /// For the download.
    pub id: AttachmentId,
    /// May be empty.
    pub file_name: String,
    /// A media type without parameters; `application/octet-stream` when the provider has none.
    pub media_type: String,
    /// Content id of an inline image, without angle brackets.
    pub content_id: Option<String>,
    /// The provider's estimate, in bytes.
    pub size: Option<u64>,
}

/// By what a mail shows that it goes to many, or that nobody wrote it.
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

/// Something of a mail that could not be read or kept. Holds no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Omission {
    /// The date is missing or no date.
    Date,
    /// An address that is none.
    Address,
    /// An attachment too large, of a refused type, no longer there, or not to be had for long.
    Attachment,
    /// The owner was refused by Dataverse.
    Owner,
    /// It is not written in its owner's name, which the policy asks for: Dataverse refused that, or the user has no Entra object id.
    Impersonation,
    /// The Message-ID is longer than its column; the activity id still carries it.
    LongMessageId,
    /// Somebody became no contact, because Dataverse refused the row.
    Contact,
    /// Somebody's contact has no company, because Dataverse refused the company's row.
    Company,
    /// The Message-ID stands in the row of another mail, so this row is without it ([`IdUse`]).
    MessageIdReused,
    /// Part of the body, or all of it but the provider's snippet: it is longer than its column, or larger than a worker
    /// holds.
    Body,
    /// A person who was not looked up, because the message names more than are: the party is its address alone.
    Resolution,
    /// A recipient who is no party, because the message has more than one row is given.
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

/// `left out: date, 2 × address`; `None` when nothing was.
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
    /// The key of its row in Dataverse.
    #[must_use]
    pub fn activity_id(&self) -> ActivityId {
        match self.id_use {
            IdUse::Reused(key) => key,
            IdUse::Own | IdUse::Taken => {
                keys::activity_id(&self.key, self.internet_message_id.as_ref(), self.author())
            }
        }
    }

    /// From here on its row is without the Message-ID, which another row has, and that is recorded once.
    pub fn give_up_id(&mut self, id_use: IdUse) {
        self.id_use = id_use;
        if !self.omissions.contains(&Omission::MessageIdReused) {
            self.omissions.push(Omission::MessageIdReused);
        }
    }

    /// Who sent it, even where the policy takes the sender out of what is stored.
    #[must_use]
    pub fn author(&self) -> Option<&EmailAddress> {
        self.from.as_ref().or(self.stripped_sender.as_ref())
    }

    /// Takes people out, as if the mail did not name them. Its key stays what it was, so that a copy in another mailbox, where another policy holds,
    /// is the same mail.
    pub fn strip(&mut self, is_out: impl Fn(&EmailAddress) -> bool) {
        if let Some(sender) = self.from.take_if(|sender| is_out(sender)) {
            self.stripped_sender = Some(sender);
        }
        for list in [&mut self.to, &mut self.cc, &mut self.bcc] {
            list.retain(|address| !is_out(address));
        }
        self.names.retain(|address, _| !is_out(address));
    }

    /// Sender, To, Cc, Bcc in this order; an address may appear more than once.
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
    fn who_is_stripped_is_nowhere_in_a_mail_but_its_key_stays() {
        let mail = |from: &str| {
            let object = serde_json::json!({"id": "m", "from": [{"name": "Eve", "email": from}],
                "to": [{"email": "eve@x.example"}, {"email": "ada@ours.example"}], "cc": [{"email": "eve@x.example"}], "bcc": [{"email": "EVE@x.example"}],
                "headers": [{"name": "Message-ID", "value": "<a@x>"}]});
            crate::nylas::wire::message(&"g".parse().unwrap(), &object).unwrap()
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
