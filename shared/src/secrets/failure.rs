//! A secret store that does not answer is left in peace for five seconds.
//!
//! Without this, each request of a burst would ask a store that is down, and each would wait for its time-out.
//! A store that answers "there is no such value" has not failed: that is asked again at once, since a person may
//! be storing the value at this moment.

use chrono::{DateTime, TimeDelta, Utc};

use super::SecretError;

/// For so long nobody asks again.
const KEPT: TimeDelta = TimeDelta::seconds(5);

/// A reading that failed.
#[derive(Debug, Clone)]
pub struct RecentFailure {
    error: SecretError,
    at: DateTime<Utc>,
}

impl RecentFailure {
    /// The reading at `at` failed with `error`.
    #[must_use]
    pub fn new(error: SecretError, at: DateTime<Utc>) -> Self {
        Self { error, at }
    }

    /// The error, while it stands for the next reading too. `None`: ask the store.
    ///
    /// The distance counts in both directions: requests that arrive together reach this in any order, and a clock
    /// that was set back by more makes the store be asked.
    #[must_use]
    pub fn error_at(&self, now: DateTime<Utc>) -> Option<&SecretError> {
        ((now - self.at).abs() < KEPT).then_some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_stands_for_five_seconds_and_not_longer() {
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
