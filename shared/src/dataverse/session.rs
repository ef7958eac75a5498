//! The calls of one run: with one token, until Dataverse asks for time.
//!
//! After a 429, every further request would be refused too and would lengthen the wait (Dataverse facts §11.1); after a 401, every further one with that
//! token. So the first such answer, of a request or of a part of a batch, ends the session: what is still asked of it gets the same failure, and with it
//! the same advice, and is not sent.

use std::sync::OnceLock;

use secrecy::ExposeSecret;

use super::AccessToken;
use super::error::DataverseError;

/// What the calls of one run share.
pub struct Session {
    token: AccessToken,
    ended_by: OnceLock<DataverseError>,
}

impl Session {
    /// A session of calls with this token.
    #[must_use]
    pub fn new(token: AccessToken) -> Self {
        Self {
            token,
            ended_by: OnceLock::new(),
        }
    }

    /// The failure after which nothing more is sent.
    #[must_use]
    pub fn ended_by(&self) -> Option<&DataverseError> {
        self.ended_by.get()
    }

    /// The token of every call.
    #[must_use]
    pub fn token(&self) -> &AccessToken {
        &self.token
    }

    pub(super) fn bearer(&self) -> &str {
        self.token.expose_secret()
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
}
