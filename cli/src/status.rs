//! `mailverse status`: what needs somebody's attention, from the ledger's sparse index.
//!
//! | Listed | When |
//! | --- | --- |
//! | dead | always, unless its last try is under way at this moment |
//! | waiting | when it was first claimed longer ago than `--older-than` |
//!
//! A service that refuses everybody is named with the cause, as long as it does.
//!
//! Exit status: 0 when nothing needs attention; 1 when something does; 2 for bad usage, or when AWS does not answer.

pub(crate) mod age;
mod report;

use std::io::Write;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use mailverse::dedupe::State;
use mailverse::dedupe::attention::Attention;
use mailverse::dedupe::ledger::LedgerError;
use mailverse::env::{self, Settings, SettingsError};
use mailverse::governor::User;

use self::age::Age;
use self::report::Report;
use crate::aws::{self, AwsError};
use crate::terminal;

/// Lists what needs attention: dead messages, and those that have been waiting for long.
///
/// Reads the ledger's table, which LEDGER_TABLE names, with AWS's own variables.
#[derive(Args)]
pub(crate) struct Arguments {
    /// List messages that have been waiting for longer than this: 30m, 1h, 2d.
    #[arg(long, value_name = "AGE", default_value = "1h")]
    older_than: Age,
    /// List no more messages than this. All are counted.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    limit: usize,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

/// Nothing is known of the messages.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatusError {
    #[error("{0} (the name of the ledger's table)")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("table {table}: {source}")]
    Ledger { table: String, source: LedgerError },
    #[error("the report cannot be printed: {0}")]
    Print(#[source] std::io::Error),
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, StatusError> {
    let mut settings = Settings::new(env::process);
    let table = settings.required("LEDGER_TABLE");
    settings.finish()?;
    let report = read(&table, arguments.older_than, Utc::now()).await?;
    let mut out = std::io::stdout().lock();
    let printed = if arguments.json {
        writeln!(out, "{}", report.json(arguments.limit))
    } else {
        report.print(&mut out, arguments.limit)
    };
    terminal::printed(printed).map_err(StatusError::Print)?;
    Ok(ExitCode::from(u8::from(!report.is_quiet())))
}

async fn read(table: &str, older_than: Age, now: DateTime<Utc>) -> Result<Report, StatusError> {
    let ledger = aws::ledger(&aws::connect().await?, table);
    let failed = |source| StatusError::Ledger {
        table: table.to_owned(),
        source,
    };
    let paused_until = ledger
        .paused_until(&User::primary(), now)
        .await
        .map_err(failed)?;
    let refused = ledger.refused().await.map_err(failed)?;
    // Whatever a worker's clock said when it died.
    let dead = ledger.needing_attention(State::Dead, DateTime::<Utc>::MAX_UTC, usize::MAX, |one| {
        !is_being_tried(one, now)
    });
    let dead = dead.await.map_err(failed)?;
    let long = now - older_than.time();
    let waiting = ledger.needing_attention(State::Waiting, long, usize::MAX, |_| true);
    Ok(Report {
        dead,
        waiting: waiting.await.map_err(failed)?,
        older_than,
        paused_until,
        refused,
    })
}

/// A message's last delivery says dead from the start, and something else, perhaps, a moment later.
pub(crate) fn is_being_tried(one: &Attention, now: DateTime<Utc>) -> bool {
    one.entry.held.is_some_and(|(_, until)| until > now)
}
