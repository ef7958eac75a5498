//! The Nylas v3 client: messages, attachments, grants and folders. Webhook destinations are in
//! [`super::webhooks`].
//!
//! A call makes one attempt and never waits. Ids are percent-encoded once, because ids of the IMAP
//! family contain `<>/+=` (Nylas facts §8). Messages are requested with
//! `fields=include_basic_headers`, since without it there is no Message-ID (Nylas facts §5, §7).
//! All headers are requested only where the policy needs them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use reqwest::{Method, RequestBuilder, StatusCode, header};
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use super::error::NylasError;
use super::wire::{self, Folder, Grant};
use crate::clients::aws::secrets::SecretSource;
use crate::clients::http::encoded;
use crate::clients::retry::retry_after;
use crate::model::ids::{AttachmentId, GrantId, MessageKey};
use crate::model::message::{Message, Omission};
use crate::model::sync_request::json_problem;

/// The most messages in a page (Nylas facts §7).
pub const LARGEST_PAGE: u32 = 200;

/// The largest answer with one message that is kept in memory, in bytes. Most of it is the body.
///
/// A larger message is written without its body. Nylas publishes no limit for reading (Nylas facts
/// §7); mail servers stay far below this for everything that is not an attachment.
///
/// Twice as many bytes, as UTF-16, still fit into the Dataverse column for the body (128,000 KB,
/// Dataverse facts §2.1; that Dataverse counts them as UTF-16 is inferred).
pub const LARGEST_MESSAGE: usize = 48 * 1024 * 1024;

/// The fields of a message without its body.
const ALL_BUT_THE_BODY: &str =
    "id,grant_id,subject,from,to,cc,bcc,date,folders,snippet,attachments,headers";

/// The number of grants per page. The default is 10 and the maximum unknown (Nylas facts §11).
const GRANT_PAGE: usize = 50;

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct NylasClient {
    http: reqwest::Client,
    base: String,
    api_key: Arc<SecretSource>,
    sent: Arc<AtomicU64>,
}

/// Which headers are requested with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headers {
    /// Message-ID, In-Reply-To and References, on every provider.
    Basic,
    /// All headers. Only for mailboxes that return the email's own headers
    /// ([`wire::Grant::shows_all_headers`]): the others would return no Message-ID.
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

/// The result of fetching one message.
pub enum Fetched {
    /// The message exists.
    Message(Box<Message>),
    /// The message was deleted or never existed.
    Gone,
}

/// The result of downloading an attachment.
#[derive(Debug, PartialEq, Eq)]
pub enum FetchedFile {
    /// The content; may be empty.
    Bytes(Vec<u8>),
    /// The attachment has more bytes than the limit.
    TooLarge,
    /// The attachment does not exist yet, or no longer (providers answer 404 for minutes after the
    /// notification).
    Missing,
}

/// Which messages of a mailbox to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// Received at or after this time, in Unix seconds. Whether the bound is inclusive is unknown
    /// (Nylas facts §7), so set it one second early.
    pub received_after: i64,
    /// Received at or before this time, in Unix seconds. Whether this bound is inclusive is unknown
    /// too.
    pub received_before: Option<i64>,
    /// The id of the folder that contains the messages.
    pub folder: Option<&'a str>,
    /// Search on the mail server itself, beyond the 90 days that Nylas stores for the IMAP family.
    /// Needs a folder; not allowed for other providers (Nylas facts §16).
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
    /// The messages, newest first.
    pub messages: Vec<Message>,
    /// How many objects of the page had no usable id.
    pub unreadable: usize,
    /// The token for the next page; `None` at the end.
    pub next: Option<String>,
}

impl NylasClient {
    /// Creates a client of the API at `base` (`https://api.us.nylas.com` or `…eu…`).
    #[must_use]
    pub fn new(http: reqwest::Client, base: &Url, api_key: SecretSource) -> Self {
        Self {
            http,
            base: base.as_str().trim_end_matches('/').to_owned(),
            api_key: Arc::new(api_key),
            sent: Arc::default(),
        }
    }

    /// Returns how many requests this client and its clones have sent.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Fetches one message with its Message-ID.
    ///
    /// # Errors
    /// [`NylasError`]; an unknown grant is [`NylasError::Rejected`], not [`Fetched::Gone`].
    pub async fn message(&self, key: &MessageKey, headers: Headers) -> Result<Fetched, NylasError> {
        self.message_counted(key, headers, &AtomicUsize::new(0))
            .await
    }

    /// Fetches one message like [`NylasClient::message`] and counts its bytes.
    ///
    /// Bytes are added to `held` as they arrive. If the answer contains no message, its bytes are
    /// subtracted again.
    ///
    /// A message of more than [`LARGEST_MESSAGE`] bytes is returned without its body. It then has
    /// the snippet as its body, and [`Omission::Body`].
    ///
    /// # Errors
    /// Those of [`NylasClient::message`].
    pub async fn message_counted(
        &self,
        key: &MessageKey,
        headers: Headers,
        held: &AtomicUsize,
    ) -> Result<Fetched, NylasError> {
        let path = format!(
            "/v3/grants/{}/messages/{}?fields={}",
            encoded(key.grant_id.as_str()),
            encoded(key.message_id.as_str()),
            headers.fields()
        );
        if let Some(fetched) = self.message_at(&path, key, held).await? {
            return Ok(fetched);
        }
        let path = format!("{path}&select={ALL_BUT_THE_BODY}");
        match self.message_at(&path, key, held).await? {
            Some(Fetched::Message(message)) => {
                Ok(Fetched::Message(Box::new(without_body(*message))))
            }
            Some(Fetched::Gone) => Ok(Fetched::Gone),
            None => Err(unreadable(
                &"a message that is too large even without its body",
            )),
        }
    }

    /// Fetches the message at `path`; `None` if the answer has more than [`LARGEST_MESSAGE`] bytes.
    async fn message_at(
        &self,
        path: &str,
        key: &MessageKey,
        held: &AtomicUsize,
    ) -> Result<Option<Fetched>, NylasError> {
        let answer = match self.send(self.call(Method::GET, path)).await {
            Ok(answer) => answer,
            Err(NylasError::Rejected { status: 404, kind }) if kind != "grant.not_found" => {
                return Ok(Some(Fetched::Gone));
            }
            Err(error) => return Err(error),
        };
        let mut arrived = Arrived { held, bytes: 0 };
        let Some(body) = body_counted(answer, LARGEST_MESSAGE, &mut arrived).await? else {
            return Ok(None);
        };
        let mut answer = wire::json(&body).map_err(|error| unreadable(&json_problem(&error)))?;
        drop(body);
        let object = answer.get_mut("data").map(Value::take).unwrap_or_default();
        let message = wire::message_of(&key.grant_id, object).map_err(|e| unreadable(&e))?;
        arrived.stay();
        // The ledger and the queue use the id that was requested, so the message keeps that id.
        Ok(Some(Fetched::Message(Box::new(Message {
            key: key.clone(),
            ..message
        }))))
    }

    /// Lists a page of up to `limit` messages, newest first.
    ///
    /// # Errors
    /// [`NylasError`]. With a `page_token`, [`NylasError::Rejected`] with status 400 may mean that
    /// Nylas no longer accepts the token.
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
            .ok_or_else(|| unreadable(&"a page larger than any limit"))
    }

    /// Lists a page like [`NylasClient::messages`]; `None` if the page has more than `most_bytes`
    /// bytes, most of which are bodies.
    ///
    /// After `None`, ask for fewer messages. If a single message (`limit` 1) is larger than that,
    /// it is returned without its body, as in [`NylasClient::message_counted`].
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
        if let Some(page) = self
            .page_at(&path, grant_id, page_token, most_bytes)
            .await?
        {
            return Ok(Some(page));
        }
        if limit > 1 {
            return Ok(None);
        }
        let path = format!("{path}&select={ALL_BUT_THE_BODY}");
        let page = self.page_at(&path, grant_id, page_token, most_bytes);
        Ok(page.await?.map(|page| Page {
            messages: page.messages.into_iter().map(without_body).collect(),
            ..page
        }))
    }

    /// Fetches the page at `path`; `None` if it has more than `most_bytes` bytes.
    async fn page_at(
        &self,
        path: &str,
        grant_id: &GrantId,
        page_token: Option<&str>,
        most_bytes: usize,
    ) -> Result<Option<Page>, NylasError> {
        let answer = self.send(self.call(Method::GET, path)).await?;
        let Some(body) = body_within(answer, most_bytes).await? else {
            return Ok(None);
        };
        let mut answer = wire::json(&body).map_err(|error| unreadable(&json_problem(&error)))?;
        drop(body);
        let next = wire::text(&answer, "next_cursor")
            .filter(|cursor| !cursor.is_empty())
            .map(str::to_owned);
        if next.is_some() && next.as_deref() == page_token {
            return Err(unreadable(&"a page of messages that was already read"));
        }
        let listed = listed(&answer)?.len();
        let objects = match answer.get_mut("data").map(Value::take) {
            Some(Value::Array(objects)) => objects,
            _ => Vec::new(),
        };
        let messages: Vec<Message> = objects
            .into_iter()
            .filter_map(|object| wire::message_of(grant_id, object).ok())
            .collect();
        Ok(Some(Page {
            unreadable: listed - messages.len(),
            messages,
            next,
        }))
    }

    /// Lists all grants of the application. Aliases are missing unless Nylas adds them unasked.
    ///
    /// # Errors
    /// [`NylasError`].
    pub async fn grants(&self) -> Result<Vec<Grant>, NylasError> {
        let mut grants: Vec<Grant> = Vec::new();
        let mut offset = 0;
        loop {
            // Oldest first, so that a grant created meanwhile comes last and does not shift the
            // others by one.
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
                return Err(unreadable(&"a page of grants that was already read"));
            }
            grants.extend(page);
            offset += objects.len();
            // Nylas may apply a smaller limit than ours; the answer contains it.
            let limit = answer
                .get("limit")
                .and_then(Value::as_u64)
                .and_then(|n| usize::try_from(n).ok());
            if objects.is_empty() || objects.len() < limit.unwrap_or(GRANT_PAGE) {
                return Ok(grants);
            }
        }
    }

    /// Returns whether Nylas rejects the API key.
    ///
    /// Calls a path that needs no mailbox, to distinguish a revoked key from a mailbox that is
    /// signed out. Only a 401 counts as a rejection; any other failure does not.
    pub async fn refuses_key(&self) -> bool {
        let answer = self.get("/v3/grants?limit=1").await;
        matches!(answer, Err(NylasError::SignInNeeded { .. }))
    }

    /// Fetches one grant with its aliases.
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

    /// Lists all folders of a mailbox.
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
                        return Err(unreadable(&"a page of folders that was already read"));
                    }
                    page_token = next;
                }
                None => return Ok(folders),
            }
        }
    }

    /// Downloads an attachment of at most `limit` bytes.
    ///
    /// # Errors
    /// [`NylasError`]; an unknown grant is [`NylasError::Rejected`], not [`FetchedFile::Missing`].
    pub async fn attachment(
        &self,
        key: &MessageKey,
        id: &AttachmentId,
        limit: usize,
    ) -> Result<FetchedFile, NylasError> {
        let path = format!(
            "/v3/grants/{}/attachments/{}/download?message_id={}",
            encoded(key.grant_id.as_str()),
            encoded(id.as_str()),
            encoded(key.message_id.as_str())
        );
        match self.send(self.call(Method::GET, &path)).await {
            Ok(answer) => Ok(match body_within(answer, limit).await? {
                Some(bytes) => FetchedFile::Bytes(bytes),
                None => FetchedFile::TooLarge,
            }),
            Err(NylasError::Rejected { status: 404, kind }) if kind != "grant.not_found" => {
                Ok(FetchedFile::Missing)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, NylasError> {
        self.json(self.call(Method::GET, path)).await
    }

    pub(super) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub(super) async fn json(&self, call: RequestBuilder) -> Result<Value, NylasError> {
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

/// Puts the snippet in place of the body of a message that was fetched without it.
fn without_body(mut message: Message) -> Message {
    message.body = std::mem::take(&mut message.snippet);
    message.omissions.push(Omission::Body);
    message
}

/// Counts received bytes as held until they are kept or dropped.
struct Arrived<'a> {
    held: &'a AtomicUsize,
    bytes: usize,
}

impl Arrived<'_> {
    fn add(&mut self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }

    /// Leaves the bytes counted, because the caller keeps what was made of them.
    fn stay(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Arrived<'_> {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads the body of the answer; `None` if it has more than `most` bytes.
async fn body_within(
    answer: reqwest::Response,
    most: usize,
) -> Result<Option<Vec<u8>>, NylasError> {
    let nowhere = AtomicUsize::new(0);
    let mut arrived = Arrived {
        held: &nowhere,
        bytes: 0,
    };
    body_counted(answer, most, &mut arrived).await
}

async fn body_counted(
    mut answer: reqwest::Response,
    most: usize,
    arrived: &mut Arrived<'_>,
) -> Result<Option<Vec<u8>>, NylasError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if chunk.len() > most - bytes.len() {
            return Ok(None);
        }
        arrived.add(chunk.len());
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

/// Returns the objects of a list.
///
/// Null counts as empty, as in some of Nylas' lists (Nylas facts §17). An answer without `data` is
/// not a list, and must not be taken for a mailbox without messages or an application without
/// mailboxes.
pub(super) fn listed(answer: &Value) -> Result<&[Value], NylasError> {
    match answer.get("data") {
        Some(Value::Array(objects)) => Ok(objects),
        Some(Value::Null) => Ok(&[]),
        _ => Err(unreadable(&"a list without data")),
    }
}

pub(super) fn unreadable(what: &dyn std::fmt::Display) -> NylasError {
    NylasError::Unavailable {
        what: format!("unreadable answer: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_percent_encoded_once_and_completely() {
        // The test vector of Nylas' Python SDK (Nylas facts §8).
        let id = "<!&!AAAAAAAAAAAuAAAAAAAAABQ/wHZyqaNCptfKg5rnNAoBAMO2jhD3dRHOtM0AqgC7tuYAAAAAAA4AABAAAACTn3BxdTQ/T4N/0BgqPmf+AQAAAAA=@example.com>";
        assert_eq!(
            encoded(id),
            "%3C%21%26%21AAAAAAAAAAAuAAAAAAAAABQ%2FwHZyqaNCptfKg5rnNAoBAMO2jhD3dRHOtM0AqgC7tuYAAAAAAA4AABAAAACTn3BxdTQ%2FT4N%2F0BgqPmf%2BAQAAAAA%3D%40example.com%3E"
        );
    }
}
