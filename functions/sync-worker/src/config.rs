//! The settings of sync-worker.

use mailverse::env::{Settings, SettingsError};
use mailverse::pipeline::config::PipelineSettings;

/// Everything that the function reads from its environment.
#[derive(Debug, PartialEq, Eq)]
pub struct Config {
    /// Settings of the pipeline.
    pub pipeline: PipelineSettings,
    /// `SYNC_QUEUE_URL`: the queue that delivers to this function; needed to set visibility
    /// timeouts and to queue messages again.
    pub sync_queue_url: String,
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
            log_filter: settings.optional("RUST_LOG"),
            stack_name: settings.optional("STACK_NAME"),
        };
        settings.finish().map(|()| config)
    }
}

#[cfg(test)]
mod tests {
    use mailverse::clients::dataverse::emails::WriteMode;

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
        ] {
            assert!(
                text.contains(&format!("{name} is missing")),
                "{name} in {text}"
            );
        }
        assert!(
            !text.contains("NYLAS_API_URL"),
            "NYLAS_API_URL has a default"
        );
    }

    #[test]
    fn an_unknown_write_mode_is_rejected_with_the_allowed_ones() {
        let text = Config::from_lookup(|name| (name == "WRITE_MODE").then(|| "batch".to_owned()))
            .unwrap_err()
            .to_string();
        let problem = "WRITE_MODE must be one of changeset, stepwise (got `batch`)";
        assert!(text.contains(problem), "{text}");
    }

    #[test]
    fn an_invalid_mailbox_entry_is_rejected_by_its_position_and_not_quoted() {
        let mailboxes = |name: &str| (name == "MAILBOXES").then(|| "a.example,canary".to_owned());
        let text = Config::from_lookup(mailboxes).unwrap_err().to_string();
        assert!(
            text.contains("MAILBOXES must be addresses, domains"),
            "{text}"
        );
        assert!(text.contains("entry 2 is none of these"), "{text}");
        assert!(!text.contains("canary"), "{text}");
    }

    #[test]
    fn a_complete_environment_is_read() {
        let config = Config::from_lookup(|name| match name {
            "DATAVERSE_URL" => Some("https://contoso.crm.dynamics.com".to_owned()),
            "MAILBOXES" => Some("contoso.example, workspace:w-1".to_owned()),
            "RUST_LOG" | "CREATED_ON" => None,
            "NYLAS_API_URL" => Some("https://api.eu.nylas.com".to_owned()),
            "WRITE_MODE" => Some("stepwise".to_owned()),
            "RESOLVED_PEOPLE_LIMIT" => Some("100".to_owned()),
            "DATAVERSE_LIMITS" => Some("3000,600,300".to_owned()),
            "DATAVERSE_APPLICATION_USERS" => Some("two, three".to_owned()),
            other => Some(other.to_lowercase()),
        })
        .unwrap();
        assert_eq!(config.pipeline.ledger_table, "ledger_table");
        assert_eq!(config.pipeline.mailboxes.entries().len(), 2);
        assert_eq!(config.pipeline.write_mode, WriteMode::Stepwise);
        assert_eq!(config.pipeline.people_limit.to_string(), "100");
        assert_eq!(config.pipeline.limits, "3000,600,300".parse().unwrap());
        assert_eq!(config.pipeline.application_users, ["two", "three"]);
    }
}
