//! Reads the webhook secrets and decides when to read them again.
//!
//! The secret only exists after the receiver has answered Nylas' challenge, so nothing is read at
//! startup. The first delivery reads both versions (`AWSCURRENT`, `AWSPREVIOUS`), and the process
//! caches them. A signature that matches neither may mean that the secret was rotated since. Then
//! the secret is read again, at most once a minute, and the delivery is checked again.
//!
//! Nylas signs with a new secret from the moment it is created, and never retries a delivery that
//! was answered with 401. So no delivery counts as forged while the new secret may not be stored
//! yet: `mailverse webhook rotate` marks the rotation in the store (a version `AWSPENDING` that
//! differs from the current one) before it asks Nylas for a new secret.
//!
//! | State | Answer |
//! | --- | --- |
//! | a secret matches | continue |
//! | none matches, they were read for this delivery, and no rotation is in progress | 401, which Nylas does not retry |
//! | none matches, and a rotation is in progress, or the secrets were read for an earlier delivery of the last minute | 503, which Nylas retries |
//! | the store is unavailable, or was within the last 5 seconds | 503: the delivery may be signed with a rotated secret that we cannot read |
//! | no secret yet, a blank one, or the one of Nylas' test events | 503, and an error in the log: the set-up is incomplete |

use std::ops::Range;

use aws_sdk_secretsmanager::Client;
use chrono::{DateTime, TimeDelta, Utc};
use mailverse::clients::aws::secrets::failure::RecentFailure;
use mailverse::clients::aws::secrets::{SecretError, Stage, Stored, read};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use crate::signature::{Key, Keys, SecretProblem, Signature, VerifiedBody};

/// How long the secrets are not read again after a reading, so that wrong signatures cause at most
/// one reading in that time.
const FRESH: Range<TimeDelta> = TimeDelta::zero()..TimeDelta::seconds(60);

/// The same during a rotation, which takes seconds: genuine deliveries wait for its end.
const FRESH_IN_ROTATION: Range<TimeDelta> = TimeDelta::zero()..TimeDelta::seconds(5);

/// The result of checking a signature.
pub enum Checked<'a> {
    /// The body was signed with one of our secrets.
    Genuine(VerifiedBody<'a>),
    /// The body was not signed with any of our secrets.
    Forged,
    /// The body was not signed with a known secret, but there may be a new one that was not read
    /// yet.
    Undecided,
}

/// The secrets are unavailable. Answer 503.
#[derive(Debug, thiserror::Error)]
pub enum SecretsUnavailable {
    /// The secret store is unavailable.
    #[error(transparent)]
    Store(#[from] SecretError),
    /// No secret is stored yet.
    #[error("no webhook secret is stored yet")]
    Missing,
    /// The stored value cannot be used as a secret.
    #[error(transparent)]
    Unusable(#[from] SecretProblem),
}

/// The secrets that deliveries are verified with.
pub struct WebhookSecrets(Source);

enum Source {
    Fixed(Keys),
    Stored {
        client: Client,
        id: String,
        // Locked while the store is read, so that concurrent deliveries read it once.
        cache: Mutex<Cache>,
    },
}

#[derive(Default)]
struct Cache {
    keys: Option<Keys>,
    read_again: Option<Reading>,
    /// The last reading, if the store was unavailable.
    failed: Option<RecentFailure>,
}

/// A reading of the secrets after none matched, and whether a rotation was in progress.
struct Reading {
    at: DateTime<Utc>,
    in_rotation: bool,
}

impl Reading {
    fn is_fresh(&self, now: DateTime<Utc>) -> bool {
        let fresh = if self.in_rotation {
            FRESH_IN_ROTATION
        } else {
            FRESH
        };
        fresh.contains(&(now - self.at))
    }
}

impl WebhookSecrets {
    /// Creates a source with fixed secrets, for the command, which has no store.
    #[must_use]
    pub fn fixed(current: Key, previous: Option<Key>) -> Self {
        Self(Source::Fixed(Keys { current, previous }))
    }

    /// Creates a source that reads the current and the previous version of the secret `id`.
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
    /// [`SecretsUnavailable`]: the signature could not be checked; answer 503.
    pub async fn check<'a>(
        &self,
        signature: &Signature,
        body: &'a [u8],
        now: DateTime<Utc>,
    ) -> Result<Checked<'a>, SecretsUnavailable> {
        let (client, id, cache) = match &self.0 {
            Source::Fixed(keys) => {
                let verified = keys.verify(signature, body);
                return Ok(verified.map_or(Checked::Forged, Checked::Genuine));
            }
            Source::Stored { client, id, cache } => (client, id, cache),
        };
        let mut cache = cache.lock().await;
        if let Some(keys) = &cache.keys {
            if let Some(verified) = keys.verify(signature, body) {
                return Ok(Checked::Genuine(verified));
            }
            if cache.read_again.as_ref().is_some_and(|it| it.is_fresh(now)) {
                return Ok(Checked::Undecided);
            }
        }
        let failed = cache.failed.as_ref();
        if let Some(error) = failed.and_then(|failure| failure.error_at(now)) {
            return Err(error.clone().into());
        }
        let checked = cache.read_and_check(client, id, signature, body, now).await;
        cache.failed = match &checked {
            Err(SecretsUnavailable::Store(error)) => Some(RecentFailure::new(error.clone(), now)),
            // A missing or unusable secret is read again at once: an operator may be storing it
            // now.
            Err(SecretsUnavailable::Missing | SecretsUnavailable::Unusable(_)) | Ok(_) => None,
        };
        checked
    }
}

impl Cache {
    /// Reads the store and checks again. If reading fails, the cached secrets are kept.
    async fn read_and_check<'a>(
        &mut self,
        client: &Client,
        id: &str,
        signature: &Signature,
        body: &'a [u8],
        now: DateTime<Utc>,
    ) -> Result<Checked<'a>, SecretsUnavailable> {
        let first = self.keys.is_none();
        let (current, keys) = keys_in(client, id).await?;
        let verified = keys.verify(signature, body);
        self.keys = Some(keys);
        if let Some(verified) = verified {
            return Ok(Checked::Genuine(verified));
        }
        // It is sufficient to read this after the secrets: a rotation that began since then has not
        // signed a delivery that is already here, and one that ended since then leaves a version
        // that differs from the one that was read.
        let in_rotation = match read(client, id, Stage::Pending).await? {
            Stored::Value { text: pending, .. } => {
                pending.expose_secret() != current.expose_secret()
            }
            Stored::Nothing => false,
        };
        self.read_again = (!first).then_some(Reading {
            at: now,
            in_rotation,
        });
        Ok(if in_rotation {
            Checked::Undecided
        } else {
            Checked::Forged
        })
    }
}

/// Returns the current value, and the keys of the current and the previous version.
async fn keys_in(client: &Client, id: &str) -> Result<(SecretString, Keys), SecretsUnavailable> {
    let Stored::Value { text: value, .. } = read(client, id, Stage::Current).await? else {
        return Err(SecretsUnavailable::Missing);
    };
    let current = Key::new(&value)?;
    let previous = match read(client, id, Stage::Previous).await? {
        Stored::Value { text, .. } => usable_previous(&text),
        Stored::Nothing => None,
    };
    Ok((value, Keys { current, previous }))
}

// A first set-up leaves a previous version that is not a secret (the template's empty value, for
// example).
fn usable_previous(secret: &SecretString) -> Option<Key> {
    Key::new(secret)
        .inspect_err(|problem| tracing::info!(%problem, "ignoring the previous version of the webhook secret"))
        .ok()
}

#[cfg(test)]
mod tests;
