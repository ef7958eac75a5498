//! `mailverse replay`: runs saved events through the same handlers that run on Lambda.
//!
//! 1. Read the events ([`event`]).
//! 2. Set up the services: emulators filled from the events, or the real ones ([`harness`],
//!    [`mailboxes`]).
//! 3. Deliver each event, twice unless `--once` is given, and process the queue whenever ten
//!    messages wait, as Lambda would.
//! 4. Report the outcome of each message ([`report`]).
//!
//! Exit status: 0 if every message was written or skipped; 1 if a message was not, or an event was
//! rejected; 2 for bad usage or a path that cannot be read.

pub(crate) mod embedded_ledger;
mod event;
mod harness;
mod mailboxes;
mod report;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::SecretString;
use uuid::Uuid;
use webhook_receiver::signature::{Key, SecretProblem};

use self::event::{LoadError, SavedEvent};
use self::harness::{Harness, HarnessError};
use self::report::Report;
use crate::policy::PolicyFileError;
use crate::terminal::{self, Answer};

/// The number of messages that Lambda passes to the worker at once: `BatchSize` in
/// `template.yaml`.
const BATCH: usize = 10;

/// Runs saved events through the real handlers and shows the outcome of each message.
///
/// Accepts JSON files with a Nylas notification, a function URL or API Gateway event that contains
/// one, an SQS event, or an EventBridge Scheduler event. By default nothing leaves this machine:
/// the services are local emulators, filled with the messages that the events contain. Exit status:
/// 0 if every message was written or skipped, 1 if not, 2 if the command failed.
#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(crate) struct Arguments {
    /// Event files, or folders of them. All *.json files in a folder and its subfolders are read.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Deliver each event once. The default is twice, because Nylas may deliver an event more than
    /// once.
    #[arg(long)]
    once: bool,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// Keep the ledger in FILE and the emulated organisation in FILE.organisation.json between
    /// runs. Default: both are lost when the command ends.
    #[arg(long, value_name = "FILE", conflicts_with = "org")]
    state: Option<PathBuf>,
    /// Use the policy in FILE. Default: the documented default policy, or the stored one with
    /// --org.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Read the webhook secret from FILE, for events that have a signature. Events without one are
    /// signed.
    #[arg(long, value_name = "FILE")]
    webhook_secret_file: Option<PathBuf>,
    /// Sign all events again, for events that were signed with a secret you do not have.
    #[arg(long)]
    resign: bool,
    /// Write to the live organisation, with the settings of sync-worker from the environment. Asks
    /// for confirmation.
    #[arg(long)]
    org: bool,
    /// Do not ask for confirmation.
    #[arg(long, requires = "org")]
    yes: bool,
}

/// The command failed. Except for `Print` and a state file that could not be written, nothing was
/// replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    #[error(transparent)]
    Harness(#[from] HarnessError),
    #[error("{}: {problem}", path.display())]
    Secret { path: PathBuf, problem: String },
    #[error(transparent)]
    Key(#[from] SecretProblem),
    #[error(
        "refusing to write to the live organisation without confirmation: pass --yes, or run in a terminal"
    )]
    NobodyToAsk,
    #[error("nothing was replayed")]
    Declined,
    #[error("failed to read the answer: {0}")]
    Answer(#[source] std::io::Error),
    #[error("failed to print the report: {0}")]
    Print(#[source] std::io::Error),
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, ReplayError> {
    let begun = Instant::now();
    let events = event::load(&arguments.paths)?;
    let key = signing_key(&arguments)?;
    let policy = arguments
        .policy
        .as_deref()
        .map(crate::policy::from_file)
        .transpose()?;
    let harness = if arguments.org {
        let settings = harness::settings()?;
        if !arguments.yes {
            ask(settings.dataverse_url.as_str())?;
        }
        Harness::organisation(&settings, policy.as_ref(), key).await?
    } else {
        let policy = policy.unwrap_or_default();
        Harness::offline(&events, arguments.state.as_deref(), &policy, key).await?
    };
    let rounds = if arguments.once { 1 } else { 2 };
    let mut report = deliver_all(&harness, &events, rounds, arguments.resign).await;
    report.measure(&harness, begun.elapsed());
    let mut out = std::io::stdout().lock();
    let printed = if arguments.json {
        writeln!(out, "{}", report.json())
    } else {
        report.print(&mut out, &harness)
    };
    // After printing, so that the report is shown even if the state cannot be stored.
    harness.finish()?;
    terminal::printed(printed).map_err(ReplayError::Print)?;
    Ok(ExitCode::from(u8::from(!report.is_success())))
}

/// Delivers each event once per round, and returns the report of all deliveries.
async fn deliver_all(
    harness: &Harness,
    events: &[SavedEvent],
    rounds: usize,
    resign: bool,
) -> Report {
    let mut report = Report::new(events);
    let progress = progress_bar(events.len() * rounds);
    for _ in 0..rounds {
        for event in events {
            deliver(harness, event, resign, &mut report).await;
            if harness.queued() >= BATCH {
                process_queue(harness, &mut report).await;
            }
            progress.inc(1);
        }
        process_queue(harness, &mut report).await;
    }
    progress.finish_and_clear();
    report
}

async fn deliver(harness: &Harness, event: &SavedEvent, resign: bool, report: &mut Report) {
    match &event.kind {
        event::Kind::Http(request) => {
            let received = harness.receive(request, resign).await;
            report.received(&event.file, received);
        }
        event::Kind::Sqs(batch) => {
            let worked = harness.work(batch).await;
            report.worked(Some(&event.file), worked);
        }
        event::Kind::Schedule(event_json) => {
            // Process what earlier events put on the queue first.
            process_queue(harness, report).await;
            report.listed(&event.file, harness.backfill(event_json).await);
        }
        event::Kind::Unreadable(reason) => report.refused(&event.file, reason),
    }
}

async fn process_queue(harness: &Harness, report: &mut Report) {
    while harness.queued() > 0 {
        report.worked(None, harness.work_queue(BATCH).await);
    }
}

/// Returns the key that signs and verifies events: from the given file, or a random one for this
/// run.
fn signing_key(arguments: &Arguments) -> Result<Key, ReplayError> {
    let secret = match &arguments.webhook_secret_file {
        Some(path) => std::fs::read_to_string(path).map_err(|error| ReplayError::Secret {
            path: path.clone(),
            problem: error.to_string(),
        })?,
        None => Uuid::new_v4().to_string(),
    };
    Ok(Key::new(&SecretString::from(secret.trim()))?)
}

fn ask(organisation: &str) -> Result<(), ReplayError> {
    let question =
        format!("This writes email activities to {organisation} and claims to the ledger.");
    match terminal::ask(&question).map_err(ReplayError::Answer)? {
        Answer::Yes => Ok(()),
        Answer::No => Err(ReplayError::Declined),
        Answer::NobodyThere => Err(ReplayError::NobodyToAsk),
    }
}

/// Returns a progress bar, which is shown on standard error and only on a terminal.
fn progress_bar(length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} deliveries, {eta} left") {
        bar.set_style(style);
    }
    bar
}
