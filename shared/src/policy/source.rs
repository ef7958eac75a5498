//! Where the pipeline has its policy from: the ledger's table, read at most once in five minutes, or a given document.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;

use super::Policy;
use crate::dedupe::ledger::{Ledger, LedgerError};
use crate::telemetry::{Count, count};

/// How long a policy that was read is kept: a new one holds everywhere after that.
pub const KEEP: TimeDelta = TimeDelta::minutes(5);

/// Why there is no policy: messages have to wait, since what a default tracks may be what the policy leaves out.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The table did not answer.
    #[error("the policy could not be read: {0}")]
    Ledger(#[from] LedgerError),
    /// What is stored is no document that this build can use. Says how many problems it has and quotes none of them.
    #[error("the stored policy, version {version}, cannot be used: {problems} problems")]
    Unusable {
        /// The version that it was stored with.
        version: String,
        /// How many.
        problems: usize,
    },
}

/// What this process has read of the stored policy.
#[derive(Default)]
pub struct StoredPolicies {
    /// The last one that can be used, and when it was read.
    current: Option<(DateTime<Utc>, Arc<Policy>)>,
    /// The highest revision of all that were read.
    highest: u64,
}

impl StoredPolicies {
    /// Notes a revision that was read. False if an earlier one was higher: pushes only count up, so the item was restored, changed or removed by hand.
    fn note(&mut self, revision: u64) -> bool {
        let rises = revision >= self.highest;
        self.highest = self.highest.max(revision);
        rises
    }
}

/// Where the policy comes from.
pub enum PolicySource {
    /// The item of the ledger's table; the documented defaults where there is none.
    Ledger(Mutex<StoredPolicies>),
    /// This one.
    Given(Arc<Policy>),
}

impl PolicySource {
    /// The stored one, which has not been read yet.
    #[must_use]
    pub fn ledger() -> Self {
        Self::Ledger(Mutex::default())
    }

    /// This one.
    #[must_use]
    pub fn given(policy: Policy) -> Self {
        Self::Given(Arc::new(policy))
    }

    /// The policy that holds now.
    ///
    /// # Errors
    /// [`PolicyError`]: decide nothing. It is asked for again at the next run, so that a policy that is mended holds at once.
    pub async fn policy(
        &self,
        ledger: &Ledger,
        now: DateTime<Utc>,
    ) -> Result<Arc<Policy>, PolicyError> {
        let kept = match self {
            Self::Given(policy) => return Ok(Arc::clone(policy)),
            Self::Ledger(kept) => kept,
        };
        // Held across the call, so that a burst of work reads the item once.
        let mut kept = kept.lock().await;
        if let Some((read_at, policy)) = kept.current.as_ref()
            && now - *read_at < KEEP
        {
            return Ok(Arc::clone(policy));
        }
        let stored = ledger.stored_policy().await?;
        let revision = stored.as_ref().map_or(0, |stored| stored.revision);
        if !kept.note(revision) {
            // Obeyed all the same: whoever restored a ledger means it. An alarm tells a person, since an older policy may track more.
            tracing::error!(
                revision,
                highest = kept.highest,
                "the stored policy is older than before; push the right one (docs/restore.md)"
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
    fn a_lower_revision_than_the_highest_is_noticed_each_time_until_a_higher_one_comes() {
        let mut read = StoredPolicies::default();
        let rises = [0, 2, 2, 1, 0, 2, 3].map(|revision| read.note(revision));
        assert_eq!(rises, [true, true, true, false, false, true, true]);
    }
}
