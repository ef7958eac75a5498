//! Reads and writes AWS Secrets Manager.
//!
//! Environment variables hold the name of a secret. Its value is a [`SecretString`] from the moment
//! it is read. After a failure, the store is not asked again for a short time: see [`mod@failure`].

pub mod failure;

use std::ops::Range;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use aws_sdk_secretsmanager::operation::update_secret_version_stage::UpdateSecretVersionStageError;
use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use self::failure::RecentFailure;
use crate::clients::aws;

/// How long a secret that was read is used before it is read again.
const FRESH: Range<TimeDelta> = TimeDelta::zero()..TimeDelta::hours(1);

/// How long a doubtful secret is used before it is read again. A secret is doubtful after a service
/// rejected it or after reading it again failed.
const TRIED: Range<TimeDelta> = TimeDelta::zero()..TimeDelta::minutes(1);

/// The label of a version that is about to become the current one.
///
/// The next writer moves the label to its own version. An abandoned version is then left without a
/// label, and Secrets Manager deletes versions without labels.
const CANDIDATE: &str = "CANDIDATE";

/// A version of a secret, by its staging label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The value in force (`AWSCURRENT`).
    Current,
    /// The value before it (`AWSPREVIOUS`).
    Previous,
    /// The new value of a rotation in progress (`AWSPENDING`); after the rotation, the value in
    /// force.
    Pending,
}

/// The result of reading one version of a secret.
pub enum Stored {
    /// The version exists.
    Value {
        /// The value.
        text: SecretString,
        /// The version's id.
        version: String,
    },
    /// The secret has no such version, or does not exist.
    Nothing,
}

/// Whether a new value came into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It did.
    Yes,
    /// Another writer has replaced the expected version in the meantime.
    AnotherWasFaster,
}

/// The secret store could not be reached or rejected the call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("secret {id}: {cause}")]
pub struct SecretError {
    id: String,
    cause: String,
}

impl SecretError {
    /// Another writer replaced the secret at every attempt.
    pub(crate) fn contended(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            cause: "other writers replaced the value at every attempt".to_owned(),
        }
    }
}

/// A secret that a client needs for every call: a fixed value, or read from the store and cached in
/// the process for an hour.
pub enum SecretSource {
    /// A fixed value.
    Given(SecretString),
    /// The secret with this name in Secrets Manager.
    Stored {
        /// The store.
        client: Client,
        /// Name or ARN.
        id: String,
        /// The cached value. Locked while the store is read, so that concurrent callers cause one
        /// read.
        kept: Mutex<Known>,
    },
}

/// The cache of a stored secret.
#[derive(Default)]
pub struct Known {
    kept: Option<Cached>,
    /// The last read, if it failed while no value was cached.
    failed: Option<RecentFailure>,
}

/// A secret that was read.
pub(crate) struct Cached {
    value: SecretString,
    read_at: DateTime<Utc>,
    /// A service rejected the value, or reading it again failed.
    doubtful: bool,
    /// When the value was last read again because it was doubtful.
    asked_again_at: Option<DateTime<Utc>>,
}

impl Cached {
    fn suffices(&self, now: DateTime<Utc>) -> bool {
        // If the clock was set back, the age is negative and the secret is read again.
        if self.doubtful {
            self.asked_again_at
                .is_some_and(|at| TRIED.contains(&(now - at)))
        } else {
            FRESH.contains(&(now - self.read_at))
        }
    }

    /// Returns the new cache entry after the store was read again.
    fn after_read(self, read: Result<SecretString, SecretError>, now: DateTime<Utc>) -> Self {
        let asked_again_at = Some(now);
        match read {
            Ok(value) => Self {
                value,
                read_at: now,
                doubtful: false,
                asked_again_at,
            },
            Err(error) => {
                tracing::warn!(%error, "failed to read a secret again; keeping the cached value");
                Self {
                    doubtful: true,
                    asked_again_at,
                    ..self
                }
            }
        }
    }
}

impl SecretSource {
    /// Creates a source for the secret `id` in the store. Reads nothing yet.
    #[must_use]
    pub fn stored(client: Client, id: String) -> Self {
        Self::Stored {
            client,
            id,
            kept: Mutex::default(),
        }
    }

    /// Returns the value. If the store does not answer, returns the cached value, whatever its age.
    ///
    /// # Errors
    /// [`SecretError`]: let the messages be redelivered. For five seconds after a failure the store
    /// is not asked again.
    pub async fn get(&self) -> Result<SecretString, SecretError> {
        let (client, id, known) = match self {
            Self::Given(value) => return Ok(value.clone()),
            Self::Stored { client, id, kept } => (client, id, kept),
        };
        let mut known = known.lock().await;
        // Read the clock after waiting for the lock: another caller may have read the store
        // meanwhile.
        let now = Utc::now();
        if let Some(kept) = known.kept.as_ref().filter(|kept| kept.suffices(now)) {
            return Ok(kept.value.clone());
        }
        let failed = known.failed.as_ref();
        if let Some(error) = failed.and_then(|failure| failure.error_at(now)) {
            return Err(error.clone());
        }
        // Boxed, because the SDK's future, nested below a handler, is too deep for the compiler's
        // layout computation.
        let read = Box::pin(read_required(client, id)).await;
        let kept = match (known.kept.take(), read) {
            (Some(kept), read) => kept.after_read(read, now),
            (None, Ok(value)) => Cached {
                value,
                read_at: now,
                doubtful: false,
                asked_again_at: None,
            },
            (None, Err(error)) => {
                known.failed = Some(RecentFailure::new(error.clone(), Utc::now()));
                return Err(error);
            }
        };
        known.failed = None;
        Ok(known.kept.insert(kept).value.clone())
    }

    /// Records that a service rejected the value. The next [`Self::get`] reads it again, unless
    /// that was done within the last minute.
    pub async fn refused(&self) {
        if let Self::Stored { kept, .. } = self
            && let Some(kept) = kept.lock().await.kept.as_mut()
        {
            kept.doubtful = true;
        }
    }
}

/// Reads one version of the secret `id`.
///
/// # Errors
/// [`SecretError`]: answer 503, or let the queue deliver the message again.
pub async fn read(client: &Client, id: &str, stage: Stage) -> Result<Stored, SecretError> {
    let label = match stage {
        Stage::Current => "AWSCURRENT",
        Stage::Previous => "AWSPREVIOUS",
        Stage::Pending => "AWSPENDING",
    };
    match client
        .get_secret_value()
        .secret_id(id)
        .version_stage(label)
        .send()
        .await
    {
        Ok(found) => Ok(found.secret_string.map_or(Stored::Nothing, |text| {
            let version = found.version_id.unwrap_or_default();
            let text = text.into();
            Stored::Value { text, version }
        })),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(GetSecretValueError::is_resource_not_found_exception) =>
        {
            Ok(Stored::Nothing)
        }
        Err(error) => Err(failure(id, &error)),
    }
}

/// Reads the value in force and trims it, for a program that cannot start without it.
///
/// # Errors
/// [`SecretError`], also if the secret has no value yet.
pub async fn read_required(client: &Client, id: &str) -> Result<SecretString, SecretError> {
    match read(client, id, Stage::Current).await? {
        Stored::Value { text, .. } if !text.expose_secret().trim().is_empty() => {
            Ok(text.expose_secret().trim().to_owned().into())
        }
        Stored::Value { .. } | Stored::Nothing => Err(SecretError {
            id: id.to_owned(),
            cause: "it has no value yet; store one with `aws secretsmanager put-secret-value`"
                .to_owned(),
        }),
    }
}

/// Makes `value` the secret's value in force. The previous one stays readable as
/// [`Stage::Previous`].
///
/// # Errors
/// [`SecretError`]: the old value is still in force.
pub async fn write(client: &Client, id: &str, value: &SecretString) -> Result<(), SecretError> {
    let call = client
        .put_secret_value()
        .secret_id(id)
        .secret_string(value.expose_secret());
    call.send()
        .await
        .map(drop)
        .map_err(|error| failure(id, &error))
}

/// Makes `value` the secret's value in force, if the version `expected` still is.
///
/// `None` expects that the secret has no value yet. If two writers store the first value at the
/// same time, the later one wins, since Secrets Manager puts a first version in force by itself.
///
/// The new version is first stored beside the one in force and then takes over its label. Secrets
/// Manager moves the label only from the version that is named. Source: AWS Secrets Manager API
/// Reference, `UpdateSecretVersionStage`, `RemoveFromVersionId`.
///
/// # Errors
/// [`SecretError`]: the old value is still in force.
pub async fn replace(
    client: &Client,
    id: &str,
    value: &SecretString,
    expected: Option<&str>,
) -> Result<Replaced, SecretError> {
    let Some(expected) = expected else {
        return write(client, id, value).await.map(|()| Replaced::Yes);
    };
    let put = client
        .put_secret_value()
        .secret_id(id)
        .secret_string(value.expose_secret())
        .version_stages(CANDIDATE);
    let written = put.send().await.map_err(|error| failure(id, &error))?;
    let label = client
        .update_secret_version_stage()
        .secret_id(id)
        .version_stage("AWSCURRENT")
        .remove_from_version_id(expected)
        .set_move_to_version_id(written.version_id);
    match label.send().await {
        Ok(_) => Ok(Replaced::Yes),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(UpdateSecretVersionStageError::is_invalid_parameter_exception) =>
        {
            Ok(Replaced::AnotherWasFaster)
        }
        Err(error) => Err(failure(id, &error)),
    }
}

fn failure<E: ProvideErrorMetadata>(id: &str, error: &SdkError<E>) -> SecretError {
    SecretError {
        id: id.to_owned(),
        cause: aws::describe(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
    }

    fn kept() -> Cached {
        Cached {
            value: "old".into(),
            read_at: at(0),
            doubtful: false,
            asked_again_at: None,
        }
    }

    fn failure() -> SecretError {
        SecretError {
            id: "s".to_owned(),
            cause: "not reachable".to_owned(),
        }
    }

    #[test]
    fn a_secret_is_cached_for_an_hour() {
        for (seconds, suffices) in [(0, true), (3_599, true), (3_600, false), (-1, false)] {
            assert_eq!(kept().suffices(at(seconds)), suffices, "{seconds}");
        }
    }

    #[test]
    fn a_rejected_secret_is_read_again_at_once_and_then_once_a_minute() {
        let mut kept = kept();
        kept.doubtful = true;
        assert!(!kept.suffices(at(1)), "the first refusal");
        let mut kept = kept.after_read(Ok("new".into()), at(1));
        assert!(kept.suffices(at(2)) && kept.value.expose_secret() == "new");
        kept.doubtful = true;
        assert!(kept.suffices(at(60)), "refused again");
        assert!(!kept.suffices(at(61)));
    }

    #[test]
    fn a_failed_read_keeps_the_cached_secret_and_is_retried_once_a_minute() {
        let kept = kept().after_read(Err(failure()), at(3_600));
        assert_eq!(kept.value.expose_secret(), "old");
        assert!(kept.suffices(at(3_659)));
        assert!(!kept.suffices(at(3_660)));
    }
}
