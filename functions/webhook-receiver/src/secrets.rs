//! Where the webhook secrets come from, and when they are read again.
//!
//! The secret comes into being only after the receiver has answered Nylas' challenge, so nothing is read at the start: the
//! first delivery reads both versions (`AWSCURRENT`, `AWSPREVIOUS`) and the process keeps them. A signature that matches
//! neither may mean that the secret was rotated since, so the secret is then read again, at most once a minute, and the
//! same delivery is checked once more.
//!
//! | State | Answer |
//! | --- | --- |
//! | a secret matches | go on |
//! | none matches, and they were read within the last minute | 401, which Nylas does not send again |
//! | the store does not answer | 503, which Nylas sends again: it may be the rotated secret that we cannot see |
//! | no secret yet, a blank one, or the one of Nylas' test events | 503, and an error in the log: our side is not set up |

use std::ops::Range;

use aws_sdk_secretsmanager::Client;
use chrono::{DateTime, TimeDelta, Utc};
use mailverse::secrets::{SecretError, Stage, Stored, read};
use secrecy::SecretString;
use tokio::sync::Mutex;

use crate::signature::{Key, Keys, SecretProblem, Signature, VerifiedBody};

/// How long a secret counts as fresh after it was read again. Whoever sends wrong signatures costs one reading in this time.
const FRESH: Range<TimeDelta> = TimeDelta::zero()..TimeDelta::seconds(60);

/// What the check of a signature found.
pub enum Checked<'a> {
    /// Signed with one of our secrets.
    Genuine(VerifiedBody<'a>),
    /// Not signed with any of them.
    Forged,
}

/// The secrets could not be had. Answer 503.
#[derive(Debug, thiserror::Error)]
pub enum SecretsUnavailable {
    /// The secret store did not answer.
    #[error(transparent)]
    Store(#[from] SecretError),
    /// Nobody has stored the secret yet.
    #[error("no webhook secret is stored yet")]
    Missing,
    /// What is stored is no secret.
    #[error(transparent)]
    Unusable(#[from] SecretProblem),
}

/// The secrets that deliveries are checked against.
pub struct WebhookSecrets(Source);

enum Source {
    Fixed(Keys),
    Stored {
        client: Client,
        id: String,
        // Held while the store is asked, so that deliveries that arrive together ask once.
        cache: Mutex<Cache>,
    },
}

#[derive(Default)]
struct Cache {
    keys: Option<Keys>,
    read_again_at: Option<DateTime<Utc>>,
}

impl WebhookSecrets {
    /// These secrets, for a process that has no store: the command.
    #[must_use]
    pub fn fixed(current: Key, previous: Option<Key>) -> Self {
        Self(Source::Fixed(Keys { current, previous }))
    }

    /// The current and the previous version of the secret `id`.
    #[must_use]
    pub fn stored(client: Client, id: String) -> Self {
        Self(Source::Stored {
            client,
            id,
            cache: Mutex::default(),
        })
    }

    /// Checks `signature` over the raw bytes of `body`.
    ///
    /// # Errors
    /// [`SecretsUnavailable`]: it could not be found out; answer 503.
    pub async fn check<'a>(
        &self,
        signature: &Signature,
        body: &'a [u8],
        now: DateTime<Utc>,
    ) -> Result<Checked<'a>, SecretsUnavailable> {
        let (client, id, cache) = match &self.0 {
            Source::Fixed(keys) => return Ok(checked(keys, signature, body)),
            Source::Stored { client, id, cache } => (client, id, cache),
        };
        let mut cache = cache.lock().await;
        if let Some(keys) = &cache.keys {
            let fresh = cache
                .read_again_at
                .is_some_and(|at| FRESH.contains(&(now - at)));
            let known = checked(keys, signature, body);
            if fresh || matches!(known, Checked::Genuine(_)) {
                return Ok(known);
            }
            // When this fails, the known secrets stay, and the next wrong signature tries again.
            let keys = keys_in(client, id).await?;
            let known = checked(&keys, signature, body);
            *cache = Cache {
                keys: Some(keys),
                read_again_at: Some(now),
            };
            return Ok(known);
        }
        let keys = keys_in(client, id).await?;
        let known = checked(&keys, signature, body);
        cache.keys = Some(keys);
        Ok(known)
    }
}

fn checked<'a>(keys: &Keys, signature: &Signature, body: &'a [u8]) -> Checked<'a> {
    keys.verify(signature, body)
        .map_or(Checked::Forged, Checked::Genuine)
}

async fn keys_in(client: &Client, id: &str) -> Result<Keys, SecretsUnavailable> {
    let Stored::Value(current) = read(client, id, Stage::Current).await? else {
        return Err(SecretsUnavailable::Missing);
    };
    let current = Key::new(&current)?;
    let previous = match read(client, id, Stage::Previous).await? {
        Stored::Value(secret) => usable_previous(&secret),
        Stored::Nothing => None,
    };
    Ok(Keys { current, previous })
}

// A previous version that is no secret is what a first set-up leaves behind (the template's empty value, say).
fn usable_previous(secret: &SecretString) -> Option<Key> {
    Key::new(secret)
        .inspect_err(|problem| tracing::info!(%problem, "the previous version of the webhook secret is left out"))
        .ok()
}

#[cfg(test)]
mod tests;
