//! The Nylas v3 client: messages, attachments, grants, folders; webhook destinations: [`webhooks`].
//!
//! One attempt a call, no waiting. Ids are percent-encoded once, because ids of the IMAP family hold `<>/+=` (Nylas facts §8).
//! Messages are asked for with `fields=include_basic_headers`: without it there is no Message-ID (Nylas facts §5, §7). All headers are asked for only
//! where the policy needs them.

pub mod error;
pub mod webhooks;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{Method, RequestBuilder, StatusCode, header};
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use self::error::NylasError;
use self::wire::{Folder, Grant};
use crate::http::encoded;
use crate::ids::{AttachmentId, GrantId, MessageKey};
use crate::message::Message;
use crate::retry::retry_after;
use crate::secrets::SecretSource;
use crate::sync_request::json_problem;

/// Most messages a page (Nylas facts §7).
pub const LARGEST_PAGE: u32 = 200;

/// Grants a page. The default is 10 and the maximum unknown (Nylas facts §11).
const GRANT_PAGE: usize = 50;

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct NylasClient {
    http: reqwest::Client,
    base: String,
    api_key: Arc<SecretSource>,
    sent: Arc<AtomicU64>,
}

/// Which headers come with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// Message-ID, In-Reply-To and References, on every provider.
    Basic,
    /// All of them. Only for mailboxes that show them ([`wire::Grant::shows_all_headers`]): the others would show no Message-ID.
    All,
}

impl Headers {
    const fn fields(self) -> &'static str {
        match self {
            Self::Basic => "include_basic_headers",
            Self::All => "include_headers",
        }
    }
}

/// What came of asking for one message.
pub enum Fetched {
    /// It is there.
    Message(Box<Message>),
    /// It is no longer there, or never was.
    Gone,
}

/// Which messages of a mailbox a list means.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// Received at or after this, Unix seconds. Whether the bound is inclusive is unknown (Nylas facts §7), so ask a second early.
    pub received_after: i64,
    /// Received at or before this, Unix seconds; the same holds.
    pub received_before: Option<i64>,
    /// The id of the folder that they lie in.
    pub folder: Option<&'a str>,
    /// Ask the mail server itself, beyond the 90 days that Nylas keeps of the IMAP family. Needs a folder; never for other providers (Nylas facts §16).
    pub query_imap: bool,
}

impl Filter<'_> {
    fn write(&self, path: &mut String) {
        path.push_str(&format!("&received_after={}", self.received_after));
        if let Some(before) = self.received_before {
            path.push_str(&format!("&received_before={before}"));
        }
        if let Some(folder) = self.folder {
            path.push_str("&in=");
            path.push_str(&encoded(folder));
        }
        if self.query_imap {
            path.push_str("&query_imap=true");
        }
    }
}

/// One page of a mailbox's messages.
pub struct Page {
    /// Newest first.
    pub messages: Vec<Message>,
    /// Objects without a usable id.
    pub unreadable: usize,
    /// Pass it to the next call; `None` at the end.
    pub next: Option<String>,
}

impl NylasClient {
    /// A client of the API at `base` (`https://api.us.nylas.com` or `…eu…`).
    #[must_use]
    pub fn new(http: reqwest::Client, base: &Url, api_key: SecretSource) -> Self {
        Self {
            http,
            base: base.as_str().trim_end_matches('/').to_owned(),
            api_key: Arc::new(api_key),
            sent: Arc::default(),
        }
    }

    /// How many requests this client and its clones have sent.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// One message with its Message-ID.
    ///
    /// # Errors
    /// [`NylasError`]; an unknown grant is [`NylasError::Rejected`], not [`Fetched::Gone`].
    pub async fn message(&self, key: &MessageKey, headers: Headers) -> Result<Fetched, NylasError> {
        let path = format!(
            "/v3/grants/{}/messages/{}?fields={}",
            encoded(key.grant_id.as_str()),
            encoded(key.message_id.as_str()),
            headers.fields()
        );
        match self.get(&path).await {
            Ok(answer) => {
                let object = answer.get("data").unwrap_or(&Value::Null);
                let message = wire::message(&key.grant_id, object).map_err(|e| unreadable(&e))?;
                // The ledger and the queue know the message by the id that it was asked for.
                Ok(Fetched::Message(Box::new(Message {
                    key: key.clone(),
                    ..message
                })))
            }
            Err(NylasError::Rejected { status: 404, kind }) if kind != "grant.not_found" => {
                Ok(Fetched::Gone)
            }
            Err(error) => Err(error),
        }
    }

    /// A page of up to `limit` messages, newest first.
    ///
    /// # Errors
    /// [`NylasError`]; with a `page_token`, [`NylasError::Rejected`] with 400 may mean that Nylas no longer knows it.
    pub async fn messages(
        &self,
        grant_id: &GrantId,
        filter: &Filter<'_>,
        page_token: Option<&str>,
        headers: Headers,
        limit: u32,
    ) -> Result<Page, NylasError> {
        let page = self.messages_within(grant_id, filter, page_token, headers, limit, usize::MAX);
        page.await?
            .ok_or_else(|| unreadable(&"a page without an end"))
    }

    /// The same; `None` when the page has more than `most_bytes`, most of which are bodies: ask for fewer messages.
    ///
    /// # Errors
    /// Those of [`NylasClient::messages`].
    pub async fn messages_within(
        &self,
        grant_id: &GrantId,
        filter: &Filter<'_>,
        page_token: Option<&str>,
        headers: Headers,
        limit: u32,
        most_bytes: usize,
    ) -> Result<Option<Page>, NylasError> {
        let mut path = format!(
            "/v3/grants/{}/messages?fields={}&limit={limit}",
            encoded(grant_id.as_str()),
            headers.fields()
        );
        filter.write(&mut path);
        if let Some(token) = page_token {
            path.push_str("&page_token=");
            path.push_str(&encoded(token));
        }
        let Some(body) =
            body_within(self.send(self.call(Method::GET, &path)).await?, most_bytes).await?
        else {
            return Ok(None);
        };
        let answer = wire::json(&body).map_err(|error| unreadable(&json_problem(&error)))?;
        drop(body);
        let objects = listed(&answer)?;
        let messages: Vec<Message> = objects
            .iter()
            .filter_map(|object| wire::message(grant_id, object).ok())
            .collect();
        let next = wire::text(&answer, "next_cursor")
            .filter(|cursor| !cursor.is_empty())
            .map(str::to_owned);
        if next.is_some() && next.as_deref() == page_token {
            return Err(unreadable(&"a page of messages that was read before"));
        }
        Ok(Some(Page {
            unreadable: objects.len() - messages.len(),
            messages,
            next,
        }))
    }

    /// All grants of the application, without aliases unless Nylas volunteers them.
    ///
    /// # Errors
    /// [`NylasError`].
    pub async fn grants(&self) -> Result<Vec<Grant>, NylasError> {
        let mut grants: Vec<Grant> = Vec::new();
        let mut offset = 0;
        loop {
            // Oldest first, so that a grant made meanwhile comes last instead of moving the others by one place.
            let path = format!(
                "/v3/grants?limit={GRANT_PAGE}&offset={offset}&sort_by=created_at&order_by=asc"
            );
            let answer = self.get(&path).await?;
            let objects = listed(&answer)?;
            let page: Vec<Grant> = objects.iter().filter_map(wire::grant).collect();
            if page
                .first()
                .is_some_and(|first| grants.iter().any(|known| known.id == first.id))
            {
                return Err(unreadable(&"a page of grants that was read before"));
            }
            grants.extend(page);
            offset += objects.len();
            // A smaller limit than ours may be in force; the answer says which.
            let limit = answer
                .get("limit")
                .and_then(Value::as_u64)
                .and_then(|n| usize::try_from(n).ok());
            if objects.is_empty() || objects.len() < limit.unwrap_or(GRANT_PAGE) {
                return Ok(grants);
            }
        }
    }

    /// Whether Nylas refuses the API key: on a path that needs no mailbox, so that a mailbox to which
    /// nobody is signed in is told from a key that was revoked. An answer that tells nothing counts as
    /// no.
    pub async fn refuses_key(&self) -> bool {
        let answer = self.get("/v3/grants?limit=1").await;
        matches!(answer, Err(NylasError::SignInNeeded { .. }))
    }

    /// One grant with its aliases.
    ///
    /// # Errors
    /// [`NylasError`].
    pub async fn grant(&self, id: &GrantId) -> Result<Grant, NylasError> {
        let answer = self
            .get(&format!(
                "/v3/grants/{}?expose_aliases=true",
                encoded(id.as_str())
            ))
            .await?;
        answer
            .get("data")
            .and_then(wire::grant)
            .ok_or_else(|| unreadable(&"a grant without an id"))
    }

    /// All folders of a mailbox.
    ///
    /// # Errors
    /// [`NylasError`].
    pub async fn folders(&self, grant_id: &GrantId) -> Result<Vec<Folder>, NylasError> {
        let mut folders = Vec::new();
        let mut page_token = String::new();
        loop {
            let path = format!(
                "/v3/grants/{}/folders?limit=200{page_token}",
                encoded(grant_id.as_str())
            );
            let answer = self.get(&path).await?;
            folders.extend(listed(&answer)?.iter().filter_map(wire::folder));
            match wire::text(&answer, "next_cursor").filter(|cursor| !cursor.is_empty()) {
                Some(cursor) => {
                    let next = format!("&page_token={}", encoded(cursor));
                    if next == page_token {
                        return Err(unreadable(&"a page of folders that was read before"));
                    }
                    page_token = next;
                }
                None => return Ok(folders),
            }
        }
    }

    /// An attachment's bytes; `None` when it is no longer there, or has more than `limit` bytes.
    ///
    /// # Errors
    /// [`NylasError`].
    pub async fn attachment(
        &self,
        key: &MessageKey,
        id: &AttachmentId,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, NylasError> {
        let path = format!(
            "/v3/grants/{}/attachments/{}/download?message_id={}",
            encoded(key.grant_id.as_str()),
            encoded(id.as_str()),
            encoded(key.message_id.as_str())
        );
        match self.send(self.call(Method::GET, &path)).await {
            Ok(answer) => body_within(answer, limit).await,
            Err(NylasError::Rejected { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get(&self, path: &str) -> Result<Value, NylasError> {
        self.json(self.call(Method::GET, path)).await
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    async fn json(&self, call: RequestBuilder) -> Result<Value, NylasError> {
        let body = self.send(call).await?.bytes().await?;
        wire::json(&body).map_err(|error| unreadable(&json_problem(&error)))
    }

    async fn send(&self, call: RequestBuilder) -> Result<reqwest::Response, NylasError> {
        let api_key = self
            .api_key
            .get()
            .await
            .map_err(|error| NylasError::NoKey {
                what: error.to_string(),
            })?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        let answer = call
            .bearer_auth(api_key.expose_secret())
            .header(header::ACCEPT, "application/json")
            .send()
            .await?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer);
        }
        if status == StatusCode::UNAUTHORIZED {
            self.api_key.refused().await;
        }
        let wait = retry_after(answer.headers());
        let body = answer.bytes().await.unwrap_or_default();
        Err(NylasError::from_answer(status, wait, &body))
    }
}

/// The answer's body; `None` when it has more bytes.
async fn body_within(
    mut answer: reqwest::Response,
    most: usize,
) -> Result<Option<Vec<u8>>, NylasError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if chunk.len() > most - bytes.len() {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// The objects of a list. Null counts as empty, as some of Nylas' lists print it (Nylas facts §17); an answer without `data` is no list, and
/// must not pass for a mailbox without mail or an application without mailboxes.
fn listed(answer: &Value) -> Result<&[Value], NylasError> {
    match answer.get("data") {
        Some(Value::Array(objects)) => Ok(objects),
        Some(Value::Null) => Ok(&[]),
        _ => Err(unreadable(&"a list without data")),
    }
}

fn unreadable(what: &dyn std::fmt::Display) -> NylasError {
    NylasError::Unavailable {
        what: format!("unreadable answer: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_encoded_once_and_wholly() {
        // The vector that Nylas' Python SDK asserts (Nylas facts §8).
        let id = "<!&!AAAAAAAAAAAuAAAAAAAAABQ/wHZyqaNCptfKg5rnNAoBAMO2jhD3dRHOtM0AqgC7tuYAAAAAAA4AABAAAACTn3BxdTQ/T4N/0BgqPmf+AQAAAAA=@example.com>";
        assert_eq!(
            encoded(id),
            "%3C%21%26%21AAAAAAAAAAAuAAAAAAAAABQ%2FwHZyqaNCptfKg5rnNAoBAMO2jhD3dRHOtM0AqgC7tuYAAAAAAA4AABAAAACTn3BxdTQ%2FT4N%2F0BgqPmf%2BAQAAAAA%3D%40example.com%3E"
        );
    }
}
