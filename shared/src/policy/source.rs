//! Where the pipeline has its policy from: the ledger's table, read at most once in five minutes, or a given document.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;

use super::Policy;
use crate::dedupe::ledger::{Ledger, LedgerError};

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

/// Where the policy comes from.
pub enum PolicySource {
    /// The item of the ledger's table; the documented defaults where there is none.
    Ledger(Mutex<Option<(DateTime<Utc>, Arc<Policy>)>>),
    /// This one.
    Given(Arc<Policy>),
}

impl PolicySource {
    /// The stored one, which has not been read yet.
    #[must_use]
    pub fn ledger() -> Self {
        Self::Ledger(Mutex::new(None))
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
        if let Some((read_at, policy)) = kept.as_ref()
            && now - *read_at < KEEP
        {
            return Ok(Arc::clone(policy));
        }
        let policy = match ledger.stored_policy().await? {
            None => Policy::default(),
            Some(stored) => {
                Policy::parse(&stored.document).map_err(|problems| PolicyError::Unusable {
                    version: stored.version,
                    problems: problems.len(),
                })?
            }
        };
        let policy = Arc::new(policy);
        *kept = Some((now, Arc::clone(&policy)));
        Ok(policy)
    }
}
