//! token-refresher: the Entra credential in, the stored tokens out.
//!
//! The only function that may read the credential and the only writer of the tokens. Each application user is renewed for itself:
//!
//! | What came of it | The invocation | The stored token |
//! | --- | --- | --- |
//! | a token | succeeds | is replaced, if it is not a newer one already |
//! | Entra refused the credential, or it cannot be used | fails at once, with the meaning and the remedy | stays |
//! | Entra is unavailable, the stored token lives for longer than [`ENOUGH`] | succeeds: the next run tries again | stays |
//! | Entra is unavailable, and it does not | fails | stays |
//!
//! A failed invocation is what the alarm counts. Nothing here takes a token away that still has time.

pub mod config;
pub mod credentials;

use std::fmt;

use aws_sdk_secretsmanager::Client;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use mailverse::entra::request::{EntraClient, EntraError};
use mailverse::entra::store::{StoredToken, TokenStore, TokenStoreError, Tokens};
use mailverse::http;
use mailverse::secrets::{self, SecretError};
use mailverse::telemetry::{Count, count};
use serde::Serialize;

use self::config::Config;
use self::credentials::{Application, CredentialError};

/// Life that a stored token must have left for an outage to be no failure: more than until the next run ends, and more than the last minutes that readers leave unused.
pub const ENOUGH: TimeDelta = TimeDelta::minutes(30);

/// What failed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The credential could not be read.
    #[error(transparent)]
    Credential(#[from] SecretError),
    /// The secret holds something else.
    #[error("secret {id}: {problem}")]
    Malformed {
        /// Its name.
        id: String,
        /// What is wrong.
        problem: CredentialError,
    },
    /// The TLS library could not be set up.
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// Some tokens were not renewed; the others were.
    #[error("{0}")]
    NotRenewed(Failures),
}

/// Why a token was not renewed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Reason {
    /// Its credential cannot be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// Entra did not give one.
    #[error(transparent)]
    Entra(#[from] EntraError),
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] TokenStoreError),
}

/// The tokens that were not renewed, by the name of the application user, and why.
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

/// The invocation's answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Refreshed {
    /// One for each application user.
    pub tokens: Vec<Renewed>,
}

/// What is stored for an application user now.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Renewed {
    /// Its name; `primary` for that of the settings.
    pub identity: String,
    /// Whether this run asked for it.
    pub renewed: bool,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// Reads the credential, asks Entra for a token for each application in it, and stores them. The credential is read each time, so that a new one is used at once.
///
/// # Errors
/// [`RefreshError`]: the text says what to change. Old tokens are still in force, and those that could be renewed are stored.
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
        (application.identity.clone(), answer)
    });
    let (mut fresh, mut failed) = (Tokens::new(), Vec::new());
    for (identity, answer) in join_all(asked).await {
        match answer {
            Ok(token) => drop(fresh.insert(identity, token)),
            Err(reason) => failed.push((identity, reason)),
        }
    }
    let known: Vec<_> = applications.into_iter().map(|one| one.identity).collect();
    let store = TokenStore::new(secrets.clone(), config.token_secret_id.clone());
    let stored = match store.replace(&fresh, &known, now).await {
        Ok(stored) => stored,
        Err(error) => {
            let each = fresh.keys().cloned();
            failed.extend(each.map(|identity| (identity, error.clone().into())));
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

/// Those that make the invocation fail: a refusal, and an outage that the stored token may not outlive.
fn failures(
    failed: Vec<(Option<String>, Reason)>,
    stored: &Tokens,
    now: DateTime<Utc>,
) -> Failures {
    let lives = |identity: &Option<String>| {
        let token = stored.get(identity);
        token.is_some_and(|token| token.expires_at - now > ENOUGH)
    };
    let mut failures = Vec::new();
    for (identity, reason) in failed {
        let name = name_of(identity.as_ref());
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
        if permanent || !lives(&identity) {
            failures.push((name, reason));
        } else {
            tracing::warn!(identity = name, %reason, "token was not renewed; the stored one lives until the next runs");
        }
    }
    Failures(failures)
}

fn told(stored: &Tokens, fresh: &Tokens) -> Vec<Renewed> {
    let each = stored.iter().map(|(identity, token)| Renewed {
        identity: name_of(identity.as_ref()),
        renewed: fresh
            .get(identity)
            .is_some_and(|fresh| fresh.requested_at == token.requested_at),
        expires_at: token.expires_at,
    });
    each.inspect(|token| {
        if token.renewed {
            count(Count::TokenRefreshed, 1);
            tracing::info!(identity = token.identity, expires_at = %token.expires_at, "token renewed");
        }
    })
    .collect()
}

fn name_of(identity: Option<&String>) -> String {
    identity.map_or_else(|| "primary".to_owned(), Clone::clone)
}
