//! A failed step: when it is worth repeating, and the reason for the ledger.

use std::time::Duration;

use crate::clients::dataverse::error::DataverseError;
use crate::clients::entra::TokenError;
use crate::clients::nylas::error::NylasError;
use crate::clients::refusal::Refusal;
use crate::clients::retry::{FIRST_STEP, RetryAdvice};
use crate::policy::cache::PolicyError;

/// How long messages wait while the stored policy is unusable.
const UNTIL_ANOTHER_POLICY: Duration = Duration::from_secs(5 * 60);

/// A failed step: the retry advice, and the reason for the ledger. One failed call can fail many
/// messages.
#[derive(Clone)]
pub(super) struct Failure {
    pub(crate) advice: RetryAdvice,
    pub reason: String,
    /// Set if Dataverse or Nylas refused the request. Whether the refusal concerns the message or
    /// the caller is decided later ([`super::refusals`]).
    pub refusal: Option<Refusal>,
}

impl Failure {
    pub(super) fn new(advice: RetryAdvice, reason: impl Into<String>) -> Self {
        Self {
            advice,
            reason: reason.into(),
            refusal: None,
        }
    }

    pub(super) fn soon(reason: impl Into<String>) -> Self {
        Self::new(RetryAdvice::Soon, reason)
    }

    /// A failure that is not the fault of the message, so the attempt does not count.
    pub(super) fn postponed(wait: Duration, reason: impl Into<String>) -> Self {
        Self::new(RetryAdvice::Postpone(wait), reason)
    }

    pub(super) fn no_time_left() -> Self {
        Self::postponed(FIRST_STEP, "the invocation had no time left for it")
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        let reason = error.to_string();
        match error {
            PolicyError::Ledger(_) => Self::soon(reason),
            // An operator has to push another policy; the message is not at fault.
            PolicyError::Unusable { .. } => Self::postponed(UNTIL_ANOTHER_POLICY, reason),
        }
    }
}

impl From<NylasError> for Failure {
    fn from(error: NylasError) -> Self {
        Self {
            advice: error.retry_advice(),
            reason: error.to_string(),
            refusal: None,
        }
    }
}

impl From<DataverseError> for Failure {
    fn from(error: DataverseError) -> Self {
        Self {
            advice: error.retry_advice(),
            reason: error.to_string(),
            refusal: error.refusal(),
        }
    }
}

// Not the fault of the message, however long it takes until an operator has fixed the credential.
impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        Self::postponed(TokenError::WAIT, error.to_string())
    }
}
