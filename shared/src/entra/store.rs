//! The stored token: a secret with the JSON `{"access_token": "…", "expires_at": <unix seconds>}`.

use aws_sdk_secretsmanager::Client;
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::dataverse::AccessToken;
use crate::secrets::{self, SecretError, Stage, Stored};

/// A token and its end.
pub struct StoredToken {
    /// The token.
    pub access_token: AccessToken,
    /// When Entra says that it ends.
    pub expires_at: DateTime<Utc>,
}

/// The stored token could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TokenStoreError {
    /// The secret store did not answer.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// token-refresher has not run yet, or cannot.
    #[error("the token secret {id} holds no token yet: see the log of token-refresher")]
    NoToken {
        /// The secret's name.
        id: String,
    },
}

/// The secret that holds the token.
#[derive(Debug, Clone)]
pub struct TokenStore {
    client: Client,
    id: String,
}

#[derive(Deserialize)]
struct Wire {
    access_token: String,
    expires_at: i64,
}

impl TokenStore {
    /// The token in the secret of this name or ARN.
    #[must_use]
    pub fn new(client: Client, id: String) -> Self {
        Self { client, id }
    }

    /// Reads the token.
    ///
    /// # Errors
    /// [`TokenStoreError`]: let the messages come back.
    pub async fn read(&self) -> Result<StoredToken, TokenStoreError> {
        let Stored::Value(text) = secrets::read(&self.client, &self.id, Stage::Current).await?
        else {
            return Err(self.no_token());
        };
        let wire: Wire = serde_json::from_str(text.expose_secret()).map_err(|_| self.no_token())?;
        let expires_at =
            DateTime::from_timestamp(wire.expires_at, 0).ok_or_else(|| self.no_token())?;
        Ok(StoredToken {
            access_token: wire.access_token.into(),
            expires_at,
        })
    }

    /// Replaces the token.
    ///
    /// # Errors
    /// [`TokenStoreError::Secret`]: the old token is still in force.
    pub async fn write(&self, token: &StoredToken) -> Result<(), TokenStoreError> {
        let wire = serde_json::json!({
            "access_token": token.access_token.expose_secret(),
            "expires_at": token.expires_at.timestamp(),
        });
        Ok(secrets::write(
            &self.client,
            &self.id,
            &SecretString::from(wire.to_string()),
        )
        .await?)
    }

    fn no_token(&self) -> TokenStoreError {
        TokenStoreError::NoToken {
            id: self.id.clone(),
        }
    }
}
