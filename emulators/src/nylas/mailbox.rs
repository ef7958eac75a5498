//! The content of one connected mailbox: folders, messages and the bytes of attachments.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// The workspace of a grant that was not moved to another one.
pub(crate) const DEFAULT_WORKSPACE: &str = "workspace-default";

/// A mailbox that the application may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The grant's id.
    pub id: String,
    /// The mailbox's address.
    pub email: String,
    /// `google`, `microsoft`, `imap`, `icloud`, `yahoo` or `ews`.
    pub provider: String,
    /// Other addresses of the mailbox.
    pub aliases: Vec<String>,
    /// `valid` or `invalid`. An invalid grant answers 401 to every call for its messages, folders
    /// and attachments.
    pub status: String,
}

/// A grant with its folders, messages and files.
pub(crate) struct Mailbox {
    pub(crate) grant: Grant,
    pub(crate) workspace_id: String,
    pub(crate) created_at: i64,
    pub(crate) folders: Vec<Map<String, Value>>,
    pub(crate) messages: BTreeMap<String, Map<String, Value>>,
    /// Bytes by message id and attachment id.
    files: HashMap<(String, String), Vec<u8>>,
}

impl Mailbox {
    pub(crate) fn new(grant: Grant, created_at: i64) -> Self {
        let folders = default_folders(&grant);
        Self {
            grant,
            workspace_id: DEFAULT_WORKSPACE.to_owned(),
            created_at,
            folders,
            messages: BTreeMap::new(),
            files: HashMap::new(),
        }
    }

    /// Adds a folder, or replaces the one with the same id.
    pub(crate) fn add_folder(&mut self, mut folder: Map<String, Value>) {
        folder.insert("grant_id".to_owned(), json!(self.grant.id));
        folder.entry("object").or_insert_with(|| json!("folder"));
        folder.entry("attributes").or_insert_with(|| json!([]));
        let id = folder
            .entry("id")
            .or_insert_with(|| json!("folder"))
            .clone();
        self.folders.retain(|known| known.get("id") != Some(&id));
        self.folders.push(folder);
    }

    /// Deletes a folder, and the messages that are in no other folder.
    pub(crate) fn remove_folder(&mut self, id: &str) {
        self.folders
            .retain(|known| known.get("id") != Some(&json!(id)));
        self.messages.retain(|_, message| {
            let Some(folders) = message.get_mut("folders").and_then(Value::as_array_mut) else {
                return true;
            };
            let was_there = folders.contains(&json!(id));
            folders.retain(|folder| *folder != json!(id));
            !(was_there && folders.is_empty())
        });
        let messages = &self.messages;
        self.files
            .retain(|(message, _), _| messages.contains_key(message));
    }

    /// Adds a message, or replaces the one with the same id. A message without an id gets one from
    /// its content.
    pub(crate) fn add_message(&mut self, mut message: Map<String, Value>) {
        let id = match message.get("id").and_then(Value::as_str) {
            Some(id) => id.to_owned(),
            None => digest(&[&Value::Object(message.clone()).to_string()])
                .chars()
                .take(16)
                .collect(),
        };
        message.insert("id".to_owned(), json!(id));
        message.insert("grant_id".to_owned(), json!(self.grant.id));
        message.insert("object".to_owned(), json!("message"));
        message.entry("thread_id").or_insert_with(|| json!(id));
        // Old samples show this field, but it is no longer part of the object (Nylas facts §7).
        message.remove("created_at");
        if let Some(Value::Array(attachments)) = message.get_mut("attachments") {
            attachments
                .iter_mut()
                .filter_map(Value::as_object_mut)
                .for_each(|attachment| self.grant.complete(attachment));
        }
        self.messages.insert(id, message);
    }

    /// Stores the bytes of an attachment, and adds the attachment to its message unless it is
    /// listed there.
    pub(crate) fn add_attachment(
        &mut self,
        message_id: &str,
        mut attachment: Map<String, Value>,
        bytes: Vec<u8>,
    ) {
        let id = match attachment.get("id").and_then(Value::as_str) {
            Some(id) => id.to_owned(),
            None => format!(
                "att:{}=",
                digest(&[message_id, &bytes.len().to_string()])
                    .chars()
                    .take(16)
                    .collect::<String>()
            ),
        };
        attachment.insert("id".to_owned(), json!(id));
        // An estimate above the real length, as documented: Nylas counts the base64 encoding.
        attachment
            .entry("size")
            .or_insert_with(|| json!(bytes.len().div_ceil(3) * 4));
        self.grant.complete(&mut attachment);
        self.files
            .insert((message_id.to_owned(), id.clone()), bytes);
        let Some(message) = self.messages.get_mut(message_id) else {
            return;
        };
        if let Some(list) = message
            .entry("attachments")
            .or_insert_with(|| json!([]))
            .as_array_mut()
            && !list
                .iter()
                .any(|known| known.get("id").and_then(Value::as_str) == Some(&id))
        {
            list.push(Value::Object(attachment));
        }
    }

    pub(crate) fn remove_message(&mut self, message_id: &str) {
        self.messages.remove(message_id);
        self.files.retain(|(message, _), _| message != message_id);
    }

    /// Returns an attachment object, as its message lists it.
    pub(crate) fn attachment(&self, message_id: &str, id: &str) -> Option<&Value> {
        let list = self
            .messages
            .get(message_id)?
            .get("attachments")?
            .as_array()?;
        list.iter()
            .find(|attachment| attachment.get("id").and_then(Value::as_str) == Some(id))
    }

    pub(crate) fn file(&self, message_id: &str, id: &str) -> Option<&Vec<u8>> {
        self.files.get(&(message_id.to_owned(), id.to_owned()))
    }

    pub(crate) fn has_folder(&self, id: &str) -> bool {
        self.folders
            .iter()
            .any(|folder| folder.get("id").and_then(Value::as_str) == Some(id))
    }

    /// Returns all headers of a message, and adds a Message-ID if there is none.
    ///
    /// The derived Message-ID is the message's id if that is a Message-ID already (IMAP), otherwise
    /// `<` + the first 32 hexadecimal digits of SHA-256(grant id, NUL, message id) +
    /// `@emulators.example.com>`.
    pub(crate) fn headers(&self, message: &Map<String, Value>) -> Vec<Value> {
        let mut headers = message
            .get("headers")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        if !headers.iter().any(|header| is_named(header, "message-id")) {
            let id = message
                .get("id")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let value = if id.starts_with('<') && id.ends_with('>') {
                id.to_owned()
            } else {
                format!(
                    "<{}@twin.example.com>",
                    digest(&[&self.grant.id, id])
                        .chars()
                        .take(32)
                        .collect::<String>()
                )
            };
            headers.push(json!({"name": "Message-ID", "value": value}));
        }
        headers
    }
}

impl Grant {
    /// Sets or removes the fields that every attachment of the provider has, or never has.
    fn complete(&self, attachment: &mut Map<String, Value>) {
        attachment.insert("grant_id".to_owned(), json!(self.id));
        if matches!(self.provider.as_str(), "microsoft" | "ews") {
            attachment.remove("content_disposition");
        }
    }
}

/// Returns whether a header has this name. `name` is in lower case.
pub(crate) fn is_named(header: &Value, name: &str) -> bool {
    header
        .get("name")
        .and_then(Value::as_str)
        .is_some_and(|known| known.eq_ignore_ascii_case(name))
}

/// Returns the SHA-256 of the parts, joined with NUL, in hexadecimal digits.
fn digest(parts: &[&str]) -> String {
    Sha256::digest(parts.join("\0"))
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _always_fits = write!(text, "{byte:02x}");
            text
        })
}

/// Returns the folders of a new mailbox. Their ids are words on Google, opaque on Microsoft, and
/// paths elsewhere (Nylas facts §9).
fn default_folders(grant: &Grant) -> Vec<Map<String, Value>> {
    let system: &[(&str, &str, Option<&str>)] = match grant.provider.as_str() {
        "google" => &[
            ("INBOX", "INBOX", Some("\\Inbox")),
            ("SENT", "SENT", Some("\\Sent")),
            ("DRAFT", "DRAFT", Some("\\Drafts")),
            ("SPAM", "SPAM", Some("\\Junk")),
            ("TRASH", "TRASH", Some("\\Trash")),
            ("ALL", "All Mail", Some("\\All")),
            ("UNREAD", "UNREAD", None),
            ("STARRED", "STARRED", None),
            ("IMPORTANT", "IMPORTANT", None),
            ("CATEGORY_PERSONAL", "CATEGORY_PERSONAL", None),
        ],
        "microsoft" | "ews" => &[
            ("", "Inbox", Some("\\Inbox")),
            ("", "Sent Items", Some("\\Sent")),
            ("", "Drafts", Some("\\Drafts")),
            ("", "Junk Email", Some("\\Junk")),
            ("", "Deleted Items", Some("\\Trash")),
            ("", "Archive", Some("\\Archive")),
        ],
        _ => &[
            ("INBOX", "INBOX", Some("\\Inbox")),
            ("Sent", "Sent", Some("\\Sent")),
            ("Drafts", "Drafts", Some("\\Drafts")),
            ("Junk", "Junk", Some("\\Junk")),
            ("Trash", "Trash", Some("\\Trash")),
        ],
    };
    let folder = |(id, name, attribute): &(&str, &str, Option<&str>)| {
        let opaque = || {
            format!(
                "AQMkAD{}",
                URL_SAFE.encode(digest(&[&grant.id, name]).get(..40).unwrap_or_default())
            )
        };
        let id = if id.is_empty() {
            opaque()
        } else {
            (*id).to_owned()
        };
        let attributes: Vec<&str> = attribute.iter().copied().collect();
        let mut folder = Map::new();
        folder.insert("id".to_owned(), json!(id));
        folder.insert("grant_id".to_owned(), json!(grant.id));
        folder.insert("name".to_owned(), json!(name));
        folder.insert("object".to_owned(), json!("folder"));
        folder.insert("attributes".to_owned(), json!(attributes));
        if grant.provider == "google" {
            folder.insert("system_folder".to_owned(), json!(true));
        }
        folder
    };
    system.iter().map(folder).collect()
}
