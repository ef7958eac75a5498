//! A saved HTTP event as a request.
//!
//! In the function, `lambda_http` turns the event of a function URL or of API Gateway (HTTP or REST) into a request before
//! any code of ours runs, and it panics where the event contradicts itself: a body that is marked base64 and is none, a host
//! that is none. Lambda makes these fields itself (it sets `isBase64Encoded` when it has encoded the body), so no client can
//! bring that about; should it happen, the runtime catches the panic, the invocation fails and the front end answers 502,
//! which Nylas sends again.
//!
//! A saved event was written by anybody. [`request`] checks what would panic and then uses the same code.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lambda_http::Request;
use serde_json::Value;
use url::Url;

/// Why a saved event is no request.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Not JSON, or not of a function URL, an HTTP API or a REST API.
    #[error("not the event of a function URL or of API Gateway: {0}")]
    Unknown(#[source] serde_json::Error),
    /// Marked as base64, and is none.
    #[error("the body is marked base64 and is none: {0}")]
    NotBase64(#[source] base64::DecodeError),
    /// The host, path and query make no address.
    #[error("host, path and query make no address")]
    NoAddress,
}

/// Reads a saved event, exactly as the function reads a live one.
///
/// # Errors
/// [`EventError`]: the event cannot be replayed.
pub fn request(event: &str) -> Result<Request, EventError> {
    let fields: Value = serde_json::from_str(event).map_err(EventError::Unknown)?;
    if fields.get("isBase64Encoded").and_then(Value::as_bool) == Some(true) {
        let body = fields
            .get("body")
            .and_then(Value::as_str)
            .unwrap_or_default();
        STANDARD.decode(body).map_err(EventError::NotBase64)?;
    }
    if !has_address(&fields) {
        return Err(EventError::NoAddress);
    }
    lambda_http::request::from_str(event).map_err(EventError::Unknown)
}

fn has_address(event: &Value) -> bool {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    let header = |name: &str| {
        let headers = event.get("headers")?.as_object()?;
        let (_, value) = headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        value.as_str()
    };
    let scheme = header("x-forwarded-proto").unwrap_or("https");
    let host = header("host")
        .or_else(|| text("/requestContext/domainName"))
        .unwrap_or("localhost");
    let path = text("/rawPath")
        .or_else(|| text("/path"))
        .unwrap_or_default();
    let query = text("/rawQueryString").unwrap_or_default();
    // The second form: the stage of an API comes before the path.
    [
        format!("{scheme}://{host}{path}"),
        format!("{scheme}://{host}/stage{path}"),
    ]
    .iter()
    .all(|address| {
        Url::parse(address).is_ok_and(|url| format!("{url}?{query}").parse::<http::Uri>().is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function_url(host: &str, query: &str, body: &str, base64: bool) -> String {
        serde_json::json!({
            "version": "2.0", "routeKey": "$default", "rawPath": "/", "rawQueryString": query,
            "headers": {"host": host},
            "requestContext": {
                "accountId": "anonymous", "apiId": "abc", "domainName": "abc.lambda-url.eu-north-1.on.aws",
                "domainPrefix": "abc", "requestId": "1", "routeKey": "$default", "stage": "$default",
                "time": "22/Nov/2026:10:00:00 +0000", "timeEpoch": 1_795_341_600_000_i64,
                "http": {"method": "POST", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": ""},
            },
            "body": body, "isBase64Encoded": base64,
        })
        .to_string()
    }

    #[test]
    fn a_base64_body_is_decoded() {
        let request = request(&function_url("a.example", "", "e30=", true)).unwrap();
        assert_eq!(request.body().as_ref(), b"{}");
    }

    #[test]
    fn an_event_that_contradicts_itself_is_an_error_and_no_panic() {
        for body in ["{}", "e30", "e3_-", "e30=\n"] {
            let event = function_url("a.example", "", body, true);
            assert!(
                matches!(request(&event), Err(EventError::NotBase64(_))),
                "{body}"
            );
        }
        for (host, query) in [
            ("", ""),
            ("a b", ""),
            ("a.example", "q=<x>"),
            ("a.example", "a b"),
            ("[", ""),
        ] {
            let event = function_url(host, query, "{}", false);
            assert!(
                matches!(request(&event), Err(EventError::NoAddress)),
                "{host} {query}"
            );
        }
    }

    #[test]
    fn what_is_no_http_event_is_named_so() {
        for event in ["", "{", "[]", "null", "{}", r#"{"Records":[]}"#] {
            assert!(
                matches!(request(event), Err(EventError::Unknown(_))),
                "{event}"
            );
        }
    }
}
