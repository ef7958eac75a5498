//! Parses a saved HTTP event into a request.
//!
//! In the function, `lambda_http` turns the event of a function URL or of API Gateway (HTTP or
//! REST) into a request before any of our code runs. It panics if the event contradicts itself: a
//! body that is marked as base64 but is not, or an invalid host. Lambda sets these fields itself
//! (it sets `isBase64Encoded` when it has encoded the body), so no client can cause that. If it
//! happened anyway, the runtime would catch the panic, the invocation would fail and the front end
//! would answer 502, which Nylas retries.
//!
//! A saved event can be written by anyone. [`request`] checks for everything that would panic and
//! then uses the same code.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Uri};
use lambda_http::Request;
use lambda_http::aws_lambda_events::apigw::{ApiGatewayProxyRequest, ApiGatewayV2httpRequest};
use url::Url;

/// Why a saved event is not a request.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The event is not JSON, or not an event of a function URL, an HTTP API or a REST API.
    #[error("not the event of a function URL or of API Gateway: {0}")]
    Unknown(#[source] serde_json::Error),
    /// The body is marked as base64 but is not.
    #[error("the body is marked as base64 but is not valid base64: {0}")]
    NotBase64(#[source] base64::DecodeError),
    /// Host, path and query do not form a valid URL.
    #[error("host, path and query do not form a valid URL")]
    NoAddress,
}

/// Parses a saved event exactly as the function parses a live one.
///
/// # Errors
/// [`EventError`]: the event cannot be replayed.
pub fn request(event: &str) -> Result<Request, EventError> {
    if let Some(fields) = Fields::read(event) {
        if fields.is_base64 {
            let body = fields.body.as_deref().unwrap_or_default();
            STANDARD.decode(body).map_err(EventError::NotBase64)?;
        }
        if !fields.have_address() {
            return Err(EventError::NoAddress);
        }
    }
    lambda_http::request::from_str(event).map_err(EventError::Unknown)
}

/// The fields from which `lambda_http` builds a request. They are parsed with its types and in its
/// order, because it panics on the URL that it builds from them.
struct Fields {
    headers: HeaderMap,
    domain: Option<String>,
    stage: Option<String>,
    path: Option<String>,
    query: String,
    body: Option<String>,
    is_base64: bool,
}

impl Fields {
    /// Returns `None` where `lambda_http` does not recognise the event either.
    fn read(event: &str) -> Option<Self> {
        if let Ok(rest) = serde_json::from_str::<ApiGatewayProxyRequest>(event) {
            let several = &rest.multi_value_query_string_parameters;
            return Some(Self {
                query: if several.is_empty() {
                    rest.query_string_parameters.to_query_string()
                } else {
                    several.to_query_string()
                },
                headers: rest.headers,
                domain: rest.request_context.domain_name,
                stage: rest.request_context.stage,
                path: rest.path,
                body: rest.body,
                is_base64: rest.is_base64_encoded,
            });
        }
        let http: ApiGatewayV2httpRequest = serde_json::from_str(event).ok()?;
        Some(Self {
            query: http.raw_query_string.unwrap_or_default(),
            headers: http.headers,
            domain: http.request_context.domain_name,
            stage: http.request_context.stage,
            path: http.raw_path,
            body: http.body,
            is_base64: http.is_base64_encoded,
        })
    }

    fn have_address(&self) -> bool {
        let header = |name| {
            let value = self.headers.get(name)?;
            value.to_str().ok()
        };
        let scheme = header("x-forwarded-proto").unwrap_or("https");
        let host = header("host").or(self.domain.as_deref());
        let path = self.path.as_deref().unwrap_or_default();
        let stage = self.stage.as_deref().unwrap_or_default();
        // Whether the stage of an API is put before the path depends on both and on a setting, so
        // check both forms.
        [path.to_owned(), format!("/{stage}{path}")]
            .iter()
            .all(|path| {
                let Ok(url) = (match host {
                    Some(host) => Url::parse(&format!("{scheme}://{host}{path}")),
                    None => Url::parse(&format!("http://localhost{path}")),
                }) else {
                    return false;
                };
                // Without a host, the URL is only the path.
                let address = host.map_or(url.path(), |_| url.as_str());
                let address = match self.query.as_str() {
                    "" => address.to_owned(),
                    query => format!("{address}?{query}"),
                };
                address.parse::<Uri>().is_ok()
            })
    }
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
    fn an_inconsistent_event_is_an_error_and_does_not_panic() {
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
    fn only_the_host_that_the_lambda_runtime_would_use_is_checked() {
        let mut event: serde_json::Value =
            serde_json::from_str(&function_url("h\u{f6}st", "", "{}", false)).unwrap();
        assert!(
            request(&event.to_string()).is_ok(),
            "a host header that is not ASCII is ignored"
        );
        event["requestContext"]["domainName"] = "a^b".into();
        let answer = request(&event.to_string());
        assert!(matches!(answer, Err(EventError::NoAddress)), "{answer:?}");
        event["headers"] = serde_json::json!({"host": ["a.example", "a b"]});
        assert!(
            request(&event.to_string()).is_ok(),
            "the first of several host headers counts"
        );
        event["headers"] = serde_json::json!({"Host": "a b", "x-forwarded-proto": "http"});
        let answer = request(&event.to_string());
        assert!(matches!(answer, Err(EventError::NoAddress)), "{answer:?}");
        let long = function_url("a.example", &"x".repeat(70_000), "{}", false);
        assert!(matches!(request(&long), Err(EventError::NoAddress)));
    }

    #[test]
    fn an_event_that_is_not_http_is_reported_as_unknown() {
        for event in ["", "{", "[]", "null", "{}", r#"{"Records":[]}"#] {
            assert!(
                matches!(request(event), Err(EventError::Unknown(_))),
                "{event}"
            );
        }
    }
}
