//! Identifiers: grants, messages, addresses, activities.
//!
//! Each id is a separate type with a private field, so that ids cannot be confused and an unchecked
//! text cannot be used as one. Ids of grants and messages may be logged; addresses may not, and
//! print as `…`.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest accepted provider message id, in bytes.
///
/// A DynamoDB sort key holds 1,024 bytes, and ids of the IMAP family are Message-ID headers of at
/// most 998.
const LONGEST_KEY_BYTES: usize = 1_000;

/// The longest id that is used only in a URL, in bytes.
const LONGEST_URL_PART_BYTES: usize = 8_000;

/// Characters that XML does not allow, beside control characters: Dataverse rejects the whole row
/// (0x80040278; *inferred* for these columns).
pub(super) const NO_COLUMN_HOLDS: [char; 2] = ['\u{fffe}', '\u{ffff}'];

/// Why a text is not an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// The text is empty.
    #[error("the {what} is empty")]
    Empty {
        /// The kind of id.
        what: &'static str,
    },
    /// The text is longer than anything that can be stored.
    #[error("the {what} is too long ({bytes} bytes)")]
    TooLong {
        /// The kind of id.
        what: &'static str,
        /// Its length, in bytes.
        bytes: usize,
    },
    /// The text is `.` or `..`, which name another resource in a URL.
    #[error("the {what} is `.` or `..`, which cannot be an id")]
    Dots {
        /// The kind of id.
        what: &'static str,
    },
    /// The text contains a control character.
    #[error("the {what} contains a control character")]
    ControlCharacter {
        /// The kind of id.
        what: &'static str,
    },
    /// The text has no slash between mailbox and message.
    #[error("name the message like the log field `sync.key`: grant id, slash, message id")]
    NoSlash,
}

fn checked(what: &'static str, text: String, longest: usize) -> Result<String, IdError> {
    if text.is_empty() {
        return Err(IdError::Empty { what });
    }
    if text.len() > longest {
        return Err(IdError::TooLong {
            what,
            bytes: text.len(),
        });
    }
    if matches!(text.as_str(), "." | "..") {
        return Err(IdError::Dots { what });
    }
    if text.chars().any(char::is_control) {
        return Err(IdError::ControlCharacter { what });
    }
    Ok(text)
}

macro_rules! provider_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $longest:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Returns the id as the provider wrote it, not percent-encoded.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                checked($what, text, $longest).map(Self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                checked($what, text.to_owned(), $longest).map(Self)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

provider_id!(
    /// The id of a Nylas grant: one connected mailbox.
    GrantId,
    "grant id",
    LONGEST_KEY_BYTES
);
provider_id!(
    /// The provider's id of a message within one mailbox. Case matters.
    MessageId,
    "message id",
    LONGEST_KEY_BYTES
);
provider_id!(
    /// The id of an attachment within one message.
    AttachmentId,
    "attachment id",
    LONGEST_URL_PART_BYTES
);

/// Identifies one message in one mailbox: the key of ledger items and queue messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MessageKey {
    /// The mailbox.
    pub grant_id: GrantId,
    /// The message in it.
    pub message_id: MessageId,
}

impl fmt::Display for MessageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.grant_id, self.message_id)
    }
}

/// Parses what [`fmt::Display`] printed. The first slash ends the grant id: Nylas' grant ids are
/// UUIDs, while a message id may contain slashes.
impl std::str::FromStr for MessageKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let (grant_id, message_id) = text.split_once('/').ok_or(IdError::NoSlash)?;
        Ok(Self {
            grant_id: grant_id.parse()?,
            message_id: message_id.parse()?,
        })
    }
}

/// The Message-ID header of an email, without its angle brackets: the identifier that all copies
/// share.
///
/// Whitespace, control characters (from folded headers) and characters that no column accepts are
/// removed; letter case is kept.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InternetMessageId(String);

impl InternetMessageId {
    /// Parses a header value; `None` if it contains no id.
    #[must_use]
    pub fn from_header(value: &str) -> Option<Self> {
        let inner = match (value.find('<'), value.rfind('>')) {
            (Some(open), Some(close)) if open < close => {
                value.get(open + 1..close).unwrap_or_default()
            }
            _ => value,
        };
        let id: String = inner
            .chars()
            .filter(|c| !c.is_whitespace() && !c.is_control() && !NO_COLUMN_HOLDS.contains(c))
            .collect();
        (!id.is_empty()).then_some(Self(id))
    }

    /// Returns the id without angle brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the id with angle brackets, as in a header.
    #[must_use]
    pub fn in_brackets(&self) -> String {
        format!("<{}>", self.0)
    }
}

/// The primary key of an email activity in Dataverse. Its derivation:
/// [`crate::model::keys::activity_id`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActivityId(Uuid);

impl ActivityId {
    /// Creates a key with this value.
    #[must_use]
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// Returns its value.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for ActivityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_kept_as_written_and_an_invalid_one_is_reported() {
        let id: MessageId = "<CAF+x=/a@mail.example>".parse().unwrap();
        assert_eq!(id.as_str(), "<CAF+x=/a@mail.example>");
        assert_eq!(
            "".parse::<GrantId>().unwrap_err().to_string(),
            "the grant id is empty"
        );
        assert_eq!(
            "a\u{0}b".parse::<GrantId>(),
            Err(IdError::ControlCharacter { what: "grant id" })
        );
        assert_eq!(
            "..".parse::<MessageId>(),
            Err(IdError::Dots { what: "message id" })
        );
        assert!(matches!(
            "x".repeat(1_001).parse::<MessageId>(),
            Err(IdError::TooLong { bytes: 1_001, .. })
        ));
    }

    #[test]
    fn a_message_key_is_parsed_as_it_is_displayed_and_other_text_is_rejected() {
        let key: MessageKey = "grant-1/<a/b+c=@x>".parse().unwrap();
        assert_eq!(
            (key.grant_id.as_str(), key.message_id.as_str()),
            ("grant-1", "<a/b+c=@x>")
        );
        assert_eq!(key.to_string(), "grant-1/<a/b+c=@x>");
        assert_eq!("m1".parse::<MessageKey>(), Err(IdError::NoSlash));
        for empty in ["/m1", "grant-1/"] {
            let error = empty.parse::<MessageKey>().unwrap_err();
            assert!(matches!(error, IdError::Empty { .. }), "{empty}: {error}");
        }
    }

    #[test]
    fn a_message_id_is_the_same_with_or_without_brackets_and_folding() {
        let plain = InternetMessageId::from_header("a.B@mail.example").unwrap();
        assert_eq!(plain.as_str(), "a.B@mail.example");
        for other in [
            "<a.B@mail.example>",
            " <a.B@mail.example>\r\n",
            "<a.B@\r\n mail.example>",
            "(by x) <a.B@mail.example>",
            "<a.B\u{fffe}@mail.example>",
        ] {
            assert!(
                InternetMessageId::from_header(other) == Some(plain.clone()),
                "{other}"
            );
        }
        assert_eq!(plain.in_brackets(), "<a.B@mail.example>");
        for empty in ["", "  ", "<>", "< >", "<\u{ffff}>"] {
            assert!(InternetMessageId::from_header(empty).is_none(), "{empty:?}");
        }
    }
}
