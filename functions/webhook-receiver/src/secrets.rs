//! Where the webhook secrets come from, and when they are read again.
//!
//! The secret comes into being only after the receiver has answered Nylas' challenge, so nothing is read at the start: the
//! first delivery reads both versions (`AWSCURRENT`, `AWSPREVIOUS`) and the process keeps them. A signature that matches
//! neither may mean that the secret was rotated since, so the secret is then read again, at most once a minute, and the
//! same delivery is checked once more.
//!
//! Nylas signs with a new secret from the moment that it has made one, and what it is told with 401 it never sends again. So
//! nothing is called forged while the new secret may be on its way to the store: `mailverse webhook rotate` marks the
//! rotation there (a version `AWSPENDING` that differs from the current one) before it asks Nylas.
//!
//! | State | Answer |
//! | --- | --- |
//! | a secret matches | go on |
//! | none matches, they were read for this very delivery, and no rotation is under way | 401, which Nylas does not send again |
//! | none matches, and a rotation is under way, or the secrets were read for an earlier delivery of the last minute | 503, which Nylas sends again |
//! | the store does not answer, or did not within the last 5 seconds | 503: it may be the rotated secret that we cannot see |
//! | no secret yet, a blank one, or the one of Nylas' test events | 503, and an error in the log: our side is not set up |

use std::ops::Range;

use aws_sdk_secretsmanager::Client;
use chrono::{DateTime, TimeDelta, Utc};
use mailverse::secrets::failure::RecentFailure;
use mailverse::secrets::{SecretError, Stage, Stored, read};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use crate::signature::{Key, Keys, SecretProblem, Signature, VerifiedBody};

/// How long nothing is read again after it was. Whoever sends wrong signatures costs one reading in this time.
const FRESH: Range<TimeDelta> = TimeDelta::zero()..TimeDelta::seconds(60);

/// The same while a rotation is under way, which takes seconds: genuine deliveries wait for its end.
const FRESH_IN_ROTATION: Range<TimeDelta> = TimeDelta::zero()..TimeDelta::seconds(5);

/// What the check of a signature found.
pub enum Checked<'a> {
    /// Signed with one of our secrets.
    Genuine(VerifiedBody<'a>),
    /// Not signed with any of them.
    Forged,
    /// Not signed with any that we know, and there may be one that we do not know yet.
    Undecided,
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
    read_again: Option<Reading>,
    /// The last reading, if the store did not answer.
    failed: Option<RecentFailure>,
}

/// When the secrets were read because none matched, and whether a rotation was under way.
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
            // A secret that is missing or unusable is asked for again at once: somebody may be storing it.
            Err(SecretsUnavailable::Missing | SecretsUnavailable::Unusable(_)) | Ok(_) => None,
        };
        checked
    }
}

impl Cache {
    /// Asks the store and checks once more. When that fails, the known secrets stay.
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
        // After the secrets, and it is enough: a rotation that began since then signed nothing that is here already, and one that ended since then
        // leaves a version that differs from what was read.
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

/// The value in force, and the keys of it and of the one before.
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

// A previous version that is no secret is what a first set-up leaves behind (the template's empty value, say).
fn usable_previous(secret: &SecretString) -> Option<Key> {
    Key::new(secret)
        .inspect_err(|problem| tracing::info!(%problem, "the previous version of the webhook secret is left out"))
        .ok()
}

#[cfg(test)]
mod tests;
