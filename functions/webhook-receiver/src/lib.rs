//! webhook-receiver: what becomes of a request that Nylas sends.
//!
//! 200 is answered only once the queue has the request; from then on the queue keeps it. Neither Dataverse nor the ledger is
//! touched here.
//!
//! | Request | Status | Nylas sends it again |
//! | --- | --- | --- |
//! | `GET ?challenge=…` | 200, the value and nothing else | |
//! | `GET` without a challenge | 400 | |
//! | `POST` of a new or changed message | 200, after the queue has its ids | |
//! | the same of another application, older than a week, or queued within a day ([`filter`]) | 200, counted | |
//! | `POST` of a type that nobody handles | 200, counted | |
//! | `POST` of our own probe ([`probe`]) | 200, "probe" | |
//! | a body over 4 MiB, by its `Content-Length` or by itself, or over 8 MiB once unpacked | 413 | no |
//! | no signature, or a wrong one | 401 | no |
//! | a wrong one, and the body is visibly not what was sent | 503, counted, an alarm | yes |
//! | a wrong one, while a new secret may be on its way to us | 503 | yes |
//! | verified and unreadable | 400, counted, the reason in the log | no |
//! | the secret or the queue cannot be reached | 503 | yes |
//! | any other method | 405 | |
//!
//! The order for a `POST` is: size, signature over the raw bytes ([`signature`], [`secrets`]), unpacking, reading
//! ([`notification`]), what is not queued ([`filter`]), queue. Logs hold ids, never content.
//!
//! A body is visibly not what was sent when its `Content-Encoding` says gzip and it does not begin like gzip: a gateway
//! unpacked it, or made text of it. Its signature cannot match, and what we answer with 401 is lost at Nylas. So it is 503,
//! which says nothing about the signature and lets nothing in; a forger gets no more than a repetition of the same answer.

pub mod config;
pub mod event;
pub mod filter;
pub mod inflate;
pub mod notification;
pub mod probe;
pub mod recent;
pub mod secrets;
pub mod signature;

use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use lambda_http::{Body, IntoResponse, Request, RequestExt, Response};
use mailverse::queue::{QueueError, SyncQueue};
use mailverse::sync_request::SyncRequest;
use mailverse::telemetry::{Count, count};

use crate::filter::{Filter, Unwanted};
use crate::inflate::InflateError;
use crate::notification::{MessageNotification, Notification, NotificationError};
use crate::secrets::{Checked, SecretsUnavailable, WebhookSecrets};
use crate::signature::{Signature, VerifiedBody};

/// Largest body as it arrives: 4 MiB.
///
/// Nylas takes the body out of a notification over 1 MB (Nylas facts §5), so a genuine one never comes near. Lambda itself
/// refuses requests over 6 MB; this is less, so that nobody makes us hash what cannot be genuine.
pub const LARGEST_DELIVERY: usize = 4 * 1024 * 1024;

/// Largest body once unpacked: 8 MiB. More than [`LARGEST_DELIVERY`], since whether Nylas measures its 1 MB before it packs is
/// unknown (Nylas facts §5).
pub const LARGEST_BODY: usize = 8 * 1024 * 1024;

/// Answers Nylas.
pub struct Receiver<Q> {
    queue: Q,
    secrets: WebhookSecrets,
    filter: Filter,
}

/// What was done with a request.
#[derive(Debug)]
pub enum Outcome {
    /// The challenge of a new destination was answered with this value.
    Challenge(String),
    /// The queue has it.
    Queued(SyncRequest),
    /// It is readable and genuine, and is not queued.
    NotQueued {
        /// What it asked for.
        request: SyncRequest,
        /// Why it is not queued.
        why: Unwanted,
    },
    /// It is our own probe, and genuine.
    Probe,
    /// Nobody handles this type yet.
    Ignored {
        /// The type.
        kind: String,
    },
    /// It was not accepted.
    Refused(Refusal),
}

/// Why a request was not accepted. The text is for our log and the operator, not for the sender.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Neither `GET` nor `POST`.
    #[error("a method other than GET and POST")]
    Method,
    /// A `GET` that asks nothing.
    #[error("a GET without a challenge")]
    NoChallenge,
    /// Too large to look at.
    #[error("the body has {bytes} bytes, more than {LARGEST_DELIVERY}")]
    TooLarge {
        /// Its length, as it is or as the header gives it.
        bytes: u64,
    },
    /// No signature header, or one that cannot be a signature.
    #[error("the signature is missing or is not 64 hex digits")]
    NoSignature,
    /// Signed with another secret, or changed on the way.
    #[error("the signature does not match")]
    WrongSignature,
    /// Signed with a secret that we do not have, or do not have yet.
    #[error("the signature does not match, and a new webhook secret may not have been read yet")]
    UndecidedSignature,
    /// Signed, and changed on the way: what says gzip is none.
    #[error(
        "the signature does not match, and the body is not the gzip that its content encoding promises: something between Nylas and this function changes bodies; run `mailverse webhook verify`"
    )]
    Altered,
    /// Verified, but packed in a way that Nylas does not use.
    #[error("the content encoding is neither gzip nor none")]
    UnknownEncoding,
    /// Verified, but it cannot be unpacked.
    #[error(transparent)]
    Packed(#[from] InflateError),
    /// Verified, but no notification.
    #[error(transparent)]
    Unreadable(#[from] NotificationError),
    /// We cannot say whether it is genuine.
    #[error(transparent)]
    Secrets(#[from] SecretsUnavailable),
    /// It is genuine, and we could not keep it.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Refusal {
    /// The status that makes Nylas do the right thing: it sends again after 503 and after none of the others.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge { .. } | Self::Packed(InflateError::TooLarge { .. }) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::NoSignature | Self::WrongSignature => StatusCode::UNAUTHORIZED,
            Self::NoChallenge
            | Self::UnknownEncoding
            | Self::Packed(InflateError::NotGzip)
            | Self::Unreadable(_) => StatusCode::BAD_REQUEST,
            Self::UndecidedSignature | Self::Altered | Self::Secrets(_) | Self::Queue(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// All that the sender is told. Which check of a signature failed is nobody's business.
    fn public_text(&self) -> &'static str {
        match self {
            Self::Method => "method not allowed",
            Self::TooLarge { .. } | Self::Packed(InflateError::TooLarge { .. }) => "too large",
            Self::NoSignature | Self::WrongSignature => "signature",
            Self::NoChallenge => "no challenge",
            Self::UnknownEncoding | Self::Packed(InflateError::NotGzip) | Self::Unreadable(_) => {
                "unreadable"
            }
            Self::UndecidedSignature | Self::Altered | Self::Secrets(_) | Self::Queue(_) => {
                "unavailable"
            }
        }
    }

    fn count(&self) -> Option<Count> {
        match self {
            Self::Method | Self::NoChallenge | Self::TooLarge { .. } => None,
            Self::NoSignature | Self::WrongSignature | Self::UndecidedSignature => {
                Some(Count::SignatureRefused)
            }
            Self::Altered => Some(Count::DeliveryAltered),
            Self::UnknownEncoding | Self::Packed(_) | Self::Unreadable(_) => {
                Some(Count::NotificationUnreadable)
            }
            Self::Secrets(_) | Self::Queue(_) => Some(Count::ReceiverUnavailable),
        }
    }
}

/// What was done, and the answer to it.
#[derive(Debug)]
pub struct Received {
    /// What was done.
    pub outcome: Outcome,
    /// What the sender is told.
    pub response: Response<Body>,
}

impl From<Outcome> for Received {
    fn from(outcome: Outcome) -> Self {
        let (status, text) = match &outcome {
            Outcome::Challenge(value) => (StatusCode::OK, value.as_str()),
            Outcome::Queued(_) | Outcome::NotQueued { .. } | Outcome::Ignored { .. } => {
                (StatusCode::OK, "ok")
            }
            Outcome::Probe => (StatusCode::OK, probe::ANSWER),
            Outcome::Refused(refusal) => (refusal.status(), refusal.public_text()),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        // Anybody can have any value echoed; no browser should take it for a page.
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
        }
        Self { outcome, response }
    }
}

impl IntoResponse for Received {
    fn into_response(self) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> {
        self.response.into_response()
    }
}

impl<Q: SyncQueue> Receiver<Q> {
    /// A receiver that checks against `secrets` and puts requests on `queue`, every one of them.
    #[must_use]
    pub fn new(queue: Q, secrets: WebhookSecrets) -> Self {
        Self {
            queue,
            secrets,
            filter: Filter::none(),
        }
    }

    /// The same, without what `filter` holds back.
    #[must_use]
    pub fn with_filter(self, filter: Filter) -> Self {
        Self { filter, ..self }
    }

    /// The queue that requests are put on.
    #[must_use]
    pub fn queue(&self) -> &Q {
        &self.queue
    }

    /// Does with a request what the table of this module says.
    pub async fn handle(&self, request: Request, now: DateTime<Utc>) -> Received {
        let outcome = match *request.method() {
            Method::GET => challenge(&request),
            Method::POST => self.delivery(&request, now).await,
            _ => Err(Refusal::Method),
        };
        let outcome = outcome.unwrap_or_else(Outcome::Refused);
        report(&outcome);
        outcome.into()
    }

    async fn delivery(&self, request: &Request, now: DateTime<Utc>) -> Result<Outcome, Refusal> {
        // Before anything else: nothing of a body that is too large is looked at.
        let raw: &[u8] = request.body();
        let length = u64::try_from(raw.len()).unwrap_or(u64::MAX);
        let bytes = length.max(declared_length(request.headers()).unwrap_or_default());
        if bytes > LARGEST_DELIVERY as u64 {
            return Err(Refusal::TooLarge { bytes });
        }
        // Looked at before the secrets are: an unsigned request costs no call to the store.
        let signature = Signature::from_headers(request.headers()).ok_or(Refusal::NoSignature)?;
        let verified = match self.secrets.check(&signature, raw, now).await? {
            Checked::Genuine(body) => unpacked(body, request)?,
            Checked::Forged | Checked::Undecided if is_altered(raw, request.headers()) => {
                return Err(Refusal::Altered);
            }
            Checked::Forged => return Err(Refusal::WrongSignature),
            Checked::Undecided => return Err(Refusal::UndecidedSignature),
        };
        match notification::parse(&verified)? {
            Notification::Message(notification) => self.message(notification, now).await,
            Notification::Probe => Ok(Outcome::Probe),
            Notification::Other { kind } => Ok(Outcome::Ignored { kind }),
        }
    }

    async fn message(
        &self,
        notification: MessageNotification,
        now: DateTime<Utc>,
    ) -> Result<Outcome, Refusal> {
        if let Some(suffix) = &notification.unknown_suffix {
            count(Count::NotificationSuffixUnknown, 1);
            let suffix = suffix.text();
            tracing::warn!(
                suffix,
                "Nylas appended a suffix that is not known; taken like the others"
            );
        }
        if let Some(why) = self.filter.unwanted(&notification, now) {
            let request = notification.request;
            return Ok(Outcome::NotQueued { request, why });
        }
        self.queue
            .send(&notification.request, Duration::ZERO)
            .await?;
        // Not before: what the queue has not taken is sent again, and must not be called a duplicate then.
        self.filter.queued(&notification, now);
        Ok(Outcome::Queued(notification.request))
    }
}

/// The length that the request claims to have; `None` where it claims none that can be read.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    text.trim().parse().ok()
}

/// The content encoding in lower case; `None` where there is none.
fn encoding(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(CONTENT_ENCODING)?.as_bytes().trim_ascii();
    Some(value.to_ascii_lowercase())
}

/// Whether a body that is to be gzip does not begin like gzip (RFC 1952, section 2.3.1).
fn is_altered(raw: &[u8], headers: &HeaderMap) -> bool {
    encoding(headers).as_deref() == Some(b"gzip") && !raw.starts_with(&[0x1f, 0x8b])
}

fn challenge(request: &Request) -> Result<Outcome, Refusal> {
    request
        .query_string_parameters_ref()
        .and_then(|query| query.first("challenge"))
        .filter(|value| !value.is_empty())
        .map(|value| Outcome::Challenge(value.to_owned()))
        .ok_or(Refusal::NoChallenge)
}

fn unpacked<'a>(body: VerifiedBody<'a>, request: &Request) -> Result<VerifiedBody<'a>, Refusal> {
    match encoding(request.headers()).as_deref() {
        None | Some(b"" | b"identity") => Ok(body),
        Some(b"gzip") => Ok(body.inflated(LARGEST_BODY)?),
        Some(_) => Err(Refusal::UnknownEncoding),
    }
}

fn report(outcome: &Outcome) {
    match outcome {
        Outcome::Challenge(_) => tracing::info!("challenge answered"),
        Outcome::Queued(request) => {
            count(Count::NotificationQueued, 1);
            tracing::info!("sync.key" = %request.key, trigger = ?request.trigger, "notification queued");
        }
        Outcome::NotQueued { request, why } => {
            let what = match why {
                Unwanted::AnotherApplication => Count::NotificationOfAnotherApplication,
                Unwanted::TooOld => Count::NotificationTooOld,
                Unwanted::Duplicate => Count::NotificationDuplicate,
            };
            count(what, 1);
            tracing::info!("sync.key" = %request.key, reason = why.text(), "notification acknowledged, not queued");
        }
        Outcome::Probe => tracing::info!("probe answered"),
        Outcome::Ignored { kind } => {
            count(Count::NotificationIgnored, 1);
            tracing::info!(kind, "notification of a type that nobody handles");
        }
        Outcome::Refused(refusal) => {
            if let Some(what) = refusal.count() {
                count(what, 1);
            }
            let status = refusal.status().as_u16();
            if matches!(
                refusal,
                Refusal::Secrets(_) | Refusal::Queue(_) | Refusal::Altered
            ) {
                tracing::error!(status, reason = %refusal, "request not accepted, Nylas will send it again");
            } else {
                tracing::warn!(status, reason = %refusal, "request refused");
            }
        }
    }
}

#[cfg(test)]
mod tests;
