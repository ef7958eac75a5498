//! The calls of one batch of messages, with one token, until Dataverse answers 429 or 401.
//!
//! After a 429, every further request would be throttled too and would lengthen the wait (Dataverse
//! facts §11.1). After a 401, every further request with that token would fail. So the first such
//! answer, to a request or to a part of a `$batch`, ends the session: all later calls are not sent
//! and return the same failure, with the same retry advice.
//!
//! The session also adds up the requests and the time of its calls, the units of the [rate
//! limiter](crate::rate_limit), and remembers the concurrency that Dataverse suggests.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use secrecy::ExposeSecret;

use super::AccessToken;
use super::error::DataverseError;

/// The usage of some calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The number of HTTP requests.
    pub requests: u32,
    /// Their durations, as the client measured them, added up.
    pub time: Duration,
}

/// The state that the calls of one batch of messages share.
pub struct Session {
    token: AccessToken,
    clock: fn() -> Instant,
    ended_by: OnceLock<DataverseError>,
    requests: AtomicU32,
    microseconds: AtomicU64,
    timeouts: AtomicU32,
    /// 0 if Dataverse suggested nothing.
    suggested_concurrency: AtomicU32,
}

impl Session {
    /// Creates a session with this token.
    #[must_use]
    pub fn new(token: AccessToken) -> Self {
        Self::timed_by(token, Instant::now)
    }

    /// Creates a session that measures its calls with this clock.
    #[must_use]
    pub(crate) fn timed_by(token: AccessToken, clock: fn() -> Instant) -> Self {
        Self {
            token,
            clock,
            ended_by: OnceLock::new(),
            requests: AtomicU32::new(0),
            microseconds: AtomicU64::new(0),
            timeouts: AtomicU32::new(0),
            suggested_concurrency: AtomicU32::new(0),
        }
    }

    /// Returns the failure that ended the session, if any. After it nothing is sent.
    #[must_use]
    pub(crate) fn ended_by(&self) -> Option<&DataverseError> {
        self.ended_by.get()
    }

    /// Returns the requests and execution time of all calls so far, including failed ones.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            requests: self.requests.load(Ordering::Relaxed),
            time: Duration::from_micros(self.microseconds.load(Ordering::Relaxed)),
        }
    }

    /// Returns the latest suggested concurrency: how many requests to send at the same time. `None`
    /// if Dataverse suggested nothing.
    #[must_use]
    pub fn suggested_concurrency(&self) -> Option<u32> {
        Some(self.suggested_concurrency.load(Ordering::Relaxed))
            .filter(|suggested_concurrency| *suggested_concurrency > 0)
    }

    /// Returns how many `$batch` requests with queries timed out.
    #[must_use]
    pub(crate) fn timeouts(&self) -> u32 {
        self.timeouts.load(Ordering::Relaxed)
    }

    pub(crate) fn note_timeout(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the time on this session's clock.
    pub(crate) fn now(&self) -> Instant {
        (self.clock)()
    }

    /// Returns the token that every call uses.
    #[must_use]
    pub fn token(&self) -> &AccessToken {
        &self.token
    }

    pub(crate) fn bearer(&self) -> &str {
        self.token.expose_secret()
    }

    /// Ends the session if every further request would meet the same failure.
    pub(crate) fn note(&self, error: &DataverseError) {
        if matches!(
            error,
            DataverseError::Throttled { .. } | DataverseError::TokenRejected
        ) {
            // A later failure does not replace the first one, whose advice was already returned.
            let _ended_before = self.ended_by.set(error.clone());
        }
    }

    /// Counts a request that is sent now, and returns its start time.
    pub(crate) fn begin(&self) -> Instant {
        self.requests.fetch_add(1, Ordering::Relaxed);
        (self.clock)()
    }

    /// Adds the time of a request that started at `begun`, whether it was answered or not.
    pub(crate) fn end(&self, begun: Instant) {
        let took = (self.clock)().saturating_duration_since(begun).as_micros();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// Reads `x-ms-dop-hint`. Its form is inferred: one whole number (Dataverse facts §11.1).
    /// Anything else counts as absent.
    pub(crate) fn read_suggestion(&self, headers: &HeaderMap) {
        let suggested_concurrency = headers
            .get("x-ms-dop-hint")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok());
        if let Some(suggested_concurrency) =
            suggested_concurrency.filter(|suggested_concurrency| *suggested_concurrency > 0)
        {
            self.suggested_concurrency
                .store(suggested_concurrency, Ordering::Relaxed);
        }
    }
}
