//! Webhook destinations: how they are created, shown, rotated and delivered to (Nylas facts §2, §3
//! and §6).
//!
//! | Rule | Answer if it is broken, or note |
//! | --- | --- |
//! | `trigger_types` and `webhook_url` are required; the triggers are those of the contract | 400 |
//! | the URL is HTTPS, is used once, and its host is not ngrok | 400; HTTP is accepted on the loopback interface, for tests |
//! | Nylas sends one GET with a challenge; the receiver answers 200 with exactly that value, not chunked, within 10 s | 400 |
//! | the secret is shown when it is created or rotated, and never again | |
//! | a rotation invalidates the old secret at once | |
//! | the destination exists | 404 |
//! | a destination receives the types it is subscribed to, with any suffix that Nylas appends (facts §5) | |
//!
//! The facts do not describe updating or deleting a destination: 501.

use std::io::Read;
use std::time::Duration;

use axum::http::Method;
use flate2::Compression;
use flate2::read::GzEncoder;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use url::{Host, Url};
use uuid::Uuid;

use super::Nylas;
use super::reply::{Answer, Failure, Reply};
use crate::lock::lock;
use crate::server::Incoming;

/// The types that can be subscribed to, as far as the contract lists them (Nylas facts §5).
const TRIGGERS: [&str; 28] = [
    "calendar.created",
    "calendar.updated",
    "calendar.deleted",
    "event.created",
    "event.updated",
    "event.deleted",
    "grant.created",
    "grant.updated",
    "grant.deleted",
    "grant.expired",
    "grant.imap_sync_completed",
    "message.created",
    "message.created.cleaned",
    "message.updated",
    "message.deleted",
    "message.send_success",
    "message.send_failed",
    "message.bounce_detected",
    "message.opened",
    "message.link_clicked",
    "thread.replied",
    "contact.updated",
    "contact.deleted",
    "folder.created",
    "folder.updated",
    "folder.deleted",
    "message.bounced",
    "message.rejected",
];

/// The statuses after which Nylas sends a notification again (Nylas facts §6, §15).
const SENT_AGAIN: [u16; 6] = [408, 429, 502, 503, 504, 507];

/// The number of attempts in total.
const TRIES: u32 = 3;

/// How long Nylas waits for a receiver's answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A webhook destination.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    id: String,
    url: String,
    triggers: Vec<String>,
    compressed: bool,
    /// The optional fields as they were sent.
    others: Map<String, Value>,
    status: String,
    secret: String,
    created_at: i64,
    changed_at: i64,
}

impl Destination {
    fn show(&self) -> Map<String, Value> {
        let mut shown = self.others.clone();
        for (name, value) in [
            ("id", json!(self.id)),
            ("trigger_types", json!(self.triggers)),
            ("webhook_url", json!(self.url)),
            ("compressed_delivery", json!(self.compressed)),
            ("status", json!(self.status)),
            ("status_updated_at", json!(self.changed_at)),
            ("created_at", json!(self.created_at)),
            ("updated_at", json!(self.changed_at)),
        ] {
            shown.insert(name.to_owned(), value);
        }
        shown
    }

    fn show_with_secret(&self) -> Answer {
        let mut shown = self.show();
        shown.insert("webhook_secret".to_owned(), json!(self.secret));
        Answer::data(Value::Object(shown))
    }
}

/// A notification that is to be sent to one destination.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The id of the destination.
    pub webhook_id: String,
    /// The status of the answer to each attempt; 0 if the receiver did not answer.
    pub answers: Vec<u16>,
    url: String,
    body: Vec<u8>,
    signature: String,
    compressed: bool,
}

impl Delivery {
    /// Returns whether the receiver accepted the notification, with status 200.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.answers.last() == Some(&200)
    }

    /// Returns whether Nylas gives up: after a status that is not sent again, or after the third
    /// attempt.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let again = |answer: &u16| *answer == 0 || SENT_AGAIN.contains(answer);
        !self.is_taken()
            && (!self.answers.last().is_none_or(again) || self.answers.len() >= TRIES as usize)
    }

    /// Sends the notification with the bytes and the signature of the first attempt. Does nothing
    /// if it was accepted or given up.
    pub async fn attempt(&mut self) {
        if self.is_taken() || self.is_lost() {
            return;
        }
        let Ok(http) = client() else {
            self.answers.push(0);
            return;
        };
        let mut call = http
            .post(&self.url)
            .header("content-type", "application/json")
            .header("x-nylas-signature", &self.signature)
            .body(self.body.clone());
        if self.compressed {
            call = call.header("content-encoding", "gzip");
        }
        let answer = call.send().await.map_or(0, |it| it.status().as_u16());
        self.answers.push(answer);
    }
}

fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(PATIENCE)
        .redirect(reqwest::redirect::Policy::none())
        .build()
}

fn new_secret() -> String {
    Uuid::new_v4().simple().to_string()
}

impl Nylas {
    /// Returns the current secret of a destination, which Nylas itself shows only once.
    ///
    /// For tests that search places where the secret must not be.
    #[must_use]
    pub fn webhook_secret(&self, id: &str) -> Option<String> {
        let state = lock(&self.state);
        let found = state.destinations.iter().find(|one| one.id == id)?;
        Some(found.secret.clone())
    }

    /// Sets the status of all destinations: `active`, `pause`, `failing` or `failed`.
    pub fn set_webhook_status(&self, status: &str) {
        for destination in &mut lock(&self.state).destinations {
            status.clone_into(&mut destination.status);
        }
    }

    /// Returns a delivery of the notification for every `active` or `failing` destination that is
    /// subscribed to its type.
    ///
    /// It is signed with the destination's current secret. Nothing is sent before
    /// [`Delivery::attempt`].
    #[must_use]
    pub fn deliveries(&self, notification: &Value) -> Vec<Delivery> {
        let kind = notification
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let state = lock(&self.state);
        let subscribed = state.destinations.iter().filter(|one| {
            matches!(one.status.as_str(), "active" | "failing")
                && one.triggers.iter().any(|trigger| is_of(kind, trigger))
        });
        subscribed
            .map(|one| {
                let mut body = notification.to_string().into_bytes();
                if one.compressed {
                    body = gzip(&body);
                }
                Delivery {
                    webhook_id: one.id.clone(),
                    answers: Vec::new(),
                    url: one.url.clone(),
                    signature: signature(&one.secret, &body),
                    body,
                    compressed: one.compressed,
                }
            })
            .collect()
    }

    /// Answers everything below `/v3/webhooks`.
    pub(super) async fn webhooks(&self, incoming: &Incoming, below: &[&str]) -> Reply {
        match (&incoming.method, below) {
            (&Method::GET, []) => Ok(Answer::data(Value::Array(
                lock(&self.state)
                    .destinations
                    .iter()
                    .map(|one| Value::Object(one.show()))
                    .collect(),
            ))),
            (&Method::POST, []) => self.create_webhook(incoming).await,
            (&Method::POST, ["rotate-secret", id]) => {
                let mut state = lock(&self.state);
                let found = state.destinations.iter_mut().find(|one| one.id == *id);
                let found = found.ok_or_else(Failure::no_object)?;
                found.secret = new_secret();
                found.changed_at = self.clock.now().timestamp();
                Ok(found.show_with_secret())
            }
            (&Method::GET, [id]) => {
                let state = lock(&self.state);
                let found = state.destinations.iter().find(|one| one.id == *id);
                let found = found.ok_or_else(Failure::no_object)?;
                Ok(Answer::data(Value::Object(found.show())))
            }
            (&Method::PUT | &Method::DELETE, [_]) => {
                Err(Failure::not_imitated("changes of a webhook destination"))
            }
            _ => Err(Failure::no_route(incoming.method.as_str(), &incoming.path)),
        }
    }

    async fn create_webhook(&self, incoming: &Incoming) -> Reply {
        let body = incoming.body.as_deref().unwrap_or_default();
        let wished: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|_| Failure::invalid("the body is no JSON object"))?;
        let destination = self.wished(wished)?;
        if !answers_challenge(&destination.url).await {
            // Inferred: the error type.
            return Err(Failure::invalid("the webhook URL could not be verified"));
        }
        let mut state = lock(&self.state);
        if state
            .destinations
            .iter()
            .any(|one| one.url == destination.url)
        {
            return Err(Failure::invalid("the webhook URL is in use already"));
        }
        let shown = destination.show_with_secret();
        state.destinations.push(destination);
        Ok(shown)
    }

    fn wished(&self, mut wished: Map<String, Value>) -> Result<Destination, Failure> {
        let url = wished.remove("webhook_url");
        let url = url.as_ref().and_then(Value::as_str).unwrap_or_default();
        check_url(url)?;
        let triggers: Vec<String> = wished
            .remove("trigger_types")
            .and_then(|list| serde_json::from_value(list).ok())
            .unwrap_or_default();
        if triggers.is_empty() {
            return Err(Failure::invalid("trigger_types is missing"));
        }
        if let Some(unknown) = triggers.iter().find(|it| !TRIGGERS.contains(&it.as_str())) {
            return Err(Failure::invalid(format!("{unknown} is no trigger")));
        }
        let compressed = match wished.remove("compressed_delivery") {
            None => false,
            Some(Value::Bool(compressed)) => compressed,
            Some(_) => return Err(Failure::invalid("compressed_delivery must be a boolean")),
        };
        wished.retain(|name, _| {
            matches!(
                name.as_str(),
                "description" | "notification_email_addresses"
            )
        });
        let now = self.clock.now().timestamp();
        Ok(Destination {
            id: Uuid::new_v4().simple().to_string(),
            url: url.to_owned(),
            triggers,
            compressed,
            others: wished,
            status: "active".to_owned(),
            secret: new_secret(),
            created_at: now,
            changed_at: now,
        })
    }
}

/// Returns whether a notification's type is this trigger, or this trigger with suffixes.
fn is_of(kind: &str, trigger: &str) -> bool {
    let suffixes = kind.strip_prefix(trigger);
    suffixes.is_some_and(|it| it.is_empty() || it.starts_with('.'))
}

fn check_url(text: &str) -> Result<(), Failure> {
    let url = Url::parse(text).map_err(|_| Failure::invalid("webhook_url is no URL"))?;
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Domain(name)) if name.contains("ngrok") => {
            return Err(Failure::invalid("the host of webhook_url is blocked"));
        }
        _ => false,
    };
    if url.scheme() != "https" && !(loopback && url.scheme() == "http") {
        return Err(Failure::invalid("webhook_url must be public HTTPS"));
    }
    Ok(())
}

/// Sends the challenge with one GET and checks the answer as strictly as Nylas does.
async fn answers_challenge(url: &str) -> bool {
    let challenge = Uuid::new_v4().to_string();
    let Ok(mut url) = Url::parse(url) else {
        return false;
    };
    url.query_pairs_mut().append_pair("challenge", &challenge);
    let Ok(http) = client() else {
        return false;
    };
    let Ok(answer) = http.get(url).send().await else {
        return false;
    };
    let chunked = answer.headers().contains_key("transfer-encoding");
    let found = answer.status().as_u16() == 200;
    let body = answer.bytes().await.unwrap_or_default();
    found && !chunked && body == challenge.as_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let read = GzEncoder::new(bytes, Compression::default()).read_to_end(&mut packed);
    // Compressing bytes in memory cannot fail.
    read.map(|_| packed).unwrap_or_default()
}

fn signature(secret: &str, body: &[u8]) -> String {
    Hmac::<Sha256>::new_from_slice(secret.as_bytes())
        .map(|mac| hex::encode(mac.chain_update(body).finalize().into_bytes()))
        .unwrap_or_default()
}
