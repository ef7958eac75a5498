//! `mailverse explain`: what became of a message, and why.
//!
//! 1. Find the message ([`find`]), and every other copy of the same mail.
//! 2. Tell what the ledger keeps of each ([`report`]).
//! 3. Where Nylas can be asked, name the people with their addresses ([`people`]); otherwise by role and place.
//!
//! Exit status: 0 when it is known; 1 when it is not; 2 for bad usage, or when AWS or a service that was named does not answer.

mod find;
mod people;
mod report;

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use mailverse::dataverse::error::DataverseError;
use mailverse::dedupe::ledger::LedgerError;
use mailverse::entra::TokenError;
use mailverse::env::{self, Settings, SettingsError};
use mailverse::mailboxes::{self, AllowList};
use mailverse::nylas::error::NylasError;
use serde_json::json;

use self::find::Finder;
use self::people::Names;
use crate::aws::{self, AwsError};
use crate::services::{DataverseSettings, NylasSettings};
use crate::terminal::{self, printable};

/// Tells what became of a message, and why: its state, the rules that were asked, its people and the record that it concerns.
///
/// Reads the ledger's table, which LEDGER_TABLE names, with AWS's own variables. With NYLAS_API_KEY_SECRET_ID (and NYLAS_API_URL), a bare message id is looked
/// for in every mailbox, and people are shown with their addresses; with MAILBOXES too, only those
/// of mailboxes that take part. With DATAVERSE_URL and TOKEN_SECRET_ID, a Message-ID can be found.
#[derive(Args)]
pub(crate) struct Arguments {
    /// mailbox/message, as sync.key in the logs; the provider's message id; the activity's id in Dynamics 365; or the mail's Message-ID.
    #[arg(value_name = "MESSAGE")]
    message: String,
    /// Print one JSON object, which never has addresses.
    #[arg(long)]
    json: bool,
}

/// Nothing is explained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    #[error("{0}")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    #[error("table {table}: {source}")]
    Ledger { table: String, source: LedgerError },
    #[error("the mailboxes cannot be listed: {0}")]
    Grants(#[source] NylasError),
    #[error("no token for Dataverse: {0}")]
    Token(#[from] TokenError),
    #[error("Dataverse cannot be asked for the Message-ID: {0}")]
    Dataverse(#[from] DataverseError),
    #[error("the explanation cannot be printed: {0}")]
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
        for kept in &found.messages {
            let names = Names::read(&finder, kept).await;
            terminal::printed(report::print(&mut out, kept, &names))
                .map_err(ExplainError::Print)?;
        }
    }
    if found.messages.is_empty() {
        eprintln!(
            "mailverse: nothing is known of {}{}",
            printable(&arguments.message),
            found.unasked()
        );
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}
