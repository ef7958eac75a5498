//! token-refresher: gets access tokens from Entra and stores them for the other functions.
//!
//! It is the only function that may read the Entra credentials and the only writer of the tokens.
//! Each application user is refreshed independently:
//!
//! | Result | Invocation | Stored token |
//! | --- | --- | --- |
//! | Entra issued a token | succeeds | is replaced, unless the stored one is newer |
//! | Entra rejected the credential, or it cannot be used | fails at once; the error has the meaning and the remedy | is kept |
//! | Entra is unavailable; the stored token is valid for longer than [`ENOUGH`] | succeeds; the next invocation tries again | is kept |
//! | Entra is unavailable; the stored token is missing or expires sooner | fails | is kept |
//!
//! The alarm counts failed invocations. A token that is still valid is never removed.

pub mod config;
pub mod credentials;

use std::fmt;

use aws_sdk_secretsmanager::Client;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use mailverse::clients::aws::secrets;
use mailverse::clients::aws::secrets::SecretError;
use mailverse::clients::entra::client::{EntraClient, EntraError};
use mailverse::clients::entra::token_store::{StoredToken, TokenStore, TokenStoreError, Tokens};
use mailverse::clients::http;
use mailverse::telemetry::{Count, count};
use serde::Serialize;

use self::config::Config;
use self::credentials::{Application, CredentialError};

/// The validity that a stored token needs so that an outage is not a failure. It covers the time
/// until the next invocation ends, and the last minutes that readers do not use.
pub const ENOUGH: TimeDelta = TimeDelta::minutes(30);

/// Why an invocation failed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The secret with the credentials could not be read.
    #[error(transparent)]
    Credential(#[from] SecretError),
    /// The secret with the credentials has an unexpected form.
    #[error("secret {id}: {problem}")]
    Malformed {
        /// The name of the secret.
        id: String,
        /// What is wrong with it.
        problem: CredentialError,
    },
    /// The HTTP client could not be created, because TLS could not be set up.
    #[error("failed to create the HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// Some tokens were not refreshed; the others were.
    #[error("{0}")]
    NotRenewed(Failures),
}

/// Why a token was not refreshed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Reason {
    /// The credential cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// Entra did not issue a token.
    #[error(transparent)]
    Entra(#[from] EntraError),
    /// The token could not be stored.
    #[error(transparent)]
    Store(#[from] TokenStoreError),
}

/// The application users whose tokens were not refreshed, by name, each with the reason.
#[derive(Debug)]
pub struct Failures(Vec<(String, Reason)>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self
            .0
            .iter()
            .map(|(name, reason)| format!("{name}: {reason}"));
        f.write_str(&each.collect::<Vec<_>>().join("; "))
    }
}

/// The answer to the invocation.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Refreshed {
    /// The stored token of each application user.
    pub tokens: Vec<Renewed>,
}

/// The stored token of an application user after the invocation.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Renewed {
    /// The name of the application user; `primary` for the one in the settings.
    #[serde(rename = "identity")]
    pub application_user: String,
    /// Whether this invocation requested the token.
    pub renewed: bool,
    /// When the token expires.
    pub expires_at: DateTime<Utc>,
}

/// Reads the credentials, requests a token for each application user and stores the tokens.
///
/// The credentials are read each time, so that a changed one is used at once.
///
/// # Errors
/// [`RefreshError`]: the text says what to change. Tokens that could be refreshed are stored, and
/// the old ones stay in use.
pub async fn refresh(
    config: &Config,
    secrets: &Client,
    now: DateTime<Utc>,
) -> Result<Refreshed, RefreshError> {
    let text = secrets::read_required(secrets, &config.entra_secret_id).await?;
    let applications = credentials::read(&text).map_err(|problem| RefreshError::Malformed {
        id: config.entra_secret_id.clone(),
        problem,
    })?;
    let http = http::client()?;
    let asked = applications.iter().map(async |application| {
        let answer = ask(config, &http, application, now).await;
        (application.application_user.clone(), answer)
    });
    let (mut fresh, mut failed) = (Tokens::new(), Vec::new());
    for (application_user, answer) in join_all(asked).await {
        match answer {
            Ok(token) => drop(fresh.insert(application_user, token)),
            Err(reason) => failed.push((application_user, reason)),
        }
    }
    let known: Vec<_> = applications
        .into_iter()
        .map(|one| one.application_user)
        .collect();
    let store = TokenStore::new(secrets.clone(), config.token_secret_id.clone());
    let stored = match store.replace(&fresh, &known, now).await {
        Ok(stored) => stored,
        Err(error) => {
            let each = fresh.keys().cloned();
            failed.extend(each.map(|application_user| (application_user, error.clone().into())));
            Tokens::new()
        }
    };
    let tokens = told(&stored, &fresh);
    let failures = failures(failed, &stored, now);
    if failures.0.is_empty() {
        Ok(Refreshed { tokens })
    } else {
        Err(RefreshError::NotRenewed(failures))
    }
}

async fn ask(
    config: &Config,
    http: &reqwest::Client,
    application: &Application,
    now: DateTime<Utc>,
) -> Result<StoredToken, Reason> {
    let proof = application.proof.as_ref().map_err(Clone::clone)?;
    let client_id = proof.client_id.as_ref().unwrap_or(&config.entra_client_id);
    let entra = EntraClient::new(
        http.clone(),
        &config.entra_authority,
        &config.entra_tenant_id,
        client_id.clone(),
        proof.credential.clone(),
        &config.dataverse_url,
    );
    Ok(entra.request(now).await?)
}

/// Selects the failures that fail the invocation: a rejected credential, or an outage that the
/// stored token may not outlast.
fn failures(
    failed: Vec<(Option<String>, Reason)>,
    stored: &Tokens,
    now: DateTime<Utc>,
) -> Failures {
    let lives = |application_user: &Option<String>| {
        let token = stored.get(application_user);
        token.is_some_and(|token| token.expires_at - now > ENOUGH)
    };
    let mut failures = Vec::new();
    for (application_user, reason) in failed {
        let name = name_of(application_user.as_ref());
        let permanent = match &reason {
            Reason::Credential(_) => true,
            Reason::Entra(error) => error.is_permanent(),
            Reason::Store(_) => false,
        };
        if permanent {
            count(Count::TokenRefused, 1);
        } else {
            count(Count::TokenNotRefreshed, 1);
        }
        if permanent || !lives(&application_user) {
            failures.push((name, reason));
        } else {
            tracing::warn!(application_user = name, %reason, "failed to refresh the token; the stored token is valid long enough for the next invocation to retry");
        }
    }
    Failures(failures)
}

fn told(stored: &Tokens, fresh: &Tokens) -> Vec<Renewed> {
    let each = stored.iter().map(|(application_user, token)| Renewed {
        application_user: name_of(application_user.as_ref()),
        renewed: fresh
            .get(application_user)
            .is_some_and(|fresh| fresh.requested_at == token.requested_at),
        expires_at: token.expires_at,
    });
    each.inspect(|token| {
        if token.renewed {
            count(Count::TokenRefreshed, 1);
            tracing::info!(application_user = token.application_user, expires_at = %token.expires_at, "token refreshed");
        }
    })
    .collect()
}

fn name_of(application_user: Option<&String>) -> String {
    application_user.map_or_else(|| "primary".to_owned(), Clone::clone)
}
