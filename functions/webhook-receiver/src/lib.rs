//! webhook-receiver: handles the requests that Nylas sends.
//!
//! The receiver answers 200 only once the queue has the sync request. It uses neither Dataverse nor
//! the ledger.
//!
//! | Request | Status | Nylas retries |
//! | --- | --- | --- |
//! | `GET ?challenge=…` | 200, the value of the challenge and nothing else | |
//! | `GET` without a challenge | 400 | |
//! | `POST` of a new or changed message | 200, once the queue has its ids | |
//! | the same from another application, older than a week, or queued within a day ([`notification_filter`]) | 200, counted | |
//! | `POST` of a type that is not handled | 200, counted | |
//! | `POST` of our own probe ([`probe`]) | 200, "probe" | |
//! | a body over 4 MiB, by its `Content-Length` or its actual size, or over 8 MiB decompressed | 413 | no |
//! | no signature, or a wrong one | 401 | no |
//! | a wrong one, and the body was visibly changed on its way | 503, counted, raises an alarm | yes |
//! | a wrong one, while a new secret may not have been read yet | 503 | yes |
//! | verified, but cannot be parsed | 400, counted, the reason in the log | no |
//! | the secret or the queue is unavailable | 503 | yes |
//! | any other method | 405 | |
//!
//! A `POST` is processed in this order: size, signature over the raw bytes ([`signature`],
//! [`webhook_secrets`]), decompression, parsing ([`notification`]), filter
//! ([`notification_filter`]), queue. Logs contain ids, never content.
//!
//! A body was visibly changed if its `Content-Encoding` is gzip but it does not begin like gzip: a
//! gateway decompressed it or converted it to text. Its signature cannot match, and Nylas never
//! sends a delivery again that was answered with 401. So the answer is 503, which says nothing
//! about the signature and accepts nothing; an attacker learns only that the same answer is
//! repeated.

pub mod config;
pub mod event;
pub mod gunzip;
pub mod notification;
pub mod notification_filter;
pub mod probe;
pub mod recent_notifications;
pub mod signature;
pub mod webhook_secrets;

use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use lambda_http::{Body, IntoResponse, Request, RequestExt, Response};
use mailverse::clients::aws::queue::{QueueError, SyncQueue};
use mailverse::model::sync_request::SyncRequest;
use mailverse::telemetry::{Count, count};

use crate::gunzip::InflateError;
use crate::notification::{MessageNotification, Notification, NotificationError};
use crate::notification_filter::{Filter, Unwanted};
use crate::signature::{Signature, VerifiedBody};
use crate::webhook_secrets::{Checked, SecretsUnavailable, WebhookSecrets};

/// The largest body that is accepted, before decompression: 4 MiB.
///
/// Nylas removes the message body from a notification over 1 MB (Nylas facts §5), so a genuine
/// delivery is much smaller. Lambda itself rejects requests over 6 MB; this limit is lower, so that
/// the receiver does not hash what cannot be genuine.
pub const LARGEST_DELIVERY: usize = 4 * 1024 * 1024;

/// The largest body after decompression: 8 MiB. It is larger than [`LARGEST_DELIVERY`] because it
/// is *unknown* whether Nylas measures its 1 MB before compression (Nylas facts §5).
pub const LARGEST_BODY: usize = 8 * 1024 * 1024;

/// The handler for requests from Nylas.
pub struct Receiver<Q> {
    queue: Q,
    secrets: WebhookSecrets,
    filter: Filter,
}

/// The result of a request.
#[derive(Debug)]
pub enum RequestOutcome {
    /// The challenge of a new webhook destination was answered with this value.
    Challenge(String),
    /// The queue has the sync request.
    Queued(SyncRequest),
    /// The notification is genuine and valid, but was not queued.
    NotQueued {
        /// The request that it would have become.
        request: SyncRequest,
        /// Why it was not queued.
        why: Unwanted,
    },
    /// The request is our own probe, and genuine.
    Probe,
    /// The type of the notification is not handled.
    Ignored {
        /// The type, at most 80 characters of it.
        kind: String,
    },
    /// The request was not accepted.
    Refused(Refusal),
}

/// Why a request was not accepted. The text is for the log and the operator, not for the sender.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The method is neither `GET` nor `POST`.
    #[error("the method is neither GET nor POST")]
    Method,
    /// The request is a `GET` without a challenge.
    #[error("the request is a GET without a challenge")]
    NoChallenge,
    /// The body is too large to be processed.
    #[error("the body has {bytes} bytes, more than {LARGEST_DELIVERY}")]
    TooLarge {
        /// Its size, or the size that the header declares if that is larger.
        bytes: u64,
    },
    /// The signature header is missing or cannot be a signature.
    #[error("the signature is missing or is not 64 hex digits")]
    NoSignature,
    /// The body was signed with another secret, or changed on its way.
    #[error("the signature does not match")]
    WrongSignature,
    /// The body was signed with a secret that we do not have, or do not have yet.
    #[error("the signature does not match, and a new webhook secret may not have been read yet")]
    UndecidedSignature,
    /// The body is signed, but was changed on its way: it is declared as gzip and is not gzip.
    #[error(
        "the signature does not match, and the content encoding is gzip but the body is not: something between Nylas and this function changes bodies; run `mailverse webhook verify`"
    )]
    Altered,
    /// The body is verified, but has an encoding that Nylas does not use.
    #[error("the content encoding is neither gzip nor none")]
    UnknownEncoding,
    /// The body is verified, but cannot be decompressed.
    #[error(transparent)]
    Packed(#[from] InflateError),
    /// The body is verified, but is not a notification.
    #[error(transparent)]
    Unreadable(#[from] NotificationError),
    /// The secrets are unavailable, so we cannot tell whether the body is genuine.
    #[error(transparent)]
    Secrets(#[from] SecretsUnavailable),
    /// The body is genuine, but could not be queued.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Refusal {
    /// Returns the status that makes Nylas react correctly: it retries after 503, and after none of
    /// the others.
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

    /// Returns the text for the sender. It does not reveal which check of a signature failed.
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

/// The result of a request, and the answer to it.
#[derive(Debug)]
pub struct Received {
    /// The result.
    pub outcome: RequestOutcome,
    /// The answer to the sender.
    pub response: Response<Body>,
}

impl From<RequestOutcome> for Received {
    fn from(outcome: RequestOutcome) -> Self {
        let (status, text) = match &outcome {
            RequestOutcome::Challenge(value) => (StatusCode::OK, value.as_str()),
            RequestOutcome::Queued(_)
            | RequestOutcome::NotQueued { .. }
            | RequestOutcome::Ignored { .. } => (StatusCode::OK, "ok"),
            RequestOutcome::Probe => (StatusCode::OK, probe::ANSWER),
            RequestOutcome::Refused(refusal) => (refusal.status(), refusal.public_text()),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        // Anyone can have any value echoed; browsers must not treat it as a page.
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
    /// Creates a receiver that verifies with `secrets` and puts every sync request on `queue`.
    #[must_use]
    pub fn new(queue: Q, secrets: WebhookSecrets) -> Self {
        Self {
            queue,
            secrets,
            filter: Filter::none(),
        }
    }

    /// Returns the same receiver, which does not queue what `filter` excludes.
    #[must_use]
    pub fn with_filter(self, filter: Filter) -> Self {
        Self { filter, ..self }
    }

    /// Returns the queue that requests are put on.
    #[must_use]
    pub fn queue(&self) -> &Q {
        &self.queue
    }

    /// Handles a request as described in the table of this module.
    pub async fn handle(&self, request: Request, now: DateTime<Utc>) -> Received {
        let outcome = match *request.method() {
            Method::GET => challenge(&request),
            Method::POST => self.delivery(&request, now).await,
            _ => Err(Refusal::Method),
        };
        let outcome = outcome.unwrap_or_else(RequestOutcome::Refused);
        report(&outcome);
        outcome.into()
    }

    async fn delivery(
        &self,
        request: &Request,
        now: DateTime<Utc>,
    ) -> Result<RequestOutcome, Refusal> {
        // The size comes first: a body that is too large is not processed in any way.
        let raw: &[u8] = request.body();
        let length = u64::try_from(raw.len()).unwrap_or(u64::MAX);
        let bytes = length.max(declared_length(request.headers()).unwrap_or_default());
        if bytes > LARGEST_DELIVERY as u64 {
            return Err(Refusal::TooLarge { bytes });
        }
        // The header is parsed before the secrets are read: an unsigned request causes no call to
        // Secrets Manager.
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
            Notification::Probe => Ok(RequestOutcome::Probe),
            Notification::Other { kind } => Ok(RequestOutcome::Ignored { kind }),
        }
    }

    async fn message(
        &self,
        notification: MessageNotification,
        now: DateTime<Utc>,
    ) -> Result<RequestOutcome, Refusal> {
        if let Some(suffix) = &notification.unknown_suffix {
            count(Count::NotificationSuffixUnknown, 1);
            let suffix = suffix.text();
            tracing::warn!(
                suffix,
                "Nylas appended an unknown suffix to the type; processing the notification anyway"
            );
        }
        if let Some(why) = self.filter.unwanted(&notification, now) {
            let request = notification.request;
            return Ok(RequestOutcome::NotQueued { request, why });
        }
        self.queue
            .send(&notification.request, Duration::ZERO)
            .await?;
        // Only after the send: Nylas retries what the queue did not accept, and that must not count
        // as a duplicate.
        self.filter.queued(&notification, now);
        Ok(RequestOutcome::Queued(notification.request))
    }
}

/// Returns the declared `Content-Length`; `None` if it is missing or not a number.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    text.trim().parse().ok()
}

/// Returns the content encoding in lower case; `None` if the header is missing.
fn encoding(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(CONTENT_ENCODING)?.as_bytes().trim_ascii();
    Some(value.to_ascii_lowercase())
}

/// Returns whether a body that is declared as gzip does not begin like gzip (RFC 1952, section
/// 2.3.1).
fn is_altered(raw: &[u8], headers: &HeaderMap) -> bool {
    encoding(headers).as_deref() == Some(b"gzip") && !raw.starts_with(&[0x1f, 0x8b])
}

fn challenge(request: &Request) -> Result<RequestOutcome, Refusal> {
    request
        .query_string_parameters_ref()
        .and_then(|query| query.first("challenge"))
        .filter(|value| !value.is_empty())
        .map(|value| RequestOutcome::Challenge(value.to_owned()))
        .ok_or(Refusal::NoChallenge)
}

fn unpacked<'a>(body: VerifiedBody<'a>, request: &Request) -> Result<VerifiedBody<'a>, Refusal> {
    match encoding(request.headers()).as_deref() {
        None | Some(b"" | b"identity") => Ok(body),
        Some(b"gzip") => Ok(body.inflated(LARGEST_BODY)?),
        Some(_) => Err(Refusal::UnknownEncoding),
    }
}

fn report(outcome: &RequestOutcome) {
    match outcome {
        RequestOutcome::Challenge(_) => tracing::info!("challenge answered"),
        RequestOutcome::Queued(request) => {
            count(Count::NotificationQueued, 1);
            tracing::info!("sync.key" = %request.key, trigger = ?request.trigger, "queued a notification");
        }
        RequestOutcome::NotQueued { request, why } => {
            let what = match why {
                Unwanted::AnotherApplication => Count::NotificationOfAnotherApplication,
                Unwanted::TooOld => Count::NotificationTooOld,
                Unwanted::Duplicate => Count::NotificationDuplicate,
            };
            count(what, 1);
            tracing::info!("sync.key" = %request.key, reason = why.text(), "acknowledged a notification without queueing it");
        }
        RequestOutcome::Probe => tracing::info!("probe answered"),
        RequestOutcome::Ignored { kind } => {
            count(Count::NotificationIgnored, 1);
            tracing::info!(kind, "ignored a notification of a type that is not handled");
        }
        RequestOutcome::Refused(refusal) => {
            if let Some(what) = refusal.count() {
                count(what, 1);
            }
            let status = refusal.status().as_u16();
            if matches!(
                refusal,
                Refusal::Secrets(_) | Refusal::Queue(_) | Refusal::Altered
            ) {
                tracing::error!(status, reason = %refusal, "failed to accept a request; Nylas will retry it");
            } else {
                tracing::warn!(status, reason = %refusal, "refused a request; Nylas will not retry it");
            }
        }
    }
}

#[cfg(test)]
mod tests;
