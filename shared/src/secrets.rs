//! Reading and writing AWS Secrets Manager.
//!
//! Environment variables hold the name of a secret; its value is a [`SecretString`] from the moment it is read.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;

use crate::aws;

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
    Value(SecretString),
    /// The secret exists without such a version, or does not exist.
    Nothing,
}

/// The secret store could not be reached or refused the call.
#[derive(Debug, thiserror::Error)]
#[error("secret {id}: {cause}")]
pub struct SecretError {
    id: String,
    cause: String,
}

/// A secret that a client needs for every call: given, or read once from the store and kept in the process.
pub enum SecretSource {
    /// This value.
    Given(SecretString),
    /// The secret of this name in Secrets Manager.
    Stored {
        /// The store.
        client: Client,
        /// Name or ARN.
        id: String,
        /// What was read.
        kept: Mutex<Option<SecretString>>,
    },
}

impl SecretSource {
    /// The secret `id` in the store, not read yet.
    #[must_use]
    pub fn stored(client: Client, id: String) -> Self {
        Self::Stored {
            client,
            id,
            kept: Mutex::new(None),
        }
    }

    /// The value.
    ///
    /// # Errors
    /// [`SecretError`]: let the messages come back.
    pub async fn get(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Given(value) => Ok(value.clone()),
            Self::Stored { client, id, kept } => {
                let mut kept = kept.lock().await;
                if let Some(value) = kept.as_ref() {
                    return Ok(value.clone());
                }
                // Boxed, because the SDK's future, nested below a handler, is more than the compiler lays out.
                let value = Box::pin(read_required(client, id)).await?;
                *kept = Some(value.clone());
                Ok(value)
            }
        }
    }

    /// Forgets what was read, because it was refused: the next call reads again.
    pub async fn forget(&self) {
        if let Self::Stored { kept, .. } = self {
            *kept.lock().await = None;
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
        Ok(found) => Ok(found
            .secret_string
            .map_or(Stored::Nothing, |text| Stored::Value(text.into()))),
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
        Stored::Value(value) if !value.expose_secret().trim().is_empty() => {
            Ok(value.expose_secret().trim().to_owned().into())
        }
        Stored::Value(_) | Stored::Nothing => Err(SecretError {
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

fn failure<E: ProvideErrorMetadata>(id: &str, error: &SdkError<E>) -> SecretError {
    SecretError {
        id: id.to_owned(),
        cause: aws::describe(error),
    }
}
