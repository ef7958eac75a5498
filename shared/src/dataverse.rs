//! The Dataverse Web API client.
//!
//! One attempt a call, no waiting; what the calls of a run share, the token above all, is an argument of each: [`session`].
//! What is asked beforehand: [`look_up`]; about companies: `companies`; where it depends on an answer: [`further`]. By which names a row is bound: [`names`]; how long a text may be: [`lengths`]; how much is asked at a time: `pace`.
//! What is written and how: [`mod@write`]. What a doctor asks: [`probe`]. The wire form of batches: [`batch`]. What can come back: [`error`].

pub mod batch;
pub mod cards;
mod carriers;
mod companies;
pub mod earlier;
pub mod error;
pub mod found;
pub mod further;
pub mod lengths;
pub mod look_up;
pub mod names;
mod pace;
pub mod probe;
pub mod query;
pub mod rehearsal;
pub mod rows;
pub mod session;
pub mod withdraw;
pub mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Method, RequestBuilder, header};
use secrecy::SecretString;
use serde_json::{Map, Value};
use url::Url;
use uuid::Uuid;

use self::batch::{Answer, BOUNDARY, Operation};
use self::error::DataverseError;
use self::rehearsal::Rehearsal;
use self::session::Session;
use crate::retry::retry_after;

/// A bearer token for the organisation.
pub type AccessToken = SecretString;

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct DataverseClient {
    http: reqwest::Client,
    /// `https://yourorg.crm.dynamics.com/api/data/v9.2/`
    api: String,
    sent: Arc<AtomicU64>,
    names: names::NamesRead,
    lengths: lengths::LengthsRead,
    pace: pace::Paced,
    caller: Option<Uuid>,
    rehearsal: Option<Rehearsal>,
}

impl DataverseClient {
    /// A client of the organisation at `organisation` (`https://yourorg.crm.dynamics.com`).
    #[must_use]
    pub fn new(http: reqwest::Client, organisation: &Url) -> Self {
        Self {
            http,
            api: format!(
                "{}/api/data/v9.2/",
                organisation.as_str().trim_end_matches('/')
            ),
            sent: Arc::default(),
            names: names::NamesRead::default(),
            lengths: lengths::LengthsRead::default(),
            pace: pace::Paced::default(),
            caller: None,
            rehearsal: None,
        }
    }

    /// A client that notes its writes and sends none.
    #[must_use]
    pub fn rehearsing(self, rehearsal: Rehearsal) -> Self {
        Self {
            rehearsal: Some(rehearsal),
            ..self
        }
    }

    /// A client whose requests are made in the name of the user with this Entra object id; `None`: in the application user's own.
    ///
    /// That a batch is made in it as a whole, when the header is the batch's own, is inferred (Dataverse facts §9, §13).
    #[must_use]
    pub fn in_the_name_of(&self, caller: Option<Uuid>) -> Self {
        Self {
            caller,
            ..self.clone()
        }
    }

    /// How many HTTP requests this client and its clones have sent; a batch is one.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// One `$batch`, of queries or of change sets; for each operation the answers of its parts.
    async fn batch(
        &self,
        session: &Session,
        operations: &[Operation],
    ) -> Result<Vec<Vec<Answer>>, DataverseError> {
        if let Some(done) = self
            .rehearsal
            .as_ref()
            .and_then(|it| it.note_all(operations))
        {
            return Ok(done);
        }
        let call = self
            .http
            .post(format!("{}$batch", self.api))
            .header(
                header::CONTENT_TYPE,
                format!("multipart/mixed; boundary={BOUNDARY}"),
            )
            // Each mail stands alone: without this, the first failure would end the batch.
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

    /// One call outside a batch; its body.
    async fn call(
        &self,
        session: &Session,
        method: Method,
        path: &str,
        if_match: Option<&str>,
        body: Option<&Map<String, Value>>,
    ) -> Result<Vec<u8>, DataverseError> {
        if let Some(rehearsal) = self.rehearsal.as_ref().filter(|_| method != Method::GET) {
            rehearsal.note(method.as_str(), path, body.cloned().unwrap_or_default());
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

    /// The page that an `@odata.nextLink` names, with the annotations of the page before. The link is followed as it is, but never to another host:
    /// the token goes with it.
    async fn next_page(&self, session: &Session, link: &str) -> Result<Value, DataverseError> {
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

    /// Adds what every request carries (Dataverse facts §13) and reads a failure. Sends nothing once the session has ended.
    async fn send(
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
            // Keeps answers out of caches on the way, as Microsoft recommends.
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

/// The failure of one part of a batch.
fn part_error(part: &Answer) -> DataverseError {
    DataverseError::from_answer(
        part.status,
        part.retry_after_seconds.map(Duration::from_secs),
        &part.body,
    )
}

fn unreadable(what: &str) -> DataverseError {
    DataverseError::Unavailable {
        what: format!("{what} cannot be read"),
    }
}
