//! The services behind the ledger, as far as the environment names them: a verb that only reads does what it can without.

use aws_config::SdkConfig;
use mailverse::dataverse::DataverseClient;
use mailverse::entra::store::TokenStore;
use mailverse::entra::{Origin, TokenSource};
use mailverse::env::Settings;
use mailverse::http;
use mailverse::nylas::NylasClient;
use mailverse::secrets::SecretSource;
use url::Url;

/// Where Nylas is, and the name of the secret with its key.
pub(crate) struct NylasSettings {
    url: Url,
    key: String,
}

impl NylasSettings {
    /// `None` when the environment does not name the key's secret.
    pub(crate) fn read<L: Fn(&str) -> Option<String>>(settings: &mut Settings<L>) -> Option<Self> {
        settings.optional("NYLAS_API_KEY_SECRET_ID")?;
        Some(Self::required(settings))
    }

    /// For a verb that does nothing without Nylas.
    pub(crate) fn required<L: Fn(&str) -> Option<String>>(settings: &mut Settings<L>) -> Self {
        Self {
            url: settings.service_url("NYLAS_API_URL", Some("https://api.us.nylas.com")),
            key: settings.required("NYLAS_API_KEY_SECRET_ID"),
        }
    }

    /// Where Nylas is.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Nothing is called yet.
    pub(crate) fn connect(self, aws: &SdkConfig) -> Result<NylasClient, reqwest::Error> {
        let secrets = aws_sdk_secretsmanager::Client::new(aws);
        let key = SecretSource::stored(secrets, self.key);
        Ok(NylasClient::new(http::client()?, &self.url, key))
    }
}

/// Where Dataverse is, and the name of the secret with its token.
pub(crate) struct DataverseSettings {
    url: Url,
    token: String,
}

impl DataverseSettings {
    /// `None` when the environment names neither; naming one of them alone is a mistake.
    pub(crate) fn read<L: Fn(&str) -> Option<String>>(settings: &mut Settings<L>) -> Option<Self> {
        let names = ["DATAVERSE_URL", "TOKEN_SECRET_ID"];
        if names.iter().all(|name| settings.optional(name).is_none()) {
            return None;
        }
        Some(Self::required(settings))
    }

    /// For a verb that does nothing without Dataverse.
    pub(crate) fn required<L: Fn(&str) -> Option<String>>(settings: &mut Settings<L>) -> Self {
        Self {
            url: settings.service_url("DATAVERSE_URL", None),
            token: settings.required("TOKEN_SECRET_ID"),
        }
    }

    /// The stored token by itself.
    pub(crate) fn tokens(&self, aws: &SdkConfig) -> TokenStore {
        let secrets = aws_sdk_secretsmanager::Client::new(aws);
        TokenStore::new(secrets, self.token.clone())
    }

    /// Nothing is called yet.
    pub(crate) fn connect(
        self,
        aws: &SdkConfig,
    ) -> Result<(DataverseClient, TokenSource), reqwest::Error> {
        let tokens = TokenSource::new(Origin::Store(self.tokens(aws)));
        Ok((DataverseClient::new(http::client()?, &self.url), tokens))
    }
}
