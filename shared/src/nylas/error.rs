//! What Nylas can answer when it does not answer with data, and what to do about it.
//!
//! | Status | Variant | Next |
//! | --- | --- | --- |
//! | 429 | [`NylasError::Throttled`] | wait, then repeat |
//! | 5xx, time-out, connection lost, unreadable body | [`NylasError::Unavailable`] | repeat |
//! | 401 | [`NylasError::SignInNeeded`] | everybody who asks for the mailbox pauses: a person has to sign in again, or the key is wrong |
//! | 403 for want of a scope, a grant that is not there | [`NylasError::Rejected`] | the same |
//! | other 4xx | [`NylasError::Rejected`] | settle the message `dead`, if others get through ([`crate::refusal`]) |
//!
//! A 404 for one message is no error: see [`super::Fetched::Gone`]. Source: Nylas facts §13 and §14. The type of an error is
//! compared with any `api.` prefix dropped; the message text is not kept, since it may quote the request.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;

use crate::http;
use crate::refusal::{Blame, Refusal};
use crate::retry::{FIRST_STEP, RetryAdvice};

/// How long everybody who asks for a mailbox pauses when Nylas refuses it: somebody has to sign in
/// again. The body of a 401 for an expired grant is unknown (Nylas facts §11), so every 401 waits alike.
pub const MAILBOX_WAIT: Duration = Duration::from_secs(15 * 60);

/// How long messages wait for an API key that can be read.
const KEY_WAIT: Duration = Duration::from_secs(5 * 60);

/// A call that did not bring what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NylasError {
    /// Nylas or the provider behind it limits us.
    #[error("nylas throttled the call")]
    Throttled {
        /// At least this long.
        retry_after: Option<Duration>,
    },
    /// Not reachable, or broken for now.
    #[error("nylas is unavailable: {what}")]
    Unavailable {
        /// Status or kind of failure.
        what: String,
    },
    /// 401: the grant has expired, the API key is refused, or the application lives in the other region.
    #[error(
        "nylas refused the sign-in ({kind}): check the grant's status, the API key and the region of NYLAS_API_URL"
    )]
    SignInNeeded {
        /// The error's type.
        kind: String,
    },
    /// The secret with the API key could not be read, or has no value yet.
    #[error("no nylas API key: {what}")]
    NoKey {
        /// Why.
        what: String,
    },
    /// The same call will be refused again.
    #[error("nylas refused the call: {status} {kind}")]
    Rejected {
        /// HTTP status.
        status: u16,
        /// The error's type.
        kind: String,
    },
}

impl NylasError {
    /// Whether, and when, the same call is worth repeating.
    #[must_use]
    #[deny(clippy::wildcard_enum_match_arm)]
    pub fn retry_advice(&self) -> RetryAdvice {
        match self {
            // Nylas' own limit names no time (Nylas facts §14).
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

    /// The refusal, if it is one, for finding out whom it concerns.
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

    /// Whether the mailbox is refused, and so every message of it (Nylas facts §13).
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

    /// Reads an answer that was no success.
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

/// The type of an error body in any of its published shapes; `unknown` for an empty or foreign body.
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
    fn every_status_has_its_next_move() {
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
    fn the_type_is_read_from_every_published_shape() {
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
