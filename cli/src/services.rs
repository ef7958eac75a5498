//! Settings and clients of Nylas and Dataverse.
//!
//! Commands that only read treat both services as optional and report less without them.

use aws_config::SdkConfig;
use mailverse::clients::aws::secrets::SecretSource;
use mailverse::clients::dataverse::DataverseClient;
use mailverse::clients::entra::token_store::TokenStore;
use mailverse::clients::entra::{Origin, TokenSource};
use mailverse::clients::http;
use mailverse::clients::nylas::NylasClient;
use mailverse::env::Settings;
use url::Url;

/// The URL of Nylas and the name of the secret that holds the API key.
pub(crate) struct NylasSettings {
    url: Url,
    key: String,
}

impl NylasSettings {
    /// Reads the settings; returns `None` if `NYLAS_API_KEY_SECRET_ID` is not set.
    pub(crate) fn read<L: Fn(&str) -> Option<String>>(settings: &mut Settings<L>) -> Option<Self> {
        settings.optional("NYLAS_API_KEY_SECRET_ID")?;
        Some(Self::required(settings))
    }

    /// Reads the settings for a command that cannot work without Nylas.
    ///
    /// `settings` collects what is missing.
    pub(crate) fn required<L: Fn(&str) -> Option<String>>(settings: &mut Settings<L>) -> Self {
        Self {
            url: settings.service_url("NYLAS_API_URL", Some("https://api.us.nylas.com")),
            key: settings.required("NYLAS_API_KEY_SECRET_ID"),
        }
    }

    /// Returns the base URL of the Nylas API.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Creates the client. Makes no call yet, not even to read the secret.
    pub(crate) fn connect(self, aws: &SdkConfig) -> Result<NylasClient, reqwest::Error> {
        let secrets = aws_sdk_secretsmanager::Client::new(aws);
        let key = SecretSource::stored(secrets, self.key);
        Ok(NylasClient::new(http::client()?, &self.url, key))
    }
}

/// The URL of Dataverse and the name of the secret that holds the token.
pub(crate) struct DataverseSettings {
    url: Url,
    token: String,
}

impl DataverseSettings {
    /// Reads the settings; returns `None` if neither is set.
    ///
    /// If only one of them is set, `settings` records the other as missing.
    pub(crate) fn read<L: Fn(&str) -> Option<String>>(settings: &mut Settings<L>) -> Option<Self> {
        let names = ["DATAVERSE_URL", "TOKEN_SECRET_ID"];
        if names.iter().all(|name| settings.optional(name).is_none()) {
            return None;
        }
        Some(Self::required(settings))
    }

    /// Reads the settings for a command that cannot work without Dataverse.
    ///
    /// `settings` collects what is missing.
    pub(crate) fn required<L: Fn(&str) -> Option<String>>(settings: &mut Settings<L>) -> Self {
        Self {
            url: settings.service_url("DATAVERSE_URL", None),
            token: settings.required("TOKEN_SECRET_ID"),
        }
    }

    /// Returns the store that holds the token.
    pub(crate) fn tokens(&self, aws: &SdkConfig) -> TokenStore {
        let secrets = aws_sdk_secretsmanager::Client::new(aws);
        TokenStore::new(secrets, self.token.clone())
    }

    /// Creates the client and its source of tokens. Makes no call yet.
    pub(crate) fn connect(
        self,
        aws: &SdkConfig,
    ) -> Result<(DataverseClient, TokenSource), reqwest::Error> {
        let tokens = TokenSource::new(Origin::Store(self.tokens(aws)));
        Ok((DataverseClient::new(http::client()?, &self.url), tokens))
    }
}
