//! Reads Nylas' JSON tolerantly: duplicate keys (the last wins), nulls, missing fields and fields
//! of the wrong type.
//!
//! Sources: Nylas facts §7 (message), §9 (folders), §11 (grants), §16 (published samples with
//! duplicate keys). The JSON is first read into a [`Value`], because a derived struct would reject
//! a whole message for one such field.

mod contact;
mod headers;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::Value;

pub use self::contact::contact;
use self::headers::{ancestors, bulk, header, is_beyond_basic};
use crate::model::address::EmailAddress;
use crate::model::ids::{AttachmentId, GrantId, InternetMessageId, MessageId, MessageKey};
use crate::model::message::{Attachment, IdUse, Message, Omission};

/// A message object without a usable id, so that it cannot be identified.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a message object has no usable id")]
pub struct NoId;

/// Reads a message object of the mailbox `grant_id`.
///
/// # Errors
/// [`NoId`]: count it; the message appears again in the list of the mailbox.
pub fn message(grant_id: &GrantId, object: &Value) -> Result<Message, NoId> {
    let message_id: MessageId = text(object, "id")
        .and_then(|id| id.parse().ok())
        .ok_or(NoId)?;
    let mut omissions = Vec::new();
    let date = object.get("date").and_then(date);
    if date.is_none() {
        omissions.push(Omission::Date);
    }
    let from = people(object, "from", &mut omissions).into_iter().next();
    let to = people(object, "to", &mut omissions);
    let cc = people(object, "cc", &mut omissions);
    let bcc = people(object, "bcc", &mut omissions);
    let mut attachments = Vec::new();
    for object in array(object, "attachments") {
        match attachment(object) {
            Some(attachment) => attachments.push(attachment),
            None => omissions.push(Omission::Attachment),
        }
    }
    Ok(Message {
        key: MessageKey {
            grant_id: grant_id.clone(),
            message_id,
        },
        internet_message_id: header(object, "Message-ID").and_then(InternetMessageId::from_header),
        ancestors: ancestors(object),
        subject: text(object, "subject").unwrap_or_default().to_owned(),
        snippet: text(object, "snippet").unwrap_or_default().to_owned(),
        names: names(object),
        body: text(object, "body").unwrap_or_default().to_owned(),
        from,
        to,
        cc,
        bcc,
        date,
        folders: array(object, "folders")
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        attachments,
        bulk: bulk(object),
        has_all_headers: array(object, "headers").iter().any(is_beyond_basic),
        stripped_sender: None,
        id_use: IdUse::Own,
        omissions,
    })
}

/// Reads a message object like [`message`] and consumes it. The body is moved instead of copied,
/// since bodies are large.
///
/// # Errors
/// [`NoId`].
pub fn message_of(grant_id: &GrantId, mut object: Value) -> Result<Message, NoId> {
    let body = object.get_mut("body").map(Value::take);
    let message = message(grant_id, &object)?;
    Ok(match body {
        Some(Value::String(body)) => Message { body, ..message },
        _ => message,
    })
}

/// Returns the display name of each address that has one.
fn names(object: &Value) -> HashMap<EmailAddress, String> {
    let mut names = HashMap::new();
    for person in ["from", "to", "cc", "bcc"]
        .into_iter()
        .flat_map(|key| array(object, key))
    {
        let name = text(person, "name").unwrap_or_default().trim();
        if let Some(address) = text(person, "email").and_then(EmailAddress::parse)
            && !name.is_empty()
        {
            names.entry(address).or_insert_with(|| name.to_owned());
        }
    }
    names
}

/// Reads Unix seconds, or RFC 3339 text as printed by the Nylas CLI. `None` outside the years 1970
/// to 9999.
fn date(value: &Value) -> Option<DateTime<Utc>> {
    let date = match value {
        Value::Number(seconds) => DateTime::from_timestamp(seconds.as_i64()?, 0)?,
        Value::String(text) => DateTime::parse_from_rfc3339(text).ok()?.to_utc(),
        _ => return None,
    };
    // A SQL datetime starts in 1753, but an email date before 1970 or after 9999 is meaningless.
    (date.timestamp() >= 0 && chrono::Datelike::year(&date) <= 9_999).then_some(date)
}

/// Returns the usable addresses under `key`, each once.
fn people(object: &Value, key: &str, omissions: &mut Vec<Omission>) -> Vec<EmailAddress> {
    let mut addresses = Vec::new();
    let mut seen = HashSet::new();
    for person in array(object, key) {
        match text(person, "email").and_then(EmailAddress::parse) {
            Some(address) if !seen.insert(address.clone()) => {}
            Some(address) => addresses.push(address),
            None => omissions.push(Omission::Address),
        }
    }
    addresses
}

fn attachment(object: &Value) -> Option<Attachment> {
    let id: AttachmentId = text(object, "id")?.parse().ok()?;
    // The raw header with its parameters; empty if a Google file name has characters beyond ASCII
    // (Nylas facts §7).
    let media_type = text(object, "content_type")
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    let content_id =
        text(object, "content_id").map(|id| id.trim().trim_matches(['<', '>']).to_owned());
    Some(Attachment {
        id,
        file_name: text(object, "filename").unwrap_or_default().to_owned(),
        media_type: if media_type.is_empty() {
            "application/octet-stream".to_owned()
        } else {
            media_type.to_owned()
        },
        content_id: content_id.filter(|id| !id.is_empty()),
        size: object.get("size").and_then(Value::as_u64),
    })
}

/// A connected mailbox.
#[derive(Clone)]
pub struct Grant {
    /// The id of the grant.
    pub id: GrantId,
    /// The mailbox's own address; `None` if the grant is not a mailbox (virtual calendars) or the
    /// text is not an address.
    pub address: Option<EmailAddress>,
    /// Further addresses; `None` if the answer has no list of them.
    pub aliases: Option<Vec<EmailAddress>>,
    /// `google`, `microsoft`, `imap`, …
    pub provider: String,
    /// Whether Nylas can access the mailbox now.
    pub valid: bool,
    /// The Nylas workspace of the grant; `None` if the answer does not name it.
    pub workspace_id: Option<String>,
}

impl Grant {
    pub(crate) fn with_aliases(self, aliases: &[EmailAddress]) -> Self {
        Self {
            aliases: Some(aliases.to_vec()),
            ..self
        }
    }

    /// Returns whether Nylas can list aliases of this grant: only Google and Microsoft grants have
    /// such aliases. Source: Nylas facts §5.
    #[must_use]
    pub(crate) fn may_have_aliases(&self) -> bool {
        matches!(self.provider.as_str(), "google" | "microsoft")
    }

    /// Returns whether Nylas stores only the last 90 days of the mailbox and has to ask the mail
    /// server for older messages. Source: Nylas facts §7 and §16.
    #[must_use]
    pub fn is_of_imap_family(&self) -> bool {
        matches!(self.provider.as_str(), "imap" | "yahoo" | "icloud")
    }

    /// Returns whether `fields=include_headers` returns the email's own headers.
    ///
    /// For the other providers it returns only headers that Nylas generates, without a Message-ID.
    /// Source: Nylas facts §7 (verified for these providers and for agent accounts; that an agent
    /// account is a grant of the provider `nylas` is inferred, so it is not counted).
    #[must_use]
    pub(crate) fn shows_all_headers(&self) -> bool {
        matches!(self.provider.as_str(), "google" | "microsoft" | "eas")
    }
}

/// Reads a grant object; `None` without a usable id.
#[must_use]
pub fn grant(object: &Value) -> Option<Grant> {
    // The facts do not know the name of the alias field; public copies of answers have
    // `email_aliases`.
    let aliases = ["email_aliases", "aliases"]
        .iter()
        .find_map(|name| object.get(name)?.as_array());
    Some(Grant {
        id: text(object, "id")?.parse().ok()?,
        address: text(object, "email").and_then(EmailAddress::parse),
        aliases: aliases.map(|list| {
            list.iter()
                .filter_map(Value::as_str)
                .filter_map(EmailAddress::parse)
                .collect()
        }),
        provider: text(object, "provider").unwrap_or_default().to_owned(),
        valid: text(object, "grant_status") == Some("valid"),
        workspace_id: text(object, "workspace_id")
            .filter(|id| !id.is_empty())
            .map(str::to_owned),
    })
}

/// A folder (label) of a mailbox.
pub struct Folder {
    /// The id, as used in [`Message::folders`].
    pub id: String,
    /// The display name; may contain the names of the parent folders. May be empty.
    pub name: String,
    /// The parent folder, if the provider returns it separately and not as part of the name.
    pub parent_id: Option<String>,
    /// `\Drafts`, `\Junk` and the like, in lower case and without the backslash.
    pub attributes: Vec<String>,
}

/// Reads a folder object; `None` without an id.
#[must_use]
pub fn folder(object: &Value) -> Option<Folder> {
    let attribute = |value: &Value| {
        value
            .as_str()
            .map(|a| a.trim_start_matches('\\').to_ascii_lowercase())
    };
    Some(Folder {
        id: text(object, "id")?.to_owned(),
        name: text(object, "name").unwrap_or_default().to_owned(),
        parent_id: text(object, "parent_id")
            .filter(|id| !id.is_empty())
            .map(str::to_owned),
        attributes: array(object, "attributes")
            .iter()
            .filter_map(attribute)
            .collect(),
    })
}

/// Reads the JSON of an answer or a notification.
///
/// A text that was cut inside an emoji ends with half of a surrogate pair, which a strict JSON
/// reader rejects. It is replaced by the replacement character, so that one cut snippet does not
/// make the message, or its whole page of messages, unreadable.
///
/// # Errors
/// The text is invalid JSON for another reason.
pub fn json(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(bytes).or_else(|error| match without_lone_surrogates(bytes) {
        Some(mended) => serde_json::from_slice(&mended),
        None => Err(error),
    })
}

/// Replaces each escaped half of a surrogate pair by `\\ufffd`; `None` if there is none.
fn without_lone_surrogates(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut mended = Vec::with_capacity(bytes.len());
    let mut changed = false;
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        let length = match (escaped_unit(rest), rest.get(6..).and_then(escaped_unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                mended.extend_from_slice(br"\ufffd");
                changed = true;
                rest = rest.get(6..).unwrap_or_default();
                continue;
            }
            // A backslash is copied with the character that it escapes, so that the second of two
            // backslashes is not taken for the start of an escape.
            _ if *first == b'\\' => 2.min(1 + tail.len()),
            _ => 1,
        };
        mended.extend_from_slice(rest.get(..length).unwrap_or_default());
        rest = rest.get(length..).unwrap_or_default();
    }
    changed.then_some(mended)
}

/// Returns the UTF-16 code unit of the escape `\\uXXXX` at the start of `bytes`.
fn escaped_unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.get(..6)?.strip_prefix(br"\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

pub(super) fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

pub(super) fn array<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(object: &Value) -> Message {
        message(&"g".parse().unwrap(), object).unwrap_or_else(|e| panic!("{e}"))
    }

    fn shown(list: &[EmailAddress]) -> Vec<&str> {
        list.iter().map(EmailAddress::as_str).collect()
    }

    #[test]
    fn a_display_name_is_stored_with_its_address() {
        let message = read(&json!({
            "id": "m", "from": [{"name": "Ada Lark", "email": "ADA@example.com"}],
            "to": [{"name": " ", "email": "bob@example.com"}, {"name": "Bob", "email": "bob@example.com"}, {"name": "Nobody", "email": "none"}],
        }));
        let name = |address: &str| {
            let address = EmailAddress::parse(address).unwrap();
            message.names.get(&address).map(String::as_str)
        };
        assert_eq!(name("ada@example.com"), Some("Ada Lark"));
        assert_eq!(name("bob@example.com"), Some("Bob"));
        assert_eq!(message.names.len(), 2);
    }

    #[test]
    fn every_used_field_of_a_message_is_read() {
        let message = read(&json!({
            "id": "m", "grant_id": "g", "object": "message", "subject": "Hi", "body": "<p>x</p>", "date": 1_700_000_000,
            "from": [{"name": "Ada", "email": "Ada@example.com"}],
            "to": [{"email": "bob@example.com"}, {"email": "BOB@example.com"}, {"email": "eve@example.com"}],
            "headers": [{"name": "message-id", "value": "<1@x>"}], "folders": ["INBOX", 7],
            "attachments": [{"id": "a1", "filename": "x.pdf", "content_type": "application/pdf; name=x.pdf", "size": 12,
                             "content_id": "<c1>"}, {"filename": "no id"}],
        }));
        assert_eq!(
            message.from.as_ref().map(EmailAddress::as_str),
            Some("ada@example.com")
        );
        assert_eq!(shown(&message.to), ["bob@example.com", "eve@example.com"]);
        assert_eq!(
            message
                .internet_message_id
                .as_ref()
                .map(InternetMessageId::as_str),
            Some("1@x")
        );
        assert_eq!(
            message.date.map(|d| d.to_rfc3339()).as_deref(),
            Some("2023-11-14T22:13:20+00:00")
        );
        assert_eq!(message.folders, ["INBOX"]);
        assert_eq!(message.attachments.len(), 1);
        assert_eq!(message.attachments[0].media_type, "application/pdf");
        assert_eq!(message.attachments[0].content_id.as_deref(), Some("c1"));
        assert_eq!(
            message.omissions,
            [Omission::Attachment],
            "an attachment without an id cannot be downloaded"
        );
    }

    #[test]
    fn nulls_and_wrong_types_lose_the_field_but_not_the_message() {
        let message = read(&json!({
            "id": "m", "subject": null, "body": 7, "date": "yesterday", "from": null, "to": {"email": "x"}, "cc": [null, 3],
            "bcc": [{"email": "not an address"}], "folders": null, "attachments": "none", "headers": [{"name": 1}],
        }));
        assert_eq!((message.subject.as_str(), message.body.as_str()), ("", ""));
        assert!(
            message.from.is_none()
                && message.to.is_empty()
                && message.cc.is_empty()
                && message.bcc.is_empty()
        );
        assert_eq!(
            crate::model::message::omissions_note(&message.omissions).as_deref(),
            Some("left out: date, 3 × address")
        );
    }

    #[test]
    fn a_lone_surrogate_is_replaced_and_the_message_is_still_read() {
        let snippet = |text: &str| {
            json(format!("{{\"s\":\"{text}\"}}").as_bytes()).map(|value| value["s"].clone())
        };
        assert_eq!(snippet(r"cut \ud83d").unwrap(), "cut \u{fffd}");
        assert_eq!(
            snippet(r"\udc00 \ud83d\ude00 \ud83d").unwrap(),
            "\u{fffd} \u{1f600} \u{fffd}"
        );
        assert_eq!(snippet(r"\ud83d\ud83d\ude00").unwrap(), "\u{fffd}\u{1f600}");
        assert_eq!(
            snippet(r"\\ud83d \ud83d").unwrap(),
            "\\ud83d \u{fffd}",
            "an escaped backslash does not start an escape"
        );
        assert!(json(b"{\"s\":\"\\ud83d").is_err());
        assert!(json(b"").is_err());
    }

    #[test]
    fn a_message_with_duplicate_keys_is_still_read() {
        let object: Value =
            serde_json::from_str(r#"{"id":"m","subject":"a","subject":"b","date":1}"#).unwrap();
        assert_eq!(read(&object).subject, "b");
    }

    #[test]
    fn a_date_is_seconds_or_rfc_3339_and_nothing_else() {
        assert_eq!(
            date(&json!("2026-01-31T09:15:00-05:00")).map(|d| d.timestamp()),
            Some(1_769_868_900)
        );
        for none in [
            json!(-5),
            json!(1.5),
            json!("1700000000"),
            json!(i64::MAX),
            json!(true),
            json!(300_000_000_000_i64),
        ] {
            assert_eq!(date(&none), None, "{none}");
        }
    }

    #[test]
    fn a_message_without_a_usable_id_is_an_error() {
        for object in [json!({}), json!({"id": ""}), json!({"id": 3}), json!(null)] {
            assert_eq!(message(&"g".parse().unwrap(), &object).err(), Some(NoId));
        }
    }

    #[test]
    fn folder_attributes_are_compared_without_case_and_backslash() {
        let sent = folder(&json!({"id": "f", "attributes": ["\\SENT", "\\Junk"]})).unwrap();
        assert_eq!(sent.attributes, ["sent", "junk"]);
    }
}
