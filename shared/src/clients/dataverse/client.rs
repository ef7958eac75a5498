//! The client: one method per HTTP call, headers, and reading of answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{Method, RequestBuilder, header};
use secrecy::SecretString;
use serde_json::{Map, Value};
use url::Url;
use uuid::Uuid;

use super::batch::{self, BOUNDARY, BatchPart, Operation};
use super::dry_run::DryRun;
use super::error::{DataverseError, part_error, unreadable};
use super::session::Session;
use super::{lookup_size, metadata};
use crate::clients::retry::retry_after;

/// A bearer token for the organisation.
pub type AccessToken = SecretString;

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct DataverseClient {
    pub(crate) http: reqwest::Client,
    /// `https://yourorg.crm.dynamics.com/api/data/v9.2/`
    pub(crate) api: String,
    sent: Arc<AtomicU64>,
    pub(crate) names: metadata::table_names::NamesRead,
    pub(crate) lengths: metadata::column_lengths::LengthsRead,
    pub(crate) lookup_size: lookup_size::SharedLookupSize,
    caller: Option<Uuid>,
    dry_run: Option<DryRun>,
}

impl DataverseClient {
    /// Creates a client of the organisation at `organisation` (`https://yourorg.crm.dynamics.com`).
    #[must_use]
    pub fn new(http: reqwest::Client, organisation: &Url) -> Self {
        Self {
            http,
            api: format!(
                "{}/api/data/v9.2/",
                organisation.as_str().trim_end_matches('/')
            ),
            sent: Arc::default(),
            names: metadata::table_names::NamesRead::default(),
            lengths: metadata::column_lengths::LengthsRead::default(),
            lookup_size: lookup_size::SharedLookupSize::default(),
            caller: None,
            dry_run: None,
        }
    }

    /// Returns a client that records its writes instead of sending them.
    #[must_use]
    pub fn dry_run(self, dry_run: DryRun) -> Self {
        Self {
            dry_run: Some(dry_run),
            ..self
        }
    }

    /// Returns a client that impersonates the user with this Entra object id; `None`: acts as the
    /// application user.
    ///
    /// That the header of a `$batch` applies to all its operations is inferred (Dataverse facts §9,
    /// §13).
    #[must_use]
    pub fn impersonating(&self, caller: Option<Uuid>) -> Self {
        Self {
            caller,
            ..self.clone()
        }
    }

    /// Returns how many HTTP requests this client and its clones have sent; a `$batch` is one
    /// request.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Sends one `$batch`, of queries or of change sets. Returns the answers of its parts, by
    /// operation.
    pub(crate) async fn batch(
        &self,
        session: &Session,
        operations: &[Operation],
    ) -> Result<Vec<Vec<BatchPart>>, DataverseError> {
        if let Some(done) = self.dry_run.as_ref().and_then(|it| it.note_all(operations)) {
            return Ok(done);
        }
        let call = self
            .http
            .post(format!("{}$batch", self.api))
            .header(
                header::CONTENT_TYPE,
                format!("multipart/mixed; boundary={BOUNDARY}"),
            )
            // Messages are independent: without this, the first failure would end the batch.
            .header("Prefer", "odata.continue-on-error")
            .body(batch::encode(operations));
        let answer = self.send(session, call).await?;
        let content_type = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let body = answer.bytes().await?;
        let answers = batch::decode(&content_type, &body, operations.len()).map_err(|error| {
            DataverseError::Unavailable {
                what: error.to_string(),
            }
        })?;
        let failed = answers.iter().flatten().filter(|part| !part.is_success());
        failed.for_each(|part| session.note(&part_error(part)));
        Ok(answers)
    }

    /// Sends one request outside a `$batch` and returns the body of the answer.
    pub(crate) async fn call(
        &self,
        session: &Session,
        method: Method,
        path: &str,
        if_match: Option<&str>,
        body: Option<&Map<String, Value>>,
    ) -> Result<Vec<u8>, DataverseError> {
        if let Some(dry_run) = self.dry_run.as_ref().filter(|_| method != Method::GET) {
            dry_run.note(method.as_str(), path, body.cloned().unwrap_or_default());
            return Ok(Vec::new());
        }
        let mut call = self.http.request(method, format!("{}{path}", self.api));
        if let Some(etag) = if_match {
            call = call.header(header::IF_MATCH, etag);
        }
        if let Some(body) = body {
            call = call.json(body);
        }
        Ok(self.send(session, call).await?.bytes().await?.to_vec())
    }

    /// Fetches the page of an `@odata.nextLink`, with the same annotations as the page before.
    ///
    /// Path and query of the link are used unchanged, but never its host, because the token is sent
    /// along.
    pub(crate) async fn next_page(
        &self,
        session: &Session,
        link: &str,
    ) -> Result<Value, DataverseError> {
        let path = link
            .split_once("/api/data/v9.2/")
            .map(|(_, path)| path)
            .ok_or_else(|| unreadable("a link to the next page"))?;
        let call = self
            .http
            .get(format!("{}{path}", self.api))
            .header("Prefer", batch::ANNOTATIONS);
        let body = self.send(session, call).await?.bytes().await?;
        serde_json::from_slice(&body).map_err(|_| unreadable("a page of rows"))
    }

    /// Adds the headers of every request (Dataverse facts §13), sends it and classifies a failure.
    /// Sends nothing once the session has ended.
    pub(crate) async fn send(
        &self,
        session: &Session,
        call: RequestBuilder,
    ) -> Result<reqwest::Response, DataverseError> {
        if let Some(error) = session.ended_by() {
            return Err(error.clone());
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        let call = match self.caller {
            Some(caller) => call.header("CallerObjectId", caller.to_string()),
            None => call,
        };
        let begun = session.begin();
        let answer = call
            .bearer_auth(session.bearer())
            .header("OData-Version", "4.0")
            .header("OData-MaxVersion", "4.0")
            .header(header::ACCEPT, "application/json")
            // Keeps caches between us and Dataverse from storing the answer, as Microsoft
            // recommends.
            .header(header::IF_NONE_MATCH, "null")
            .send()
            .await;
        session.end(begun);
        let answer = answer?;
        session.read_suggestion(answer.headers());
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let wait = retry_after(answer.headers());
        let body = answer.bytes().await.unwrap_or_default();
        let error = DataverseError::from_answer(status.as_u16(), wait, &body);
        session.note(&error);
        Err(error)
    }
}
