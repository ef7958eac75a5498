//! `mailverse backfill`: starts a backfill run and shows its progress.
//!
//! The backfill function does the work. The command may end at any time; `--run` shows the run
//! again.
//!
//! Exit status: 0 if a run was started or, with `--wait`, ended with every mailbox listed
//! completely; 1 if a mailbox failed or is parked, or messages are dead; 2 for bad usage, or if the
//! function does not answer.

mod progress;
mod time_argument;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use backfill::request::Answer;
use chrono::Utc;
use clap::Args;
use mailverse::env::{self, Settings, SettingsError};
use mailverse::ledger::backfill_runs::{RunId, TaskState};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use self::progress::{Bars, mailboxes, summary};
use self::time_argument::Moment;
use crate::function::{Function, FunctionError};
use crate::terminal;

/// How often the function is asked for the progress of a run.
const EVERY: Duration = Duration::from_secs(2);

/// Imports the existing messages of mailboxes, and shows the progress.
///
/// Invokes the function that BACKFILL_FUNCTION names, with the standard AWS variables; the caller
/// needs the right lambda:InvokeFunction. Messages that are already settled are skipped, so the
/// same run can be started again. Exit status: 0 if the run was started or ended well, 1 if a
/// mailbox failed or is parked or messages are dead, 2 if the command failed.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Import messages received since then: an age (30d, 12h, 18mo, 2y), a date (2025-05-01), or a
    /// time (2025-05-01T08:00:00Z). A date means midnight UTC.
    #[arg(long, value_name = "WHEN", required_unless_present = "run")]
    since: Option<Moment>,
    /// Import only messages received before then, in the same format as --since. Default: no
    /// limit.
    #[arg(long, value_name = "WHEN", conflicts_with = "run")]
    until: Option<Moment>,
    /// Import only this mailbox: its address or grant id. May be given several times. Default: all
    /// mailboxes that take part.
    #[arg(long, value_name = "MAILBOX", conflicts_with = "run")]
    mailbox: Vec<String>,
    /// Import only this folder: its name, its id, or its purpose (inbox, sent, …). Default: all
    /// folders.
    #[arg(long, conflicts_with = "run")]
    folder: Option<String>,
    /// Write nothing; count what would be written.
    #[arg(long, conflicts_with = "run")]
    dry_run: bool,
    /// Show the progress of this run instead of starting one.
    #[arg(long, value_name = "RUN_ID", conflicts_with = "since")]
    run: Option<RunId>,
    /// Wait until the run ends, and show its progress. Ctrl-C stops the waiting, not the run.
    #[arg(long)]
    wait: bool,
    /// Print one JSON object: the function's answer.
    #[arg(long)]
    json: bool,
}

/// The function was not invoked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackfillCommandError {
    #[error("{0}: set it to the output BackfillFunction of the stack")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Function(#[from] FunctionError),
    #[error("--{0} is too far in the past")]
    Moment(&'static str),
    #[error("failed to print the report: {0}")]
    Print(#[source] std::io::Error),
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, BackfillCommandError> {
    let mut settings = Settings::new(env::process);
    let name = settings.required("BACKFILL_FUNCTION");
    settings.finish()?;
    let function = Function::connect(name).await?;
    let mut answer: Answer = match arguments.run {
        Some(run_id) => function.ask(&json!({ "run_id": run_id })).await?,
        None => function.ask(&request(&arguments)?).await?,
    };
    let begun = Instant::now();
    let mut waited = None;
    if arguments.wait {
        let run_id = answer.run_id;
        let waiting = async {
            if arguments.run.is_none() && !arguments.json {
                say(&format!("run {run_id}"))?;
            }
            wait(&function, answer).await
        };
        tokio::select! {
            // Polled first, so that Ctrl-C is handled before anything is printed.
            biased;
            _ = tokio::signal::ctrl_c() => {
                eprintln!(
                    "The run continues. To see its progress: mailverse backfill --run {run_id} --wait"
                );
                return Ok(ExitCode::SUCCESS);
            }
            finished = waiting => {
                answer = finished?;
                // The rate is unknown for a run that was started earlier.
                waited = arguments.run.is_none().then(|| begun.elapsed().as_secs_f64());
            }
        }
    }
    if arguments.json {
        say(&json!(answer).to_string())?;
    } else if arguments.wait || arguments.run.is_some() {
        say(&summary(&answer, waited))?;
    } else {
        say(&format!(
            "run {}: {} queued. To see its progress: mailverse backfill --run {} --wait",
            answer.run_id,
            mailboxes(&answer),
            answer.run_id
        ))?;
    }
    let stuck = |state| matches!(state, TaskState::Failed | TaskState::Parked);
    let bad = answer.dead > 0 || answer.tasks.iter().any(|task| stuck(task.state));
    Ok(ExitCode::from(u8::from(bad)))
}

/// Returns the request for a new run.
///
/// # Errors
/// [`BackfillCommandError::Moment`]: a time cannot be calculated.
fn request(arguments: &Arguments) -> Result<Value, BackfillCommandError> {
    let now = Utc::now();
    let time = |name: &'static str, moment: Option<Moment>| {
        let at = moment.map(|moment| moment.before(now));
        at.map(|at| {
            at.map(|at| at.timestamp())
                .ok_or(BackfillCommandError::Moment(name))
        })
        .transpose()
    };
    let mailboxes = if arguments.mailbox.is_empty() {
        json!("all")
    } else {
        json!(arguments.mailbox)
    };
    Ok(json!({
        "mailboxes": mailboxes,
        "received_after": time("since", arguments.since)?,
        "received_before": time("until", arguments.until)?,
        "folder": arguments.folder,
        "dry_run": arguments.dry_run,
    }))
}

/// Shows the progress until no task is queued any more: each is done, failed, or parked until its
/// mailbox is signed in again.
async fn wait(function: &Function, mut answer: Answer) -> Result<Answer, BackfillCommandError> {
    let mut bars = Bars::new();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        bars.show(&answer);
        if answer
            .tasks
            .iter()
            .all(|task| task.state != TaskState::Queued)
        {
            bars.clear();
            return Ok(answer);
        }
        answer = function.ask(&json!({ "run_id": answer.run_id })).await?;
    }
}

fn say(text: &str) -> Result<(), BackfillCommandError> {
    let printed = writeln!(std::io::stdout(), "{text}");
    terminal::printed(printed).map_err(BackfillCommandError::Print)
}
