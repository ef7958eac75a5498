//! The HTTP client that the clients of Dataverse, Nylas and Entra share.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Longest whole call: what a large attachment may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(50);

/// Longest silence within a call. Ten messages of a batch, fetched three at a time from a service that hangs, and the calls that all share,
/// stay below the worker's 120 seconds, so that a hanging service costs the messages a retry and not the invocation.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client without cookies (Dataverse's affinity cookie would pin all calls to one web server, Dataverse facts §11.1) and without redirects
/// (a bearer token goes where the settings say and nowhere else).
///
/// # Errors
/// The TLS library could not be set up: refuse to start.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .timeout(CALL_TIMEOUT)
        .read_timeout(SILENCE_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("mailverse/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// What may stand in a path segment or a query value as it is (RFC 3986, unreserved characters).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Percent-encoded as a whole, for a path segment or a query value.
#[must_use]
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A failed call as text, with its causes, since reqwest's own text stops at the first.
///
/// The URL is left out: it can hold a query with addresses.
#[must_use]
pub fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
