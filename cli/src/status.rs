//! `mailverse status`: lists the messages that need an operator, from the attention index of the
//! ledger.
//!
//! | Listed | When |
//! | --- | --- |
//! | dead | always, unless its last attempt is in progress |
//! | waiting | if it was first claimed longer ago than `--older-than` |
//!
//! A service that refuses every request is named with the cause, for as long as it refuses.
//!
//! Exit status: 0 if nothing needs attention; 1 if something does; 2 for bad usage, or if AWS does
//! not answer.

pub(crate) mod age;
mod report;

use std::io::Write;
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use mailverse::env::{self, Settings, SettingsError};
use mailverse::ledger::State;
use mailverse::ledger::attention_index::Attention;
use mailverse::ledger::messages::LedgerError;
use mailverse::rate_limit::ApplicationUser;

use self::age::Age;
use self::report::Report;
use crate::aws::{self, AwsError};
use crate::terminal;

/// Lists what needs attention: dead messages, and messages that have been waiting too long.
///
/// Also names a service that refuses every request, and a pause that Dataverse asked for. Reads the
/// ledger (the table that LEDGER_TABLE names) with the standard AWS variables. Exit status: 0 if
/// nothing needs attention, 1 if something does, 2 if the command failed.
#[derive(Args)]
pub(crate) struct Arguments {
    /// List messages that have been waiting for longer than this: a number and a unit (s, m, h or
    /// d), such as 30m, 1h or 2d.
    #[arg(long, value_name = "AGE", default_value = "1h")]
    older_than: Age,
    /// List at most this many messages. The totals still count all of them.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    limit: usize,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

/// The command failed; the state of the messages is unknown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatusError {
    #[error("{0} (the name of the ledger table)")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("failed to read the ledger table {table}: {source}")]
    Ledger { table: String, source: LedgerError },
    #[error("failed to print the report: {0}")]
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
        .paused_until(&ApplicationUser::primary(), now)
        .await
        .map_err(failed)?;
    let refused = ledger.refused().await.map_err(failed)?;
    // No upper limit: a worker that died may have had a clock that is ahead of ours.
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

/// Returns whether a worker holds a claim on the message, so that its state may still change.
///
/// The claim of the last delivery is stored as dead from the start; the attempt may still succeed.
pub(crate) fn is_being_tried(one: &Attention, now: DateTime<Utc>) -> bool {
    one.entry.held.is_some_and(|(_, until)| until > now)
}
