//! Webhook destinations: where Nylas sends its notifications (Nylas facts §2).
//!
//! The secret that deliveries are signed with is shown twice: when the destination is made, and when it is rotated. The old one stops at that moment.

use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::error::NylasError;
use super::{NylasClient, listed, unreadable, wire};
use crate::http::encoded;

/// A destination as Nylas shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Its id.
    pub id: String,
    /// Where deliveries go.
    pub url: String,
    /// The triggers that it is subscribed to.
    pub triggers: Vec<String>,
    /// `active`, `pause`, `failing`, `failed`, or what else Nylas says.
    pub status: String,
    /// Deliveries are compressed. That Nylas shows this field is *inferred*; without it, its default holds (Nylas facts §2).
    pub compressed: bool,
}

/// A destination that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewDestination<'a> {
    /// Public HTTPS, not in use by another destination.
    pub url: &'a str,
    /// What to subscribe to.
    pub triggers: &'a [&'a str],
    /// For people.
    pub description: &'a str,
    /// Who gets Nylas' mail about failing deliveries.
    pub notify: &'a [String],
    /// Compress deliveries. Not where something on the way unpacks them, since the packed bytes are signed (Nylas facts §3).
    pub compressed: bool,
}

/// A destination together with the secret that is shown only now.
pub struct Shown {
    /// The destination.
    pub destination: Destination,
    /// What its deliveries are signed with from now on.
    pub secret: SecretString,
}

impl NylasClient {
    /// All destinations of the application.
    ///
    /// # Errors
    /// [`NylasError`].
    pub async fn webhooks(&self) -> Result<Vec<Destination>, NylasError> {
        let mut found = Vec::new();
        let mut query = String::new();
        loop {
            let answer = self.get(&format!("/v3/webhooks{query}")).await?;
            found.extend(listed(&answer)?.iter().filter_map(destination));
            // That this list has pages is not said; a cursor is followed where there is one.
            let cursor = wire::text(&answer, "next_cursor").filter(|cursor| !cursor.is_empty());
            let Some(cursor) = cursor else {
                return Ok(found);
            };
            let next = format!("?page_token={}", encoded(cursor));
            if next == query {
                return Err(unreadable(&"a page of webhooks that was read before"));
            }
            query = next;
        }
    }

    /// Makes a destination. Nylas first asks its URL, once, for the answer to a challenge.
    ///
    /// # Errors
    /// [`NylasError`]; [`NylasError::Rejected`] with status 400 also when the challenge was not answered as Nylas wants it. After
    /// [`NylasError::Unavailable`] the destination may be there.
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

    /// Gives a destination another secret. The old one stops at once; there is no overlap.
    ///
    /// # Errors
    /// [`NylasError`]. After [`NylasError::Unavailable`] the secret may be another one.
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
        _ => Err(unreadable(&"a webhook without its id or its secret")),
    }
}
