//! Reading and writing AWS Secrets Manager.
//!
//! Environment variables hold the name of a secret; its value is a [`SecretString`] from the moment it is read.
//! How long a store that does not answer is left in peace: [`mod@failure`].

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
use crate::aws;

/// For so long a secret that was read is taken for the one in force.
const FRESH: Range<TimeDelta> = TimeDelta::zero()..TimeDelta::hours(1);

/// A secret that was refused is read again at most once in this time, and so is one that could not be read again.
const TRIED: Range<TimeDelta> = TimeDelta::zero()..TimeDelta::minutes(1);

/// The label of a version that is about to become the one in force. Whoever writes next takes it along, so that versions without a label, which Secrets Manager
/// deletes, are all that is left behind.
const CANDIDATE: &str = "CANDIDATE";

/// Which version of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The value in force.
    Current,
    /// The one before it.
    Previous,
    /// What a rotation that is under way has announced; once it has ended, the value in force.
    Pending,
}

/// What a secret's version amounts to.
pub enum Stored {
    /// This value.
    Value {
        /// The value.
        text: SecretString,
        /// The version's id.
        version: String,
    },
    /// The secret exists without such a version, or does not exist.
    Nothing,
}

/// Whether a value became the one in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It did.
    Yes,
    /// Another version has taken the place of the expected one meanwhile.
    AnotherWasFaster,
}

/// The secret store could not be reached or refused the call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("secret {id}: {cause}")]
pub struct SecretError {
    id: String,
    cause: String,
}

impl SecretError {
    /// Others wrote it each time that we were about to.
    pub(crate) fn contended(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            cause: "others replace it without a pause".to_owned(),
        }
    }
}

/// A secret that a client needs for every call: given, or read from the store and kept in the process for an hour.
pub enum SecretSource {
    /// This value.
    Given(SecretString),
    /// The secret of this name in Secrets Manager.
    Stored {
        /// The store.
        client: Client,
        /// Name or ARN.
        id: String,
        /// What was read. Held while the store is asked, so that those who wait ask once.
        kept: Mutex<Known>,
    },
}

/// What is known of a stored secret.
#[derive(Default)]
pub struct Known {
    kept: Option<Kept>,
    /// The last reading, if it failed while no value was known.
    failed: Option<RecentFailure>,
}

/// A secret that was read.
pub struct Kept {
    value: SecretString,
    read_at: DateTime<Utc>,
    /// It was refused, or could not be read again.
    doubtful: bool,
    /// When doubt made the store be asked last.
    asked_again_at: Option<DateTime<Utc>>,
}

impl Kept {
    fn suffices(&self, now: DateTime<Utc>) -> bool {
        // A clock that was put back makes an age negative, and the secret is read again.
        if self.doubtful {
            self.asked_again_at
                .is_some_and(|at| TRIED.contains(&(now - at)))
        } else {
            FRESH.contains(&(now - self.read_at))
        }
    }

    /// What is known after the store was asked again.
    fn after(self, read: Result<SecretString, SecretError>, now: DateTime<Utc>) -> Self {
        let asked_again_at = Some(now);
        match read {
            Ok(value) => Self {
                value,
                read_at: now,
                doubtful: false,
                asked_again_at,
            },
            Err(error) => {
                tracing::warn!(%error, "a secret could not be read again; the known one stays");
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
    /// The secret `id` in the store, not read yet.
    #[must_use]
    pub fn stored(client: Client, id: String) -> Self {
        Self::Stored {
            client,
            id,
            kept: Mutex::default(),
        }
    }

    /// The value. Of a store that does not answer, the last value that is known.
    ///
    /// # Errors
    /// [`SecretError`]: let the messages come back. For five seconds after a failure the store is not asked again.
    pub async fn get(&self) -> Result<SecretString, SecretError> {
        let (client, id, known) = match self {
            Self::Given(value) => return Ok(value.clone()),
            Self::Stored { client, id, kept } => (client, id, kept),
        };
        let mut known = known.lock().await;
        // After the wait for the lock: another may have asked the store meanwhile.
        let now = Utc::now();
        if let Some(kept) = known.kept.as_ref().filter(|kept| kept.suffices(now)) {
            return Ok(kept.value.clone());
        }
        let failed = known.failed.as_ref();
        if let Some(error) = failed.and_then(|failure| failure.error_at(now)) {
            return Err(error.clone());
        }
        // Boxed, because the SDK's future, nested below a handler, is more than the compiler lays out.
        let read = Box::pin(read_required(client, id)).await;
        let kept = match (known.kept.take(), read) {
            (Some(kept), read) => kept.after(read, now),
            (None, Ok(value)) => Kept {
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

    /// The value was refused: it is read again, if that was not done within the last minute.
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

/// Reads the value in force, for a program that cannot start without it.
///
/// # Errors
/// [`SecretError`] also when the secret has no value yet.
pub async fn read_required(client: &Client, id: &str) -> Result<SecretString, SecretError> {
    match read(client, id, Stage::Current).await? {
        Stored::Value { text, .. } if !text.expose_secret().trim().is_empty() => {
            Ok(text.expose_secret().trim().to_owned().into())
        }
        Stored::Value { .. } | Stored::Nothing => Err(SecretError {
            id: id.to_owned(),
            cause: "it has no value yet; put one in with `aws secretsmanager put-secret-value`"
                .to_owned(),
        }),
    }
}

/// Makes `value` the secret's value in force; the one before it stays readable as [`Stage::Previous`].
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

/// Makes `value` the secret's value in force, if the version `expected` still is. `None` expects that there is none; of two that write the first one at once,
/// the later stays, since Secrets Manager puts a first version in force by itself.
///
/// The version is written beside the one in force and then takes its label, which Secrets Manager moves only from the version that is named. Source: AWS Secrets
/// Manager API Reference, `UpdateSecretVersionStage`, `RemoveFromVersionId`.
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

    fn kept() -> Kept {
        Kept {
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
    fn a_secret_is_kept_for_an_hour() {
        for (seconds, suffices) in [(0, true), (3_599, true), (3_600, false), (-1, false)] {
            assert_eq!(kept().suffices(at(seconds)), suffices, "{seconds}");
        }
    }

    #[test]
    fn a_secret_that_is_refused_is_read_again_at_once_and_then_once_a_minute() {
        let mut kept = kept();
        kept.doubtful = true;
        assert!(!kept.suffices(at(1)), "the first refusal");
        let mut kept = kept.after(Ok("new".into()), at(1));
        assert!(kept.suffices(at(2)) && kept.value.expose_secret() == "new");
        kept.doubtful = true;
        assert!(kept.suffices(at(60)), "refused again");
        assert!(!kept.suffices(at(61)));
    }

    #[test]
    fn a_secret_that_cannot_be_read_again_stays_and_is_asked_for_once_a_minute() {
        let kept = kept().after(Err(failure()), at(3_600));
        assert_eq!(kept.value.expose_secret(), "old");
        assert!(kept.suffices(at(3_659)));
        assert!(!kept.suffices(at(3_660)));
    }
}
