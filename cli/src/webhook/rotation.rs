//! The stored webhook secret, and the order in which another one takes its place.
//!
//! Nylas signs with a new secret from the moment that it has made it, with no overlap (Nylas facts §2), and shows it once. So:
//!
//! 1. *announce*: a version of the secret that is only a notice gets the label `AWSPENDING`. From here on the receiver answers what it cannot verify with
//!    503, which Nylas sends again, instead of 401, which it does not.
//! 2. Nylas makes the new secret.
//! 3. *store*: the new value becomes `AWSCURRENT`, and the one before it `AWSPREVIOUS`, by which deliveries that are under way still verify.
//! 4. *end*: `AWSPENDING` moves to the new value, which means that the rotation is over.
//!
//! | The process dies after | Left behind | Mended by |
//! | --- | --- | --- |
//! | announce | the old secret in force, and the notice: forged deliveries get 503 instead of 401 | rotating again |
//! | Nylas | a secret that nobody knows: deliveries get 503; Nylas sends each up to twice more, 10 to 20 minutes long, then the backfill finds the mail | rotating again |
//! | store | everything works; the notice as above | rotating again |
//!
//! Where Nylas refuses, it made no other secret, and the notice is taken back. One that an earlier rotation left stays: that one's secret may be what Nylas signs with.

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use mailverse::aws;
use mailverse::secrets::{self, SecretError, Stage, Stored};
use secrecy::{ExposeSecret, SecretString};

/// The label of a rotation that is under way, as AWS's own rotations use it.
const PENDING: &str = "AWSPENDING";

/// What the announced version holds. It is no secret: nothing is verified by it.
const NOTICE: &str = "a rotation of the webhook secret is under way";

/// The secret store refused, or did not answer.
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

/// What is known of it.
pub(crate) struct Held {
    /// The value in force, if there is one.
    pub(crate) value: Option<SecretString>,
    /// A rotation was announced, and its end was not.
    pub(crate) in_rotation: bool,
}

/// A notice.
pub(crate) struct Announced {
    version: String,
    /// It took the place of one that an earlier rotation had left.
    was_open: bool,
}

/// What became of a notice without a new secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakenBack {
    Yes,
    /// It stays for the rotation that was open before.
    StillOpen,
}

impl StoredSecret {
    pub(crate) fn new(client: Client, id: String) -> Self {
        Self { client, id }
    }

    /// What the store holds.
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

    /// Step 1. Fails where there is no such secret, before Nylas is asked for anything. `None` where no value is in force: the receiver then
    /// answers 503 anyway, and the notice would become the value.
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

    /// Instead of the steps 3 and 4, when Nylas made no other secret.
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

    /// Step 3. The version that holds the new value.
    pub(crate) async fn store(&self, value: &SecretString) -> Result<String, StoreError> {
        let put = self.client.put_secret_value().secret_id(&self.id);
        let put = put.secret_string(value.expose_secret()).send();
        let put = put.await.map_err(|error| self.failed(&error))?;
        Ok(put.version_id.unwrap_or_default())
    }

    /// Step 4.
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
