//! The HTTP client and URL encoding shared by the Dataverse, Nylas and Entra clients.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Limit for a whole call, long enough for a large attachment.
const CALL_TIMEOUT: Duration = Duration::from_secs(50);

/// Limit for the silence within a call (reqwest's read timeout).
///
/// A batch fetches ten messages, three at a time. Even if the service hangs on all of them, these
/// fetches and the calls that the whole batch shares end within the worker's 120 seconds. So a
/// hanging service makes the messages retry, and the invocation does not time out.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(15);

/// Limit for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Builds a client without cookies and without redirects.
///
/// Dataverse's affinity cookie would pin all calls to one web server (Dataverse facts §11.1).
/// Redirects are off so that a bearer token is sent only to the host in the settings.
///
/// # Errors
/// The TLS library could not be initialised: refuse to start.
pub fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .timeout(CALL_TIMEOUT)
        .read_timeout(SILENCE_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("mailverse/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// The characters to percent-encode: all but the unreserved ones of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Percent-encodes a whole text for a path segment or a query value.
#[must_use]
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Describes a failed call with all its causes, since reqwest's own text has only the first.
///
/// The URL is left out, because its query can contain addresses.
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
