//! The Nylas application: grants and their mail, read only.
//!
//! | Question                                    | File          |
//! | ------------------------------------------- | ------------- |
//! | Which messages does a list have, in which form? | `messages.rs` |
//! | What does a mailbox hold?                   | `mailbox.rs`  |
//! | What do answers and errors look like?       | `reply.rs`    |
//! | How are query parameters read?              | `query.rs`    |

mod mailbox;
mod messages;
mod query;
mod reply;

use std::sync::{Arc, Mutex};

use axum::http::Method;
use chrono::Utc;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use uuid::Uuid;

pub use mailbox::Grant;

use crate::fault::{Fault, FaultQueue};
use crate::lock::lock;
use crate::server::{Incoming, Outgoing, Service};
use mailbox::Mailbox;
use query::Query;
use reply::{Answer, Failure, Reply};

/// The Nylas application. Clones are handles of the same application.
#[derive(Clone)]
pub struct Nylas {
    url: String,
    api_key: String,
    state: Arc<Mutex<State>>,
    faults: FaultQueue,
}

#[derive(Default)]
struct State {
    mailboxes: Vec<Mailbox>,
    requests: u64,
    /// Lists that came to their end, which decides how the next one says so.
    endings: u64,
}

impl State {
    /// The mailbox behind a grant id, or behind the other forms that the slot takes.
    fn mailbox(&self, grant: &str) -> Option<&Mailbox> {
        let id = grant.strip_prefix("grant:").unwrap_or(grant);
        let email = grant.strip_prefix("email:").unwrap_or(grant);
        self.mailboxes.iter().find(|mailbox| {
            mailbox.grant.id == id || mailbox.grant.email.eq_ignore_ascii_case(email)
        })
    }
}

impl Nylas {
    pub(crate) fn new(url: String) -> Self {
        let api_key = format!("nyk_v0_{}", Uuid::new_v4().simple());
        Self {
            url,
            api_key,
            state: Arc::default(),
            faults: FaultQueue::default(),
        }
    }

    /// The service's address, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The application's key.
    #[must_use]
    pub fn api_key(&self) -> String {
        self.api_key.clone()
    }

    /// Connects a mailbox, with the folders that its provider makes. A grant with the same id is replaced.
    pub fn add_grant(&self, grant: Grant) {
        let mailboxes = &mut lock(&self.state).mailboxes;
        mailboxes.retain(|mailbox| mailbox.grant.id != grant.id);
        mailboxes.push(Mailbox::new(grant, Utc::now().timestamp()));
    }

    /// Makes a grant `valid` or `invalid`.
    ///
    /// # Panics
    /// When there is no such grant.
    pub fn set_grant_status(&self, grant_id: &str, status: &str) {
        self.change(grant_id, |mailbox| {
            status.clone_into(&mut mailbox.grant.status);
        });
    }

    /// Adds a folder; one with the same id is replaced.
    ///
    /// # Panics
    /// When there is no such grant, or `folder` is no JSON object.
    pub fn add_folder(&self, grant_id: &str, folder: Value) {
        self.change(grant_id, |mailbox| mailbox.add_folder(object(folder)));
    }

    /// The id of the first folder with this attribute, such as `\Sent`: Microsoft's ids cannot be guessed.
    #[must_use]
    pub fn folder_id(&self, grant_id: &str, attribute: &str) -> Option<String> {
        let state = lock(&self.state);
        let has = |folder: &&Map<String, Value>| {
            let attributes = folder
                .get("attributes")
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            attributes.iter().any(|known| {
                known
                    .as_str()
                    .is_some_and(|known| known.eq_ignore_ascii_case(attribute))
            })
        };
        let folder = state.mailbox(grant_id)?.folders.iter().find(has)?;
        folder.get("id").and_then(Value::as_str).map(str::to_owned)
    }

    /// Adds a message object as the API shows it; one with the same id is replaced.
    ///
    /// Its `headers`, if it has them, are kept and shown when a call asks for headers. Without a Message-ID among
    /// them one is derived: the id itself where that is a Message-ID already (IMAP), else `<` + the first 32
    /// hexadecimal digits of SHA-256(grant id, NUL, message id) + `@twin.example.com>`.
    ///
    /// # Panics
    /// When there is no such grant, or `message` is no JSON object.
    pub fn add_message(&self, grant_id: &str, message: Value) {
        self.change(grant_id, |mailbox| mailbox.add_message(object(message)));
    }

    /// Adds the bytes of an attachment, and names it in its message unless the message does already.
    ///
    /// # Panics
    /// When there is no such grant, or `attachment` is no JSON object.
    pub fn add_attachment(
        &self,
        grant_id: &str,
        message_id: &str,
        attachment: Value,
        bytes: Vec<u8>,
    ) {
        self.change(grant_id, |mailbox| {
            mailbox.add_attachment(message_id, object(attachment), bytes);
        });
    }

    /// Deletes a message and its attachments.
    ///
    /// # Panics
    /// When there is no such grant.
    pub fn remove_message(&self, grant_id: &str, message_id: &str) {
        self.change(grant_id, |mailbox| mailbox.remove_message(message_id));
    }

    /// A message as it is stored, with its headers.
    #[must_use]
    pub fn message(&self, grant_id: &str, message_id: &str) -> Option<Value> {
        let state = lock(&self.state);
        let mailbox = state.mailbox(grant_id)?;
        let mut message = mailbox.messages.get(message_id)?.clone();
        message.insert(
            "headers".to_owned(),
            Value::Array(mailbox.headers(&message)),
        );
        Some(Value::Object(message))
    }

    /// HTTP requests so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        lock(&self.state).requests
    }

    /// Makes one coming request fail. Faults queue up.
    pub fn fail_next(&self, fault: Fault) {
        self.faults.push(fault);
    }

    #[expect(
        clippy::panic,
        reason = "seeding a mailbox that was never connected is a mistake of the caller"
    )]
    fn change(&self, grant_id: &str, change: impl FnOnce(&mut Mailbox)) {
        let mut state = lock(&self.state);
        match state
            .mailboxes
            .iter_mut()
            .find(|mailbox| mailbox.grant.id == grant_id)
        {
            Some(mailbox) => change(mailbox),
            None => panic!("no grant {grant_id} was added"),
        }
    }

    fn route(&self, incoming: &Incoming) -> Reply {
        let key = incoming
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        if key != Some(self.api_key.as_str()) {
            return Err(Failure::bad_key());
        }
        let no_route = || Failure::no_route(incoming.method.as_str(), &incoming.path);
        let segments: Vec<&str> = incoming.path.trim_start_matches('/').split('/').collect();
        let ["v3", "grants", below @ ..] = segments.as_slice() else {
            return Err(no_route());
        };
        if incoming.method != Method::GET {
            return Err(no_route());
        }
        let query = Query::read(&incoming.query);
        let mut state = lock(&self.state);
        let [grant, below @ ..] = below else {
            return grants(&state, &query);
        };
        let grant = decode(grant).ok_or_else(Failure::no_grant)?;
        let (endings, state) = (state.endings, &mut *state);
        let mailbox = state.mailbox(&grant).ok_or_else(Failure::no_grant)?;
        if below.is_empty() {
            return Ok(Answer::data(query.select(grant_object(
                mailbox,
                query.get("expose_aliases") == Some("true"),
            ))));
        }
        if mailbox.grant.status != "valid" {
            return Err(Failure::expired_grant());
        }
        let reply = match below {
            ["messages"] => messages::list(mailbox, &query, endings),
            ["messages", id] => messages::get(mailbox, &object_id(id)?, &query),
            ["folders"] => folders(mailbox, &query, endings),
            ["folders", id] => folder(mailbox, &object_id(id)?, &query),
            ["attachments", id] => attachment(mailbox, &object_id(id)?, &query),
            ["attachments", id, "download"] => download(mailbox, &object_id(id)?, &query),
            _ => Err(no_route()),
        };
        if matches!(below, ["messages" | "folders"]) {
            state.endings += 1;
        }
        reply
    }
}

impl Service for Nylas {
    fn faults(&self) -> &FaultQueue {
        &self.faults
    }

    fn count(&self) {
        lock(&self.state).requests += 1;
    }

    fn refuse(&self, status: u16, code: &str, message: &str) -> Outgoing {
        reply::outgoing(Err(Failure::new(status, code, message)), self.requests())
    }

    fn answer(&self, incoming: &Incoming) -> Outgoing {
        reply::outgoing(self.route(incoming), self.requests())
    }
}

#[expect(
    clippy::panic,
    reason = "seeding something that is no object is a mistake of the caller"
)]
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("a JSON object was expected, not {other}"),
    }
}

fn decode(segment: &str) -> Option<String> {
    percent_decode_str(segment)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

/// The id of a message, folder or attachment from its segment, decoded once. A character that must be encoded and is
/// not gives 404 (Nylas facts §7); which characters those are is inferred: all but letters, digits and `-._~`.
fn object_id(segment: &str) -> Result<String, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
    if !segment.bytes().all(plain) {
        return Err(Failure::no_object());
    }
    decode(segment).ok_or_else(Failure::no_object)
}

/// Grants, the newest first. Most that a `limit` may be is not known; 200 is taken.
fn grants(state: &State, query: &Query) -> Reply {
    let limit = query.limit(10, 200)?;
    let offset = match query.get("offset").map(str::parse::<usize>) {
        None => 0,
        Some(Ok(offset)) => offset,
        Some(Err(_)) => return Err(Failure::invalid("offset must be a number")),
    };
    let is = |name: &str, value: &str| {
        query
            .get(name)
            .is_none_or(|wanted| wanted.eq_ignore_ascii_case(value))
    };
    let found = state.mailboxes.iter().rev().filter(|mailbox| {
        let grant = &mailbox.grant;
        is("grant_status", &grant.status)
            && is("email", &grant.email)
            && is("provider", &grant.provider)
    });
    let data = found
        .skip(offset)
        .take(limit)
        .map(|mailbox| query.select(grant_object(mailbox, false)))
        .collect();
    let mut beside = Map::new();
    beside.insert("limit".to_owned(), json!(limit));
    beside.insert("offset".to_owned(), json!(offset));
    Ok(Answer::Data {
        data: Value::Array(data),
        beside,
    })
}

/// A grant as the API shows it. That aliases stand in `email_aliases` is not verified.
fn grant_object(mailbox: &Mailbox, with_aliases: bool) -> Map<String, Value> {
    let grant = &mailbox.grant;
    let mut object = Map::new();
    object.insert("id".to_owned(), json!(grant.id));
    object.insert("provider".to_owned(), json!(grant.provider));
    object.insert("grant_status".to_owned(), json!(grant.status));
    object.insert("email".to_owned(), json!(grant.email));
    object.insert("created_at".to_owned(), json!(mailbox.created_at));
    object.insert("updated_at".to_owned(), json!(mailbox.created_at));
    if matches!(grant.provider.as_str(), "google" | "microsoft") {
        object.insert(
            "scope".to_owned(),
            json!(["Mail.Read", "User.Read", "offline_access"]),
        );
        if with_aliases {
            object.insert("email_aliases".to_owned(), json!(grant.aliases));
        }
    }
    object
}

fn folders(mailbox: &Mailbox, query: &Query, ending: u64) -> Reply {
    let limit = query.limit(50, 200)?;
    let start: usize = match query.get("page_token") {
        None => 0,
        Some(token) => {
            let number = token
                .strip_prefix("Zm9sZGVycw")
                .and_then(|number| number.parse().ok());
            number.ok_or_else(|| Failure::invalid("invalid page_token"))?
        }
    };
    let parent = query.get("parent_id");
    let wanted = |folder: &&Map<String, Value>| {
        parent.is_none_or(|parent| folder.get("parent_id").and_then(Value::as_str) == Some(parent))
    };
    let found: Vec<&Map<String, Value>> = mailbox.folders.iter().filter(wanted).collect();
    let data = found
        .iter()
        .skip(start)
        .take(limit)
        .map(|folder| query.select((*folder).clone()))
        .collect();
    let cursor = (start + limit < found.len()).then(|| format!("Zm9sZGVycw{}", start + limit));
    let mut beside = Map::new();
    beside.extend(
        messages::next_cursor(cursor, ending).map(|cursor| ("next_cursor".to_owned(), cursor)),
    );
    Ok(Answer::Data {
        data: Value::Array(data),
        beside,
    })
}

fn folder(mailbox: &Mailbox, id: &str, query: &Query) -> Reply {
    let found = mailbox
        .folders
        .iter()
        .find(|folder| folder.get("id").and_then(Value::as_str) == Some(id));
    found
        .map(|folder| Answer::data(query.select(folder.clone())))
        .ok_or_else(Failure::no_object)
}

/// `message_id` is required for both calls about an attachment (Nylas facts §7).
fn message_of(query: &Query) -> Result<&str, Failure> {
    query
        .get("message_id")
        .ok_or_else(|| Failure::invalid("message_id is required"))
}

fn attachment(mailbox: &Mailbox, id: &str, query: &Query) -> Reply {
    let found = mailbox.attachment(message_of(query)?, id);
    found
        .map(|attachment| Answer::data(attachment.clone()))
        .ok_or_else(Failure::no_object)
}

fn download(mailbox: &Mailbox, id: &str, query: &Query) -> Reply {
    let found = mailbox.file(message_of(query)?, id);
    found
        .map(|bytes| Answer::Bytes(bytes.clone()))
        .ok_or_else(Failure::no_object)
}
