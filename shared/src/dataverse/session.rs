//! The calls of one run: with one token, until Dataverse asks for time.
//!
//! After a 429, every further request would be refused too and would lengthen the wait (Dataverse facts §11.1); after a 401, every further one with that
//! token. So the first such answer, of a request or of a part of a batch, ends the session: what is still asked of it gets the same failure, and with it
//! the same advice, and is not sent.
//!
//! It also adds up what its calls took, which is what the [budget](crate::governor) is counted in, and remembers how many requests at a time Dataverse suggests.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use secrecy::ExposeSecret;

use super::AccessToken;
use super::error::DataverseError;
use crate::governor::Spent;

/// What the calls of one run share.
pub struct Session {
    token: AccessToken,
    clock: fn() -> Instant,
    ended_by: OnceLock<DataverseError>,
    requests: AtomicU32,
    microseconds: AtomicU64,
    /// 0 when nothing was suggested.
    suggested: AtomicU32,
}

impl Session {
    /// A session of calls with this token.
    #[must_use]
    pub fn new(token: AccessToken) -> Self {
        Self::timed_by(token, Instant::now)
    }

    /// The same, whose calls are timed by this clock.
    #[must_use]
    pub fn timed_by(token: AccessToken, clock: fn() -> Instant) -> Self {
        Self {
            token,
            clock,
            ended_by: OnceLock::new(),
            requests: AtomicU32::new(0),
            microseconds: AtomicU64::new(0),
            suggested: AtomicU32::new(0),
        }
    }

    /// The failure after which nothing more is sent.
    #[must_use]
    pub fn ended_by(&self) -> Option<&DataverseError> {
        self.ended_by.get()
    }

    /// What the calls took until now, those that failed included.
    #[must_use]
    pub fn spent(&self) -> Spent {
        Spent {
            requests: self.requests.load(Ordering::Relaxed),
            time: Duration::from_micros(self.microseconds.load(Ordering::Relaxed)),
        }
    }

    /// How many requests at the same time Dataverse suggested last.
    #[must_use]
    pub fn suggested(&self) -> Option<u32> {
        Some(self.suggested.load(Ordering::Relaxed)).filter(|suggested| *suggested > 0)
    }

    /// The token of every call.
    #[must_use]
    pub fn token(&self) -> &AccessToken {
        &self.token
    }

    pub(super) fn bearer(&self) -> &str {
        self.token.expose_secret()
    }

    /// Ends the session with a refusal that concerns everybody who asks.
    pub fn end_refused(&self, refusal: &DataverseError) {
        let _ended_before = self.ended_by.set(refusal.clone());
    }

    /// Ends the session if the failure is of a kind that meets every request.
    pub(super) fn note(&self, error: &DataverseError) {
        if matches!(
            error,
            DataverseError::Throttled { .. } | DataverseError::TokenRejected
        ) {
            // A later failure changes nothing: the first one's advice went out already.
            let _ended_before = self.ended_by.set(error.clone());
        }
    }

    /// A request goes out now.
    pub(super) fn begin(&self) -> Instant {
        self.requests.fetch_add(1, Ordering::Relaxed);
        (self.clock)()
    }

    /// A request that went out at `begun` has its answer, or has none.
    pub(super) fn end(&self, begun: Instant) {
        let took = (self.clock)().saturating_duration_since(begun).as_micros();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// Reads `x-ms-dop-hint`. Its form is inferred: one whole number (Dataverse facts §11.1); anything else counts as absent.
    pub(super) fn read_suggestion(&self, headers: &HeaderMap) {
        let suggested = headers
            .get("x-ms-dop-hint")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok());
        if let Some(suggested) = suggested.filter(|suggested| *suggested > 0) {
            self.suggested.store(suggested, Ordering::Relaxed);
        }
    }
}
