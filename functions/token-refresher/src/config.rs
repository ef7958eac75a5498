//! The settings of token-refresher.

use mailverse::env::{Settings, SettingsError};
use url::Url;

/// Everything that the function reads from its environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `DATAVERSE_URL`: the organisation that the token is for.
    pub dataverse_url: Url,
    /// `ENTRA_AUTHORITY`: the login host; national clouds have their own.
    pub entra_authority: Url,
    /// `ENTRA_TENANT_ID`: the tenant of the app registrations.
    pub entra_tenant_id: String,
    /// `ENTRA_CLIENT_ID`: the client id of the primary app registration.
    pub entra_client_id: String,
    /// `ENTRA_SECRET_ID`: the secret that holds the credentials.
    pub entra_secret_id: String,
    /// `TOKEN_SECRET_ID`: the secret that the tokens are written to.
    pub token_secret_id: String,
    /// `RUST_LOG`: the log filter; `None` means the default.
    pub log_filter: Option<String>,
    /// `STACK_NAME`: the dimension of every metric; `None` means no dimension.
    pub stack_name: Option<String>,
}

impl Config {
    /// Reads the variables through `lookup`.
    ///
    /// # Errors
    /// [`SettingsError`] lists everything that is missing or wrong: refuse to start.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(lookup);
        let config = Self {
            dataverse_url: settings.service_url("DATAVERSE_URL", None),
            entra_authority: settings
                .service_url("ENTRA_AUTHORITY", Some("https://login.microsoftonline.com")),
            entra_tenant_id: settings.required("ENTRA_TENANT_ID"),
            entra_client_id: settings.required("ENTRA_CLIENT_ID"),
            entra_secret_id: settings.required("ENTRA_SECRET_ID"),
            token_secret_id: settings.required("TOKEN_SECRET_ID"),
            log_filter: settings.optional("RUST_LOG"),
            stack_name: settings.optional("STACK_NAME"),
        };
        settings.finish().map(|()| config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_variable_is_named_at_once() {
        let text = Config::from_lookup(|_| None).unwrap_err().to_string();
        for name in [
            "DATAVERSE_URL",
            "ENTRA_TENANT_ID",
            "ENTRA_CLIENT_ID",
            "ENTRA_SECRET_ID",
            "TOKEN_SECRET_ID",
        ] {
            assert!(
                text.contains(&format!("{name} is missing")),
                "{name} in {text}"
            );
        }
    }
}
