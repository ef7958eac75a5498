//! The settings that every function with a pipeline needs, and the pipeline that is built from
//! them.

use aws_config::SdkConfig;
use url::Url;

use super::Pipeline;
use super::application_users::ApplicationUsers;
use super::created_on::CreatedOn;
use super::people_limit::ResolvedPeopleLimit;
use crate::clients::aws::secrets::SecretSource;
use crate::clients::dataverse::DataverseClient;
use crate::clients::dataverse::emails::WriteMode;
use crate::clients::entra::token_store::TokenStore;
use crate::clients::entra::{Origin, TokenSource};
use crate::clients::http;
use crate::clients::nylas::NylasClient;
use crate::env::Settings;
use crate::ledger::messages::Ledger;
use crate::mailboxes::{AllowList, MailboxDirectory};
use crate::policy::cache::PolicySource;
use crate::rate_limit::{ApplicationUser, Limits};

/// The settings of a pipeline, each named after its environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineSettings {
    /// `DATAVERSE_URL`
    pub dataverse_url: Url,
    /// `TOKEN_SECRET_ID`
    pub token_secret_id: String,
    /// `NYLAS_API_URL`
    pub(crate) nylas_api_url: Url,
    /// `NYLAS_API_KEY_SECRET_ID`
    pub(crate) nylas_api_key_secret_id: String,
    /// `MAILBOXES`
    pub mailboxes: AllowList,
    /// `LEDGER_TABLE`
    pub ledger_table: String,
    /// `WRITE_MODE`
    pub write_mode: WriteMode,
    /// `CREATED_ON`
    pub created_on: CreatedOn,
    /// `RESOLVED_PEOPLE_LIMIT`: the most people of one message that are looked up.
    pub people_limit: ResolvedPeopleLimit,
    /// `DATAVERSE_LIMITS`
    pub limits: Limits,
    /// `DATAVERSE_APPLICATION_USERS`: the names of further application users, which backfill uses.
    pub application_users: Vec<String>,
}

impl PipelineSettings {
    /// Reads the settings; [`Settings::finish`] reports missing or invalid ones.
    pub fn read<L: Fn(&str) -> Option<String>>(settings: &mut Settings<L>) -> Self {
        Self {
            dataverse_url: settings.service_url("DATAVERSE_URL", None),
            token_secret_id: settings.required("TOKEN_SECRET_ID"),
            nylas_api_url: settings.service_url("NYLAS_API_URL", Some("https://api.us.nylas.com")),
            nylas_api_key_secret_id: settings.required("NYLAS_API_KEY_SECRET_ID"),
            mailboxes: AllowList::read(settings),
            ledger_table: settings.required("LEDGER_TABLE"),
            write_mode: settings.one_of("WRITE_MODE", &WriteMode::NAMED),
            created_on: settings.one_of("CREATED_ON", &CreatedOn::NAMED),
            people_limit: settings.parsed("RESOLVED_PEOPLE_LIMIT"),
            limits: settings.parsed("DATAVERSE_LIMITS"),
            application_users: settings.names("DATAVERSE_APPLICATION_USERS"),
        }
    }

    /// Builds a pipeline on the real services. Makes no call yet: a service or secret that cannot
    /// be read fails individual messages, which are retried.
    ///
    /// # Errors
    /// [`reqwest::Error`]: the TLS library could not be set up; refuse to start.
    pub fn connect(&self, aws: &SdkConfig) -> Result<Pipeline, reqwest::Error> {
        let http = http::client()?;
        let secrets = aws_sdk_secretsmanager::Client::new(aws);
        let api_key = SecretSource::stored(secrets.clone(), self.nylas_api_key_secret_id.clone());
        let nylas = NylasClient::new(http.clone(), &self.nylas_api_url, api_key);
        let tokens = TokenStore::new(secrets, self.token_secret_id.clone());
        let further = self.application_users.iter().map(|name| {
            let of = Origin::Store(tokens.clone().of(name.clone()));
            (ApplicationUser::named(name.clone()), TokenSource::new(of))
        });
        Ok(Pipeline {
            ledger: Ledger::new(
                aws_sdk_dynamodb::Client::new(aws),
                self.ledger_table.clone(),
            ),
            mailboxes: MailboxDirectory::new(nylas.clone(), self.mailboxes.clone()),
            nylas,
            dataverse: DataverseClient::new(http, &self.dataverse_url),
            application_users: ApplicationUsers::new(
                self.limits,
                TokenSource::new(Origin::Store(tokens.clone())),
                further.collect(),
            ),
            policy: PolicySource::ledger(),
            write_mode: self.write_mode,
            created_on: self.created_on.into(),
            people_limit: self.people_limit,
        })
    }
}
