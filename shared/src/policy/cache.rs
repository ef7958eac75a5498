//! Provides the pipeline's policy: from the ledger's table, read at most once in five minutes, or a
//! given document.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;

use super::Policy;
use crate::ledger::messages::{Ledger, LedgerError};
use crate::telemetry::{Count, count};

/// How long a policy is cached after it was read. A new policy applies everywhere after this time.
pub(crate) const KEEP: TimeDelta = TimeDelta::minutes(5);

/// Why no policy is available. Messages have to wait, since the defaults may track what the
/// organisation's policy leaves out.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The ledger's table could not be read.
    #[error("failed to read the policy: {0}")]
    Ledger(#[from] LedgerError),
    /// This build cannot use the stored document. Holds the number of problems and quotes none of
    /// them.
    #[error(
        "the stored policy (version {version}) has {problems} problem(s) and cannot be used: run `mailverse policy show`"
    )]
    Unusable {
        /// The version that it was stored with.
        version: String,
        /// The number of problems.
        problems: usize,
    },
}

/// What this process has read of the stored policy.
#[derive(Default)]
pub struct StoredPolicies {
    /// The last usable policy, and when it was read.
    current: Option<(DateTime<Utc>, Arc<Policy>)>,
    /// The highest revision that was read.
    highest: u64,
}

impl StoredPolicies {
    /// Records a revision that was read. Returns false if an earlier one was higher: pushes only
    /// count up, so the item was restored from a backup, or changed or deleted by hand.
    fn note(&mut self, revision: u64) -> bool {
        let rises = revision >= self.highest;
        self.highest = self.highest.max(revision);
        rises
    }
}

/// Where the policy comes from.
pub enum PolicySource {
    /// The item in the ledger's table; the documented defaults if there is none.
    Ledger(Mutex<StoredPolicies>),
    /// This policy.
    Given(Arc<Policy>),
}

impl PolicySource {
    /// Returns a source that reads the stored policy. It has not read it yet.
    #[must_use]
    pub fn ledger() -> Self {
        Self::Ledger(Mutex::default())
    }

    /// Returns a source that always provides this policy.
    #[must_use]
    pub fn given(policy: Policy) -> Self {
        Self::Given(Arc::new(policy))
    }

    /// Returns the current policy.
    ///
    /// # Errors
    /// [`PolicyError`]: do not decide on any message. The next run reads the policy again, so that
    /// a fixed one applies at once.
    pub async fn policy(
        &self,
        ledger: &Ledger,
        now: DateTime<Utc>,
    ) -> Result<Arc<Policy>, PolicyError> {
        let kept = match self {
            Self::Given(policy) => return Ok(Arc::clone(policy)),
            Self::Ledger(kept) => kept,
        };
        // The lock is held during the call, so that concurrent calls read the item once.
        let mut kept = kept.lock().await;
        if let Some((read_at, policy)) = kept.current.as_ref()
            && now - *read_at < KEEP
        {
            return Ok(Arc::clone(policy));
        }
        let stored = ledger.stored_policy().await?;
        let revision = stored.as_ref().map_or(0, |stored| stored.revision);
        if !kept.note(revision) {
            // The older policy is used all the same, since an operator restored it on purpose. It
            // may track more than the newer one, so an alarm notifies an operator.
            tracing::error!(
                revision,
                highest = kept.highest,
                "the stored policy is older than one read before; using it; push the current one (docs/restore.md)"
            );
            count(Count::PolicyVersionBackwards, 1);
        }
        let policy = match stored {
            None => Policy::default(),
            Some(stored) => Policy::parse(&stored.document)
                .map_err(|problems| PolicyError::Unusable {
                    version: stored.version,
                    problems: problems.len(),
                })?
                .of_revision(revision),
        };
        let policy = Arc::new(policy);
        kept.current = Some((now, Arc::clone(&policy)));
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_revision_below_the_highest_seen_is_detected() {
        let mut read = StoredPolicies::default();
        let rises = [0, 2, 2, 1, 0, 2, 3].map(|revision| read.note(revision));
        assert_eq!(rises, [true, true, true, false, false, true, true]);
    }
}
