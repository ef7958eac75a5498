//! The settings of backfill.

use mailverse::env::{Settings, SettingsError};
use mailverse::pipeline::config::PipelineSettings;

/// Everything that the function reads from its environment.
#[derive(Debug, PartialEq, Eq)]
pub struct Config {
    /// Settings of the pipeline.
    pub pipeline: PipelineSettings,
    /// `SYNC_QUEUE_URL`: the queue for messages that have to be retried.
    pub sync_queue_url: String,
    /// `BACKFILL_QUEUE_URL`: the queue that tasks are sent to and received from.
    pub backfill_queue_url: String,
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
            pipeline: PipelineSettings::read(&mut settings),
            sync_queue_url: settings.required("SYNC_QUEUE_URL"),
            backfill_queue_url: settings.required("BACKFILL_QUEUE_URL"),
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
            "TOKEN_SECRET_ID",
            "NYLAS_API_KEY_SECRET_ID",
            "MAILBOXES",
            "LEDGER_TABLE",
            "SYNC_QUEUE_URL",
            "BACKFILL_QUEUE_URL",
        ] {
            assert!(
                text.contains(&format!("{name} is missing")),
                "{name} in {text}"
            );
        }
    }
}
