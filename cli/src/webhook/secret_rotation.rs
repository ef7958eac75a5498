//! The stored webhook secret, and the steps of its rotation.
//!
//! Nylas signs with a new secret as soon as it has made it, without an overlap, and shows it only
//! once (Nylas facts §2). So the rotation has these steps:
//!
//! 1. *announce*: a version of the secret that is only a notice gets the label `AWSPENDING`. From
//!    now on the receiver answers a delivery that it cannot verify with 503, which Nylas retries,
//!    instead of 401, which it does not.
//! 2. Nylas makes the new secret.
//! 3. *store*: the new value becomes `AWSCURRENT` and the previous value `AWSPREVIOUS`, so that
//!    deliveries that are already on the way still verify.
//! 4. *end*: `AWSPENDING` moves to the new value, which means that the rotation is over.
//!
//! | The process dies after | State that it leaves | Fixed by |
//! | --- | --- | --- |
//! | announce | the old secret is in force, and the notice exists: forged deliveries get 503 instead of 401 | rotating again |
//! | Nylas | the new secret is lost: deliveries get 503; Nylas sends each up to twice more, for 10 to 20 minutes, then the backfill finds the messages | rotating again |
//! | store | everything works; the notice exists, as above | rotating again |
//!
//! If Nylas rejects the request, it made no new secret, and the notice is removed. A notice from an
//! earlier rotation stays, because Nylas may sign with the secret of that rotation.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use mailverse::clients::aws;
use mailverse::clients::aws::secrets;
use mailverse::clients::aws::secrets::{SecretError, Stage, Stored};
use secrecy::{ExposeSecret, SecretString};

/// The version label of a rotation in progress, as in rotations by Secrets Manager itself.
const PENDING: &str = "AWSPENDING";

/// The value of the announced version. It is not a secret: nothing is verified with it.
const NOTICE: &str = "a rotation of the webhook secret is under way";

/// Secrets Manager refused, or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Read(#[from] SecretError),
    #[error("secret {id}: {cause}")]
    Call { id: String, cause: String },
}

/// The secret named by `WEBHOOK_SECRET_ID`.
pub(crate) struct StoredSecret {
    client: Client,
    id: String,
}

/// The state of the stored secret.
pub(crate) struct Held {
    /// The value in force; `None` if no value was stored yet.
    pub(crate) value: Option<SecretString>,
    /// Whether a rotation was announced and has not ended.
    pub(crate) in_rotation: bool,
}

/// The notice that announces a rotation.
pub(crate) struct Announced {
    version: String,
    /// Whether it replaced a notice that an earlier rotation left.
    was_open: bool,
}

/// The result of removing a notice when there is no new secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakenBack {
    Yes,
    /// The notice stays, because an earlier rotation is still open.
    StillOpen,
}

impl StoredSecret {
    pub(crate) fn new(client: Client, id: String) -> Self {
        Self { client, id }
    }

    /// Reads the state of the secret.
    ///
    /// # Errors
    /// [`StoreError`]: check the name of the secret and the right to read it, then try again.
    pub(crate) async fn held(&self) -> Result<Held, StoreError> {
        let current = secrets::read(&self.client, &self.id, Stage::Current).await?;
        let pending = secrets::read(&self.client, &self.id, Stage::Pending).await?;
        let Stored::Value { text: current, .. } = current else {
            return Ok(Held {
                value: None,
                in_rotation: false,
            });
        };
        let in_rotation = match pending {
            Stored::Value { text, .. } => text.expose_secret() != current.expose_secret(),
            Stored::Nothing => false,
        };
        Ok(Held {
            value: Some(current),
            in_rotation,
        })
    }

    /// Step 1: stores the notice.
    ///
    /// Returns `None` without storing anything if no value is in force: the receiver then answers
    /// 503 anyway, and the notice would become the value.
    ///
    /// # Errors
    /// [`StoreError`], also if the secret does not exist. Nylas was not asked for anything yet.
    pub(crate) async fn announce(&self) -> Result<Option<Announced>, StoreError> {
        let described = self.client.describe_secret().secret_id(&self.id).send();
        described.await.map_err(|error| self.failed(&error))?;
        let held = self.held().await?;
        if held.value.is_none() {
            return Ok(None);
        }
        let put = self.client.put_secret_value().secret_id(&self.id);
        let put = put.secret_string(NOTICE).version_stages(PENDING).send();
        let put = put.await.map_err(|error| self.failed(&error))?;
        Ok(put.version_id.map(|version| Announced {
            version,
            was_open: held.in_rotation,
        }))
    }

    /// Removes the notice. Replaces steps 3 and 4 if Nylas made no new secret.
    pub(crate) async fn take_back(&self, announced: Announced) -> Result<TakenBack, StoreError> {
        if announced.was_open {
            return Ok(TakenBack::StillOpen);
        }
        let call = self.client.update_secret_version_stage();
        let call = call.secret_id(&self.id).version_stage(PENDING);
        let call = call.remove_from_version_id(announced.version).send();
        call.await.map_err(|error| self.failed(&error))?;
        Ok(TakenBack::Yes)
    }

    /// Step 3: stores the new value. Returns the version that holds it.
    pub(crate) async fn store(&self, value: &SecretString) -> Result<String, StoreError> {
        let put = self.client.put_secret_value().secret_id(&self.id);
        let put = put.secret_string(value.expose_secret()).send();
        let put = put.await.map_err(|error| self.failed(&error))?;
        Ok(put.version_id.unwrap_or_default())
    }

    /// Step 4: moves `AWSPENDING` from the notice to the version `stored`.
    pub(crate) async fn end(&self, announced: Announced, stored: String) -> Result<(), StoreError> {
        let call = self.client.update_secret_version_stage();
        let call = call.secret_id(&self.id).version_stage(PENDING);
        let call = call.remove_from_version_id(announced.version);
        let call = call.move_to_version_id(stored).send();
        call.await.map(drop).map_err(|error| self.failed(&error))
    }

    fn failed<E: ProvideErrorMetadata>(&self, error: &SdkError<E>) -> StoreError {
        StoreError::Call {
            id: self.id.clone(),
            cause: aws::describe(error),
        }
    }
}
