//! token-refresher: the Entra credential in, the stored token out.
//!
//! The only function that may read the credential and the only writer of the token. It fails loudly: a failed invocation is what the alarm counts.
//! The old token stays in force until a new one is written, so a failing refresher cannot take down a sync whose token still has time.

pub mod config;

use aws_sdk_secretsmanager::Client;
use chrono::{DateTime, Utc};
use mailverse::entra::request::{EntraClient, EntraError};
use mailverse::entra::store::{TokenStore, TokenStoreError};
use mailverse::http;
use mailverse::secrets::{self, SecretError};
use mailverse::telemetry::{Count, count};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use self::config::Config;

/// The token was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The credential could not be read.
    #[error(transparent)]
    Credential(#[from] SecretError),
    /// The secret holds something else.
    #[error("secret {id} is not the JSON {{\"client_secret\": \"…\"}}")]
    Malformed {
        /// Its name.
        id: String,
    },
    /// Entra gave no token.
    #[error(transparent)]
    Entra(#[from] EntraError),
    /// The token could not be stored.
    #[error(transparent)]
    Store(#[from] TokenStoreError),
    /// The TLS library could not be set up.
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

/// The invocation's answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Refreshed {
    /// When the new token ends.
    pub expires_at: DateTime<Utc>,
}

#[derive(Deserialize)]
struct Credential {
    client_secret: SecretString,
}

/// Reads the credential, asks Entra for a token and stores it. The credential is read each time, so that a new one is used at once.
///
/// # Errors
/// [`RefreshError`]: the old token is still in force; the text says what to change.
pub async fn refresh(
    config: &Config,
    secrets: &Client,
    now: DateTime<Utc>,
) -> Result<Refreshed, RefreshError> {
    let text = secrets::read_required(secrets, &config.entra_secret_id).await?;
    let credential: Credential =
        serde_json::from_str(text.expose_secret()).map_err(|_| RefreshError::Malformed {
            id: config.entra_secret_id.clone(),
        })?;
    let entra = EntraClient::new(
        http::client()?,
        &config.entra_authority,
        &config.entra_tenant_id,
        config.entra_client_id.clone(),
        credential.client_secret,
        &config.dataverse_url,
    );
    let token = entra.request(now).await?;
    TokenStore::new(secrets.clone(), config.token_secret_id.clone())
        .write(&token)
        .await?;
    count(Count::TokenRefreshed, 1);
    tracing::info!(expires_at = %token.expires_at, "token replaced");
    Ok(Refreshed {
        expires_at: token.expires_at,
    })
}
