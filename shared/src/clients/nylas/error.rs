//! The failures of a Nylas call, and what to do about each.
//!
//! | Status | Variant | Next |
//! | --- | --- | --- |
//! | 429 | [`NylasError::Throttled`] | wait, then repeat |
//! | 5xx, timeout, connection lost, unreadable body | [`NylasError::Unavailable`] | repeat |
//! | 401 | [`NylasError::SignInNeeded`] | all calls for the mailbox pause: a user has to sign in again, or the API key is wrong |
//! | 403 because a scope is missing, or a grant that does not exist | [`NylasError::Rejected`] | the same |
//! | other 4xx | [`NylasError::Rejected`] | settle the message as `dead` if other messages succeed ([`crate::clients::refusal`]) |
//!
//! A 404 for one message is not an error: see [`super::Fetched::Gone`]. Source: Nylas facts §13 and
//! §14. The type of an error is compared without its `api.` prefix. The message text is not kept,
//! since it may quote the request.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

use crate::clients::http;
use crate::clients::refusal::{Blame, Refusal};
use crate::clients::retry::{FIRST_STEP, RetryAdvice};

/// How long all calls for a mailbox pause after Nylas rejected it: a user has to sign in again.
///
/// The body of a 401 for an expired grant is unknown (Nylas facts §11), so every 401 waits equally
/// long.
pub(crate) const MAILBOX_WAIT: Duration = Duration::from_secs(15 * 60);

/// How long messages wait until the API key can be read.
const KEY_WAIT: Duration = Duration::from_secs(5 * 60);

/// A failed call to Nylas.
#[derive(Debug, thiserror::Error)]
pub enum NylasError {
    /// Nylas or the provider behind it throttles us.
    #[error("nylas throttled the call")]
    Throttled {
        /// The shortest wait; `None` if the answer has no `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Nylas cannot be reached or fails for now.
    #[error("nylas is unavailable: {what}")]
    Unavailable {
        /// The status or the kind of failure.
        what: String,
    },
    /// 401: the grant has expired, Nylas rejected the API key, or the application is in the other
    /// region.
    #[error(
        "nylas rejected the authentication ({kind}): check the grant's status, the API key and the region of NYLAS_API_URL"
    )]
    SignInNeeded {
        /// The type of the error.
        kind: String,
    },
    /// The secret with the API key could not be read, or has no value yet.
    #[error("no nylas API key: {what}")]
    NoKey {
        /// The reason.
        what: String,
    },
    /// The same call would be rejected again.
    #[error("nylas rejected the call: {status} {kind}")]
    Rejected {
        /// HTTP status.
        status: u16,
        /// The type of the error.
        kind: String,
    },
}

impl NylasError {
    /// Returns whether, and when, the same call is worth repeating.
    #[must_use]
    #[deny(clippy::wildcard_enum_match_arm)]
    pub fn retry_advice(&self) -> RetryAdvice {
        match self {
            // A 429 of Nylas' own limit has no `Retry-After` (Nylas facts §14).
            Self::Throttled { retry_after } => {
                RetryAdvice::Postpone(retry_after.unwrap_or(FIRST_STEP))
            }
            Self::Unavailable { .. } => RetryAdvice::Soon,
            Self::NoKey { .. } => RetryAdvice::Postpone(KEY_WAIT),
            Self::SignInNeeded { .. } => RetryAdvice::Postpone(MAILBOX_WAIT),
            Self::Rejected { .. } if self.concerns_mailbox() => RetryAdvice::Postpone(MAILBOX_WAIT),
            Self::Rejected { .. } => RetryAdvice::Never,
        }
    }

    /// Returns the rejection, if this is one, to find out whether it affects one message or the
    /// whole mailbox.
    #[must_use]
    #[deny(clippy::wildcard_enum_match_arm)]
    pub fn refusal(&self) -> Option<Refusal> {
        let cause = match self {
            Self::SignInNeeded { kind } => format!("401 {kind}"),
            Self::Rejected { status, kind } => format!("{status} {kind}"),
            Self::Throttled { .. } | Self::Unavailable { .. } | Self::NoKey { .. } => return None,
        };
        let blame = if self.concerns_mailbox() {
            Blame::Caller
        } else {
            Blame::Row
        };
        Some(Refusal { cause, blame })
    }

    /// Returns whether Nylas rejects the mailbox, and so every message of it (Nylas facts §13).
    #[must_use]
    #[deny(clippy::wildcard_enum_match_arm)]
    pub fn concerns_mailbox(&self) -> bool {
        match self {
            Self::SignInNeeded { .. } => true,
            Self::Rejected { kind, .. } => {
                kind == "insufficient_scopes" || kind.starts_with("grant.")
            }
            Self::Throttled { .. } | Self::Unavailable { .. } | Self::NoKey { .. } => false,
        }
    }

    /// Interprets an answer with a status other than 200.
    pub(super) fn from_answer(
        status: StatusCode,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> Self {
        let kind = error_type(body);
        match status {
            StatusCode::TOO_MANY_REQUESTS => Self::Throttled { retry_after },
            StatusCode::UNAUTHORIZED => Self::SignInNeeded { kind },
            StatusCode::REQUEST_TIMEOUT => Self::Unavailable {
                what: status.to_string(),
            },
            _ if status.is_client_error() => Self::Rejected {
                status: status.as_u16(),
                kind,
            },
            _ => Self::Unavailable {
                what: format!("{status} {kind}"),
            },
        }
    }
}

impl From<reqwest::Error> for NylasError {
    fn from(error: reqwest::Error) -> Self {
        Self::Unavailable {
            what: http::describe(error),
        }
    }
}

/// Returns the type of an error body in any of its published shapes, or `unknown` if the body is
/// empty or has another shape.
fn error_type(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let wrapped = body.get("error").and_then(|error| error.get("type"));
    let kind = wrapped
        .or_else(|| body.get("type"))
        .or_else(|| body.get("error"))
        .and_then(Value::as_str);
    kind.map_or("unknown", |kind| kind.strip_prefix("api.").unwrap_or(kind))
        .chars()
        .take(100)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> NylasError {
        NylasError::from_answer(StatusCode::from_u16(status).unwrap(), None, body.as_bytes())
    }

    #[test]
    fn every_status_has_its_retry_advice() {
        assert_eq!(
            answer(429, "").retry_advice(),
            RetryAdvice::Postpone(FIRST_STEP)
        );
        for status in [408, 500, 502, 503, 504] {
            assert_eq!(
                answer(status, "<html>").retry_advice(),
                RetryAdvice::Soon,
                "{status}"
            );
        }
        assert_eq!(
            answer(401, "{}").retry_advice(),
            RetryAdvice::Postpone(MAILBOX_WAIT)
        );
        let no_scopes = answer(403, r#"{"error":{"type":"insufficient_scopes"}}"#);
        assert_eq!(no_scopes.refusal().unwrap().blame, Blame::Caller);
        assert_eq!(answer(403, "").refusal().unwrap().blame, Blame::Row);
        for status in [400, 403, 404, 423] {
            assert_eq!(
                answer(status, "").retry_advice(),
                RetryAdvice::Never,
                "{status}"
            );
        }
        let throttled = NylasError::from_answer(
            StatusCode::TOO_MANY_REQUESTS,
            Some(Duration::from_secs(7)),
            b"",
        );
        assert_eq!(
            throttled.retry_advice(),
            RetryAdvice::Postpone(Duration::from_secs(7))
        );
    }

    #[test]
    fn the_error_type_is_read_from_every_published_format() {
        assert_eq!(
            error_type(br#"{"error":{"type":"api.not_found_error","message":"x"}}"#),
            "not_found_error"
        );
        assert_eq!(
            error_type(br#"{"type":"grant.not_found"}"#),
            "grant.not_found"
        );
        assert_eq!(
            error_type(br#"{"error":"invalid_grant","error_description":"x"}"#),
            "invalid_grant"
        );
        assert_eq!(error_type(b""), "unknown");
        assert_eq!(error_type(b"[1]"), "unknown");
    }
}
