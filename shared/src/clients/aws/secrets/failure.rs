//! After a failed read, the secret store is not asked again for five seconds.
//!
//! Without this, each request of a burst would ask a store that is down, and each would wait for
//! its timeout. The answer "there is no such value" is not a failure: the store is asked again at
//! once, since an operator may be storing the value at that moment.

use chrono::{DateTime, TimeDelta, Utc};

use super::SecretError;

/// How long the store is not asked again after a failure.
const KEPT: TimeDelta = TimeDelta::seconds(5);

/// A read that failed.
#[derive(Debug, Clone)]
pub struct RecentFailure {
    error: SecretError,
    at: DateTime<Utc>,
}

impl RecentFailure {
    /// Records that the read at `at` failed with `error`.
    #[must_use]
    pub fn new(error: SecretError, at: DateTime<Utc>) -> Self {
        Self { error, at }
    }

    /// Returns the error if it still applies to a read at `now`. `None`: ask the store.
    ///
    /// The distance counts in both directions: concurrent requests arrive here in any order. If the
    /// clock was set back by more than five seconds, the store is asked.
    #[must_use]
    pub fn error_at(&self, now: DateTime<Utc>) -> Option<&SecretError> {
        ((now - self.at).abs() < KEPT).then_some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_read_is_remembered_for_five_seconds() {
        let at = |milliseconds| DateTime::UNIX_EPOCH + TimeDelta::milliseconds(milliseconds);
        let error = SecretError {
            id: "s".to_owned(),
            cause: "not reachable".to_owned(),
        };
        let failure = RecentFailure::new(error, at(10_000));
        for (milliseconds, stands) in [
            (10_000, true),
            (14_999, true),
            (15_000, false),
            (9_000, true),
            (0, false),
        ] {
            let error = failure.error_at(at(milliseconds));
            assert_eq!(error.is_some(), stands, "{milliseconds}");
        }
    }
}
