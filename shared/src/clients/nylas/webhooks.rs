//! Webhook destinations: the URLs to which Nylas sends its notifications (Nylas facts §2).
//!
//! Nylas returns the secret that signs the deliveries only twice: when the destination is created,
//! and when the secret is rotated. From then on the old secret is invalid.

use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::client::{listed, unreadable};
use super::error::NylasError;
use super::{NylasClient, wire};
use crate::clients::http::encoded;

/// A destination as Nylas returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Its id.
    pub id: String,
    /// The URL to which Nylas delivers.
    pub url: String,
    /// The subscribed triggers.
    pub triggers: Vec<String>,
    /// `active`, `pause`, `failing`, `failed`, or another status of Nylas.
    pub status: String,
    /// Whether deliveries are compressed. That Nylas returns this field is *inferred*; without it,
    /// the default applies: not compressed (Nylas facts §2).
    pub compressed: bool,
}

/// A destination to be created.
#[derive(Debug, Clone, Copy)]
pub struct NewDestination<'a> {
    /// A public HTTPS URL that no other destination uses.
    pub url: &'a str,
    /// The triggers to subscribe to.
    pub triggers: &'a [&'a str],
    /// A description for people.
    pub description: &'a str,
    /// Addresses to which Nylas reports failing deliveries.
    pub notify: &'a [String],
    /// Whether to compress deliveries. Do not compress if a proxy on the way decompresses them,
    /// since the signature covers the compressed bytes (Nylas facts §3).
    pub compressed: bool,
}

/// A destination with its secret, which Nylas returns only now.
pub struct Shown {
    /// The destination.
    pub destination: Destination,
    /// The secret that signs its deliveries from now on.
    pub secret: SecretString,
}

impl NylasClient {
    /// Lists all destinations of the application.
    ///
    /// # Errors
    /// [`NylasError`].
    pub async fn webhooks(&self) -> Result<Vec<Destination>, NylasError> {
        let mut found = Vec::new();
        let mut query = String::new();
        loop {
            let answer = self.get(&format!("/v3/webhooks{query}")).await?;
            found.extend(listed(&answer)?.iter().filter_map(destination));
            // Whether this list has pages is not documented; if there is a cursor, it is followed.
            let cursor = wire::text(&answer, "next_cursor").filter(|cursor| !cursor.is_empty());
            let Some(cursor) = cursor else {
                return Ok(found);
            };
            let next = format!("?page_token={}", encoded(cursor));
            if next == query {
                return Err(unreadable(&"a page of webhooks that was already read"));
            }
            query = next;
        }
    }

    /// Creates a destination. Nylas first sends one challenge to its URL and expects the answer.
    ///
    /// # Errors
    /// [`NylasError`]. [`NylasError::Rejected`] with status 400 may also mean that the challenge
    /// was not answered as Nylas expects. After [`NylasError::Unavailable`] the destination may
    /// exist.
    pub async fn create_webhook(&self, wished: &NewDestination<'_>) -> Result<Shown, NylasError> {
        let mut body = json!({
            "webhook_url": wished.url, "trigger_types": wished.triggers, "description": wished.description, "compressed_delivery": wished.compressed,
        });
        if let Some(fields) = body.as_object_mut()
            && !wished.notify.is_empty()
        {
            fields.insert(
                "notification_email_addresses".to_owned(),
                json!(wished.notify),
            );
        }
        let call = self.call(Method::POST, "/v3/webhooks").json(&body);
        shown(&self.json(call).await?)
    }

    /// Replaces the secret of a destination. The old secret is invalid at once; there is no
    /// overlap.
    ///
    /// # Errors
    /// [`NylasError`]. After [`NylasError::Unavailable`] the secret may have been replaced.
    pub async fn rotate_webhook_secret(&self, id: &str) -> Result<Shown, NylasError> {
        let path = format!("/v3/webhooks/rotate-secret/{}", encoded(id));
        shown(&self.json(self.call(Method::POST, &path)).await?)
    }
}

fn destination(object: &Value) -> Option<Destination> {
    let text = |name| wire::text(object, name).map(str::to_owned);
    let triggers = object.get("trigger_types").and_then(Value::as_array);
    let triggers = triggers.into_iter().flatten().filter_map(Value::as_str);
    Some(Destination {
        id: text("id")?,
        url: text("webhook_url").unwrap_or_default(),
        triggers: triggers.map(str::to_owned).collect(),
        status: text("status").unwrap_or_default(),
        compressed: object.get("compressed_delivery").and_then(Value::as_bool) == Some(true),
    })
}

fn shown(answer: &Value) -> Result<Shown, NylasError> {
    let data = answer.get("data").unwrap_or(&Value::Null);
    let secret = wire::text(data, "webhook_secret").filter(|secret| !secret.trim().is_empty());
    match (destination(data), secret) {
        (Some(destination), Some(secret)) => Ok(Shown {
            destination,
            secret: secret.to_owned().into(),
        }),
        _ => Err(unreadable(&"a webhook without an id or a secret")),
    }
}
