//! The access token for Dataverse: where it comes from, where it is kept, how readers get it.
//!
//! token-refresher is the only function that may read the Entra credential and the only writer of the stored token. Everyone else
//! reads the stored token through [`TokenSource`] and keeps it in the process until five minutes before its end. A token that Dataverse refused
//! is forgotten, so that the next batch reads the store again.

pub mod request;
pub mod store;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;

use self::request::{EntraClient, EntraError};
use self::store::{StoredToken, TokenStore, TokenStoreError};
use crate::dataverse::AccessToken;

/// Life that a token must have left to be used: longer than any invocation that starts with it may need it.
const REMAINING_LIFE: TimeDelta = TimeDelta::minutes(5);

/// No token can be had now: let the messages come back.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The store could not be read, or holds no usable token.
    #[error(transparent)]
    Store(#[from] TokenStoreError),
    /// Entra did not give one.
    #[error(transparent)]
    Entra(#[from] EntraError),
}

/// Where a token is read from.
pub enum Origin {
    /// The secret that token-refresher writes.
    Store(TokenStore),
    /// Entra itself, for a command that has a credential of its own.
    Entra(EntraClient),
}

/// Reads the token through a cache in the process.
pub struct TokenSource {
    origin: Origin,
    kept: Mutex<Option<StoredToken>>,
}

impl TokenSource {
    /// A source that has read nothing yet.
    #[must_use]
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            kept: Mutex::new(None),
        }
    }

    /// A token with at least five minutes to live, or the last one there is.
    ///
    /// # Errors
    /// [`TokenError`]: no token; let the messages come back.
    pub async fn token(&self, now: DateTime<Utc>) -> Result<AccessToken, TokenError> {
        // Held across the read, so that many waiting tasks read once.
        let mut kept = self.kept.lock().await;
        if let Some(token) = kept
            .as_ref()
            .filter(|token| token.expires_at - now > REMAINING_LIFE)
        {
            return Ok(token.access_token.clone());
        }
        let fresh = match &self.origin {
            Origin::Store(store) => store.read().await?,
            Origin::Entra(entra) => entra.request(now).await?,
        };
        let token = fresh.access_token.clone();
        *kept = Some(fresh);
        Ok(token)
    }

    /// Forgets the token, because Dataverse refused it.
    pub async fn forget(&self) {
        *self.kept.lock().await = None;
    }
}
