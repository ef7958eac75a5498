//! The messages on the sync queue: ids only.
//!
//! ```json
//! {"version":1,"grant_id":"1e3288f6-…","message_id":"5d3qmne77v32r8l4","trigger":"created"}
//! ```
//!
//! No subject, body, name or address is ever queued: a reader of the queue only learns which
//! mailbox has which message id. An unknown version is rejected, so that a message from a newer
//! deployment waits in the dead-letter queue instead of being misread.

use serde::{Deserialize, Serialize};

use crate::model::ids::MessageKey;

/// The version that this build writes and reads.
const VERSION: u8 = 1;

/// Why a message is processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Nylas reported it as new.
    Created,
    /// Nylas reported a change. The policy is applied again to a message that was skipped before:
    /// it may have left the spam folder.
    Updated,
    /// The backfill listed it.
    Backfill,
}

/// A request to process one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncRequest {
    /// The message.
    pub key: MessageKey,
    /// The reason.
    pub trigger: Trigger,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    version: u8,
    #[serde(flatten)]
    key: MessageKey,
    trigger: Trigger,
}

/// Why a queue message is not a sync request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The body is not the JSON of a request.
    #[error("not a sync request: {problem}")]
    Unreadable {
        /// The position and kind of the problem, without quoting the body, which may contain
        /// anything.
        problem: String,
    },
    /// The body was written by another version of mailverse.
    #[error("a sync request of version {0}; this build reads version {VERSION}")]
    UnknownVersion(u8),
}

impl SyncRequest {
    /// Returns the body of the queue message.
    #[must_use]
    pub fn to_body(&self) -> String {
        serde_json::json!({
            "version": VERSION,
            "grant_id": self.key.grant_id,
            "message_id": self.key.message_id,
            "trigger": self.trigger,
        })
        .to_string()
    }

    /// Parses the body of a queue message.
    ///
    /// # Errors
    /// Both variants: report the queue message as failed, so that it reaches the dead-letter queue
    /// unchanged.
    pub fn from_body(body: &str) -> Result<Self, RequestError> {
        let wire: Wire = serde_json::from_str(body).map_err(|error| RequestError::Unreadable {
            problem: json_problem(&error),
        })?;
        if wire.version != VERSION {
            return Err(RequestError::UnknownVersion(wire.version));
        }
        Ok(Self {
            key: wire.key,
            trigger: wire.trigger,
        })
    }
}

/// Describes a JSON error and its position without quoting the text.
#[must_use]
pub fn json_problem(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Syntax => "it is not valid JSON",
        serde_json::error::Category::Data => "a field is missing or has the wrong type",
        serde_json::error::Category::Io => "it cannot be read",
    };
    format!("{what}, line {} column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> SyncRequest {
        SyncRequest {
            key: MessageKey {
                grant_id: "g-1".parse().unwrap(),
                message_id: "<a/b+c=@x>".parse().unwrap(),
            },
            trigger: Trigger::Updated,
        }
    }

    #[test]
    fn a_request_round_trips_through_the_queue() {
        let body = request().to_body();
        assert_eq!(
            body,
            r#"{"grant_id":"g-1","message_id":"<a/b+c=@x>","trigger":"updated","version":1}"#
        );
        assert_eq!(SyncRequest::from_body(&body).unwrap(), request());
    }

    #[test]
    fn an_unreadable_body_is_not_quoted() {
        let error = SyncRequest::from_body(r#""Subject: the merger""#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "not a sync request: a field is missing or has the wrong type, line 1 column 21"
        );
    }

    #[test]
    fn a_body_that_is_not_a_request_is_rejected_with_the_reason() {
        for body in [
            "",
            "{",
            "[]",
            "null",
            r#"{"version":1,"grant_id":"g","trigger":"created"}"#,
            r#"{"version":1,"grant_id":"","message_id":"m","trigger":"created"}"#,
            r#"{"version":1,"grant_id":7,"message_id":"m","trigger":"created"}"#,
            r#"{"version":1,"grant_id":"g","message_id":"m","trigger":"other"}"#,
        ] {
            assert!(
                matches!(
                    SyncRequest::from_body(body),
                    Err(RequestError::Unreadable { .. })
                ),
                "{body}"
            );
        }
        let newer = r#"{"version":2,"grant_id":"g","message_id":"m","trigger":"created"}"#;
        assert_eq!(
            SyncRequest::from_body(newer).unwrap_err().to_string(),
            "a sync request of version 2; this build reads version 1"
        );
    }
}
