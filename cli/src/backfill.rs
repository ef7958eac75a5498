//! `mailverse backfill`: history, and how it goes.
//!
//! Asks the backfill function, which does the work: the command may end at any moment, and be asked again with `--run`.
//!
//! Exit status: 0 when a run was begun, or, with `--wait`, has ended with every mailbox listed to its end; 1 when a mailbox failed or is parked, or messages
//! are dead; 2 for bad usage, or when the function does not answer.

mod moment;
mod progress;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use backfill::request::Answer;
use chrono::Utc;
use clap::Args;
use mailverse::dedupe::runs::{RunId, TaskState};
use mailverse::env::{self, Settings, SettingsError};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use self::moment::Moment;
use self::progress::{Bars, mailboxes, summary};
use crate::function::{Function, FunctionError};
use crate::terminal;

/// How often the function is asked how a run goes.
const EVERY: Duration = Duration::from_secs(2);

/// Takes the history of mailboxes through the pipeline.
///
/// Asks the function that BACKFILL_FUNCTION names, with AWS's own variables; needs lambda:InvokeFunction on it. What the ledger has settled is left alone, so
/// a run may be asked for again.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Mail that came since: 18mo, 2y, 30d, or 2025-05-01.
    #[arg(long, value_name = "WHEN", required_unless_present = "run")]
    since: Option<Moment>,
    /// And before that.
    #[arg(long, value_name = "WHEN", conflicts_with = "run")]
    until: Option<Moment>,
    /// This mailbox only: its address or grant id. May be repeated; all mailboxes without it.
    #[arg(long, value_name = "MAILBOX", conflicts_with = "run")]
    mailbox: Vec<String>,
    /// This folder only: its name, its id, or what it is for (inbox, sent, …).
    #[arg(long, conflicts_with = "run")]
    folder: Option<String>,
    /// Say what would become of the mail, and write nothing.
    #[arg(long, conflicts_with = "run")]
    dry_run: bool,
    /// How does this run go?
    #[arg(long, value_name = "RUN_ID", conflicts_with = "since")]
    run: Option<RunId>,
    /// Wait until the run has ended, and show how it goes. Ctrl-C ends the waiting, not the run.
    #[arg(long)]
    wait: bool,
    /// Print one JSON object: the function's answer.
    #[arg(long)]
    json: bool,
}

/// The function was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackfillCommandError {
    #[error("{0} (the name of the backfill function: the stack's output BackfillFunction)")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Function(#[from] FunctionError),
    #[error("--{0} is before all calendars")]
    Moment(&'static str),
    #[error("the report cannot be printed: {0}")]
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
            // Ctrl-C first, so that it is listened for before anything is printed.
            biased;
            _ = tokio::signal::ctrl_c() => {
                eprintln!("The run goes on. How it goes: mailverse backfill --run {run_id} --wait");
                return Ok(ExitCode::SUCCESS);
            }
            ended = waiting => {
                answer = ended?;
                // A run that was going on before tells nothing of its rate.
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
            "run {}: {} queued. How it goes: mailverse backfill --run {} --wait",
            answer.run_id,
            mailboxes(&answer),
            answer.run_id
        ))?;
    }
    let stuck = |state| matches!(state, TaskState::Failed | TaskState::Parked);
    let bad = answer.dead > 0 || answer.tasks.iter().any(|task| stuck(task.state));
    Ok(ExitCode::from(u8::from(bad)))
}

/// What the function is asked for.
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

/// Asks until the run has ended, or only waits for somebody to sign in.
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
