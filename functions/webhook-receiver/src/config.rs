//! The settings of the receiver.
//!
//! | Variable | Meaning |
//! | --- | --- |
//! | `WEBHOOK_SECRET_ID` | the Secrets Manager secret with the webhook secret as plain text |
//! | `SYNC_QUEUE_URL` | the queue for sync requests |
//! | `NYLAS_APPLICATION_ID` | optional: notifications of another Nylas application are acknowledged and not queued |
//! | `RUST_LOG` | optional: log filter, default `info` |
//! | `STACK_NAME` | optional: the dimension of every metric |
//!
//! Nothing is read from Secrets Manager at startup: the secret only exists after the receiver has
//! answered the challenge.

use mailverse::env::{Settings, SettingsError};

/// The settings of the receiver.
#[derive(Debug, PartialEq, Eq)]
pub struct Config {
    /// Name or ARN of the Secrets Manager secret that holds the webhook secret.
    pub webhook_secret_id: String,
    /// The queue that sync requests are sent to.
    pub sync_queue_url: String,
    /// The Nylas application whose notifications are queued; `None` means any.
    pub nylas_application_id: Option<String>,
    /// The log filter; `None` means `info`.
    pub log_filter: Option<String>,
    /// `STACK_NAME`: the dimension of every metric; `None` means no dimension.
    pub stack_name: Option<String>,
}

impl Config {
    /// Reads the settings through `lookup`, which returns `None` for a variable that is not set.
    ///
    /// # Errors
    /// [`SettingsError`] lists everything that is missing or wrong: refuse to start.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut settings = Settings::new(lookup);
        let config = Self {
            webhook_secret_id: settings.required("WEBHOOK_SECRET_ID"),
            sync_queue_url: settings.required("SYNC_QUEUE_URL"),
            nylas_application_id: settings.optional("NYLAS_APPLICATION_ID"),
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
    fn the_receiver_requires_a_webhook_secret_and_a_sync_queue() {
        let error = Config::from_lookup(|_| None).unwrap_err().to_string();
        assert!(error.contains("WEBHOOK_SECRET_ID is missing"), "{error}");
        assert!(error.contains("SYNC_QUEUE_URL is missing"), "{error}");

        let config =
            Config::from_lookup(|name| (name != "RUST_LOG").then(|| format!("the {name}")))
                .unwrap();
        assert_eq!(config.webhook_secret_id, "the WEBHOOK_SECRET_ID");
        assert_eq!(config.sync_queue_url, "the SYNC_QUEUE_URL");
        let application = config.nylas_application_id.as_deref();
        assert_eq!(application, Some("the NYLAS_APPLICATION_ID"));
        assert_eq!(config.log_filter, None);
    }

    #[test]
    fn a_blank_application_id_counts_as_missing() {
        let config = Config::from_lookup(|name| {
            let value = if name == "NYLAS_APPLICATION_ID" {
                " "
            } else {
                "x"
            };
            Some(value.to_owned())
        });
        assert_eq!(config.unwrap().nylas_application_id, None);
    }
}
