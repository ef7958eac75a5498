//! The Nylas application: grants and their messages, which are read only, and webhook destinations.
//!
//! | Question                                    | File          |
//! | ------------------------------------------- | ------------- |
//! | Which messages does a list have, in which form? | `messages.rs` |
//! | What does a mailbox hold?                   | `mailbox.rs`  |
//! | What do answers and errors look like?       | `reply.rs`    |
//! | How are grants shown?                       | `grants.rs`   |
//! | How are folders and attachments shown?      | `folders.rs`  |
//! | How are query parameters read?              | `query.rs`    |
//! | How is a webhook made, and what does it deliver? | `webhooks.rs` |

mod folders;
mod grants;
mod mailbox;
mod messages;
mod query;
mod reply;
mod webhooks;

use std::sync::{Arc, Mutex};

use axum::http::Method;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use uuid::Uuid;

pub use mailbox::Grant;
pub use webhooks::Delivery;

use crate::clock::Clock;
use crate::fault::{Fault, FaultPlan, Faults, Injected};
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
    faults: Faults,
    clock: Clock,
}

#[derive(Default)]
struct State {
    mailboxes: Vec<Mailbox>,
    destinations: Vec<webhooks::Destination>,
    key_is_revoked: bool,
    /// The most grants of a page; `None` for the usual limit.
    most_grants: Option<usize>,
    requests: u64,
    /// Path and query of every request, in order.
    log: Vec<String>,
    /// Message lists that were answered with a page.
    pages: u64,
    /// Lists of messages and folders so far. The number decides how the next last page ends.
    endings: u64,
}

impl State {
    /// Returns the mailbox with this grant id. Also accepts `grant:ID`, the address, and
    /// `email:ADDRESS`.
    fn mailbox(&self, grant: &str) -> Option<&Mailbox> {
        let id = grant.strip_prefix("grant:").unwrap_or(grant);
        let email = grant.strip_prefix("email:").unwrap_or(grant);
        self.mailboxes.iter().find(|mailbox| {
            mailbox.grant.id == id || mailbox.grant.email.eq_ignore_ascii_case(email)
        })
    }
}

impl Nylas {
    pub(crate) fn new(url: String, clock: Clock) -> Self {
        let api_key = format!("nyk_v0_{}", Uuid::new_v4().simple());
        Self {
            url,
            api_key,
            state: Arc::default(),
            faults: Faults::default(),
            clock,
        }
    }

    /// Returns the service's address, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Returns the application's API key.
    #[must_use]
    pub fn api_key(&self) -> String {
        self.api_key.clone()
    }

    /// Revokes the API key: from now on every call answers 401.
    pub fn revoke_api_key(&self) {
        lock(&self.state).key_is_revoked = true;
    }

    /// Makes the API key valid again.
    pub fn restore_api_key(&self) {
        lock(&self.state).key_is_revoked = false;
    }

    /// Connects a mailbox, with the default folders of its provider.
    ///
    /// If the grant id is connected already, the grant is replaced and its messages are kept, as
    /// when a user signs in again.
    pub fn add_grant(&self, grant: Grant) {
        let mailboxes = &mut lock(&self.state).mailboxes;
        match mailboxes
            .iter_mut()
            .find(|mailbox| mailbox.grant.id == grant.id)
        {
            Some(mailbox) => mailbox.grant = grant,
            None => mailboxes.push(Mailbox::new(grant, self.clock.now().timestamp())),
        }
    }

    /// Lists at most this many grants on a page, and shows that number as `limit`, even if a call
    /// requests more. What Nylas does with a `limit` that is too large is *unknown*; this is one
    /// possibility.
    pub fn cap_grant_pages(&self, most: usize) {
        lock(&self.state).most_grants = Some(most);
    }

    /// Makes a grant `valid` or `invalid`.
    ///
    /// # Panics
    /// If there is no such grant.
    pub fn set_grant_status(&self, grant_id: &str, status: &str) {
        self.change(grant_id, |mailbox| {
            status.clone_into(&mut mailbox.grant.status);
        });
    }

    /// Moves a grant into a workspace. A new grant is in the application's default workspace,
    /// `workspace-default`.
    ///
    /// # Panics
    /// If there is no such grant.
    pub fn set_workspace(&self, grant_id: &str, workspace_id: &str) {
        self.change(grant_id, |mailbox| {
            workspace_id.clone_into(&mut mailbox.workspace_id);
        });
    }

    /// Deletes a grant and its messages: Nylas no longer lists it, and all its objects are gone.
    ///
    /// # Panics
    /// If there is no such grant.
    pub fn remove_grant(&self, grant_id: &str) {
        self.change(grant_id, |_| {});
        let mailboxes = &mut lock(&self.state).mailboxes;
        mailboxes.retain(|mailbox| mailbox.grant.id != grant_id);
    }

    /// Adds a folder, or replaces the one with the same id.
    ///
    /// # Panics
    /// If there is no such grant, or if `folder` is not a JSON object.
    pub fn add_folder(&self, grant_id: &str, folder: Value) {
        self.change(grant_id, |mailbox| mailbox.add_folder(object(folder)));
    }

    /// Deletes a folder with the messages that are in no other folder, as a message server does.
    ///
    /// # Panics
    /// If there is no such grant.
    pub fn remove_folder(&self, grant_id: &str, id: &str) {
        self.change(grant_id, |mailbox| mailbox.remove_folder(id));
    }

    /// Returns the id of the first folder with this attribute, such as `\Sent`. Tests need it
    /// because Microsoft's ids cannot be guessed. `None` if the grant or the folder does not exist.
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

    /// Adds a message object in the format of the API, or replaces the one with the same id.
    ///
    /// If the message has `headers`, they are kept and shown when a call requests headers. If they
    /// contain no Message-ID, it is derived: the message id itself if that is a Message-ID already
    /// (IMAP), otherwise `<` + the first 32 hexadecimal digits of SHA-256(grant id, NUL, message
    /// id) + `@emulators.example.com>`.
    ///
    /// If the message has `received`, a Unix time, lists order and filter it by that time instead
    /// of its `date`: a list is not strictly sorted by date (Nylas facts §7). No answer shows the
    /// field.
    ///
    /// # Panics
    /// If there is no such grant, or if `message` is not a JSON object.
    pub fn add_message(&self, grant_id: &str, message: Value) {
        self.change(grant_id, |mailbox| mailbox.add_message(object(message)));
    }

    /// Stores the bytes of an attachment, and adds the attachment to its message unless it is
    /// listed there.
    ///
    /// # Panics
    /// If there is no such grant, or if `attachment` is not a JSON object.
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
    /// If there is no such grant.
    pub fn remove_message(&self, grant_id: &str, message_id: &str) {
        self.change(grant_id, |mailbox| mailbox.remove_message(message_id));
    }

    /// Returns a message as it is stored, with its headers; `None` if it does not exist.
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

    /// Returns the number of HTTP requests so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        lock(&self.state).requests
    }

    /// Returns path and query of the requests so far, as they were sent and in order. A request
    /// that a fault stopped before it was processed is not included.
    #[must_use]
    pub fn requested(&self) -> Vec<String> {
        lock(&self.state).log.clone()
    }

    /// Returns the number of pages of messages so far.
    #[must_use]
    pub fn pages(&self) -> u64 {
        lock(&self.state).pages
    }

    /// Injects random faults from now on; only the rates for whole requests apply. Queued faults
    /// come first.
    pub fn set_fault_plan(&self, plan: FaultPlan) {
        self.faults.follow(plan);
    }

    /// Returns what the plan has injected since it was set.
    #[must_use]
    pub fn injected(&self) -> Injected {
        self.faults.injected()
    }

    /// Makes the next request fail. Faults queue up, one for each request.
    pub fn fail_next(&self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Returns the number of queued faults that no request has used up yet.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.faults.left()
    }

    #[expect(
        clippy::panic,
        reason = "seeding a mailbox that was never connected is a programming error of the caller"
    )]
    fn change(&self, grant_id: &str, change: impl FnOnce(&mut Mailbox)) {
        let mut state = lock(&self.state);
        match state
            .mailboxes
            .iter_mut()
            .find(|mailbox| mailbox.grant.id == grant_id)
        {
            Some(mailbox) => change(mailbox),
            None => panic!("no grant {grant_id}: call add_grant first"),
        }
    }

    async fn route(&self, incoming: &Incoming) -> Reply {
        let key = incoming
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        if lock(&self.state).key_is_revoked || key != Some(self.api_key.as_str()) {
            return Err(Failure::bad_key());
        }
        let no_route = || Failure::no_route(incoming.method.as_str(), &incoming.path);
        let segments: Vec<&str> = incoming.path.trim_start_matches('/').split('/').collect();
        if let ["v3", "webhooks", below @ ..] = segments.as_slice() {
            return self.webhooks(incoming, below).await;
        }
        let ["v3", "grants", below @ ..] = segments.as_slice() else {
            return Err(no_route());
        };
        self.grants(incoming, below)
    }

    fn grants(&self, incoming: &Incoming, below: &[&str]) -> Reply {
        let no_route = || Failure::no_route(incoming.method.as_str(), &incoming.path);
        if incoming.method != Method::GET {
            return Err(no_route());
        }
        let query = Query::read(&incoming.query);
        let mut state = lock(&self.state);
        let [grant, below @ ..] = below else {
            return grants::list(&state.mailboxes, &query, state.most_grants);
        };
        let grant = decode(grant).ok_or_else(Failure::no_grant)?;
        let (endings, state) = (state.endings, &mut *state);
        let mailbox = state.mailbox(&grant).ok_or_else(Failure::no_grant)?;
        if below.is_empty() {
            return Ok(Answer::data(query.select(grants::show(
                mailbox,
                query.get("expose_aliases") == Some("true"),
            ))));
        }
        if mailbox.grant.status != "valid" {
            return Err(Failure::expired_grant());
        }
        let reply = match below {
            ["messages"] => messages::list(mailbox, &query, endings, self.clock.now().timestamp()),
            ["messages", id] => messages::get(mailbox, &object_id(id)?, &query),
            ["folders"] => folders::list(mailbox, &query, endings),
            ["folders", id] => folders::get(mailbox, &object_id(id)?, &query),
            ["attachments", id] => folders::attachment(mailbox, &object_id(id)?, &query),
            ["attachments", id, "download"] => folders::download(mailbox, &object_id(id)?, &query),
            _ => Err(no_route()),
        };
        if matches!(below, ["messages" | "folders"]) {
            state.endings += 1;
        }
        if matches!(below, ["messages"]) && reply.is_ok() {
            state.pages += 1;
        }
        reply
    }
}

impl Service for Nylas {
    fn faults(&self) -> &Faults {
        &self.faults
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn count(&self) {
        lock(&self.state).requests += 1;
    }

    fn refuse(&self, status: u16, code: &str, message: &str) -> Outgoing {
        reply::outgoing(Err(Failure::new(status, code, message)), self.requests())
    }

    async fn answer(&self, incoming: &Incoming) -> Outgoing {
        let asked = format!("{}?{}", incoming.path, incoming.query);
        lock(&self.state).log.push(asked);
        reply::outgoing(self.route(incoming).await, self.requests())
    }
}

#[expect(
    clippy::panic,
    reason = "seeding anything but an object is a programming error of the caller"
)]
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("expected a JSON object, got {other}"),
    }
}

fn decode(segment: &str) -> Option<String> {
    percent_decode_str(segment)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

/// Returns the id of a message, folder or attachment from its path segment, decoded once.
///
/// 404 if a character is not encoded that must be (Nylas facts §7). Inferred: every character must
/// be encoded except letters, digits and `-._~`.
fn object_id(segment: &str) -> Result<String, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte);
    if !segment.bytes().all(plain) {
        return Err(Failure::no_object());
    }
    decode(segment).ok_or_else(Failure::no_object)
}
