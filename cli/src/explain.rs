//! `mailverse explain`: shows the outcome of a message and the reasons.
//!
//! 1. Find the message ([`find`]), and its copies in other mailboxes.
//! 2. Print what the ledger has about each ([`report`]).
//! 3. If Nylas is configured, show people with their addresses ([`people`]); otherwise only by role
//!    and position.
//!
//! Exit status: 0 if the message was found; 1 if not; 2 for bad usage, or if AWS or a configured
//! service does not answer.

mod addresses;
mod report;
mod search;

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use mailverse::clients::dataverse::error::DataverseError;
use mailverse::clients::entra::TokenError;
use mailverse::clients::nylas::error::NylasError;
use mailverse::env::{self, Settings, SettingsError};
use mailverse::ledger::messages::LedgerError;
use mailverse::mailboxes::{self, AllowList};
use serde_json::json;

use self::addresses::Names;
use self::search::Finder;
use crate::aws::{self, AwsError};
use crate::services::{DataverseSettings, NylasSettings};
use crate::terminal::{self, printable};

/// Shows the outcome of a message and why: state, policy rules, people and regarding.
///
/// Reads the ledger (the table that LEDGER_TABLE names) with the standard AWS variables. With
/// NYLAS_API_KEY_SECRET_ID (and NYLAS_API_URL), a bare message id is looked up in every mailbox,
/// and people are shown with their addresses; if MAILBOXES is set too, only for mailboxes that take
/// part. With DATAVERSE_URL and TOKEN_SECRET_ID, a Message-ID can be found. Exit status: 0 if the
/// message was found, 1 if not, 2 if the command failed.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The message to explain: MAILBOX/MESSAGE (sync.key in the logs), the provider's message id,
    /// the id of the email activity in Dynamics 365, or the Message-ID.
    #[arg(value_name = "MESSAGE")]
    message: String,
    /// Print one JSON object. It never has addresses.
    #[arg(long)]
    json: bool,
}

/// The command failed; nothing is explained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    #[error("{0}")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("failed to create an HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    #[error("failed to read the ledger table {table}: {source}")]
    Ledger { table: String, source: LedgerError },
    #[error("failed to list the mailboxes: {0}")]
    Grants(#[source] NylasError),
    #[error("failed to read the Dataverse token: {0}")]
    Token(#[from] TokenError),
    #[error("failed to look up the Message-ID in Dataverse: {0}")]
    Dataverse(#[from] DataverseError),
    #[error("failed to print the explanation: {0}")]
    Print(#[source] std::io::Error),
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, ExplainError> {
    let mut settings = Settings::new(env::process);
    let table = settings.required("LEDGER_TABLE");
    let nylas = NylasSettings::read(&mut settings);
    let dataverse = DataverseSettings::read(&mut settings);
    let says_who = settings.optional(mailboxes::SETTING).is_some();
    let allowed = says_who.then(|| AllowList::read(&mut settings));
    settings.finish()?;
    let aws = aws::connect().await?;
    let finder = Finder {
        ledger: aws::ledger(&aws, &table),
        table,
        allowed,
        nylas: nylas.map(|nylas| nylas.connect(&aws)).transpose()?,
        dataverse: dataverse
            .map(|dataverse| dataverse.connect(&aws))
            .transpose()?,
    };
    let found = finder.find(&arguments.message).await?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let messages: Vec<_> = found.messages.iter().map(report::json).collect();
        let printed = writeln!(out, "{}", json!({"messages": messages}));
        terminal::printed(printed).map_err(ExplainError::Print)?;
    } else {
        for stored_message in &found.messages {
            let names = Names::read(&finder, stored_message).await;
            terminal::printed(report::print(&mut out, stored_message, &names))
                .map_err(ExplainError::Print)?;
        }
    }
    if found.messages.is_empty() {
        eprintln!(
            "mailverse: no message found for {}{}",
            printable(&arguments.message),
            found.unasked()
        );
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}
