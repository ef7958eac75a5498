//! The envelopes of Nylas answers (Nylas facts §1 and §13).

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::server::Outgoing;

/// The result of a call.
pub(crate) type Reply = Result<Answer, Failure>;

/// A successful answer.
pub(crate) enum Answer {
    /// The value of `data`, and other fields of the envelope.
    Data {
        data: Value,
        beside: Map<String, Value>,
    },
    /// The bytes of an attachment.
    Bytes(Vec<u8>),
}

impl Answer {
    pub(crate) fn data(data: Value) -> Self {
        Self::Data {
            data,
            beside: Map::new(),
        }
    }
}

/// An error answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) provider_error: Option<Value>,
    /// Some errors repeat their type in the field `code`.
    pub(crate) with_code: bool,
}

impl Failure {
    pub(crate) fn new(status: u16, kind: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: kind.to_owned(),
            message: message.into(),
            provider_error: None,
            with_code: false,
        }
    }

    /// A parameter is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// There is no object with this id.
    pub(crate) fn no_object() -> Self {
        Self::new(404, "not_found_error", "requested object not found")
    }

    /// There is no grant with this id. The wording is inferred.
    pub(crate) fn no_grant() -> Self {
        Self::new(404, "grant.not_found", "No Grant found for this Grant ID")
    }

    /// The application's key is missing or wrong.
    pub(crate) fn bad_key() -> Self {
        Self {
            with_code: true,
            ..Self::new(401, "token.unauthorized_access", "Bearer token invalid")
        }
    }

    /// The mailbox's owner must sign in again. The body is that of the contract's sample; the
    /// answer of a live account is not published (Nylas facts §11).
    pub(crate) fn expired_grant() -> Self {
        let provider_error = json!({
            "code": 401,
            "message": "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or \
                        other valid authentication credential.",
        });
        Self {
            provider_error: Some(provider_error),
            ..Self::new(401, "unauthorized", "Unauthorized")
        }
    }

    /// No route has this address. The text is known from an unencoded slash in an id.
    pub(crate) fn no_route(method: &str, path: &str) -> Self {
        Self::new(
            404,
            "not_found_error",
            format!("Unrecognized request URL ({method}: {path})"),
        )
    }

    /// The service can do this and the emulator cannot. The error must never look like an answer of
    /// the service.
    pub(crate) fn not_imitated(what: &str) -> Self {
        Self::new(501, "twin", format!("the emulator does not support {what}"))
    }
}

/// Builds the HTTP answer. Request ids alternate between two forms, because not every one is a bare
/// UUID (Nylas facts §1).
pub(crate) fn outgoing(reply: Reply, count: u64) -> Outgoing {
    let request_id = if count.is_multiple_of(2) {
        Uuid::new_v4().to_string()
    } else {
        format!("1120765200-{}", Uuid::new_v4())
    };
    let mut headers = vec![("x-request-id", request_id.clone())];
    let (status, kind, body) = match reply {
        Ok(Answer::Bytes(bytes)) => (200, "application/octet-stream", bytes),
        Ok(Answer::Data { data, beside }) => {
            let mut envelope = beside;
            envelope.insert("request_id".to_owned(), json!(request_id));
            envelope.insert("data".to_owned(), data);
            (
                200,
                "application/json",
                Value::Object(envelope).to_string().into_bytes(),
            )
        }
        Err(failure) => {
            let mut error = json!({"type": failure.kind, "message": failure.message});
            if let Some(fields) = error.as_object_mut() {
                if failure.with_code {
                    fields.insert("code".to_owned(), json!(failure.kind));
                }
                fields.extend(
                    failure
                        .provider_error
                        .map(|cause| ("provider_error".to_owned(), cause)),
                );
            }
            let body = json!({"request_id": request_id, "error": error});
            (
                failure.status,
                "application/json",
                body.to_string().into_bytes(),
            )
        }
    };
    headers.push(("Content-Type", kind.to_owned()));
    Outgoing {
        status,
        headers,
        body,
    }
}
