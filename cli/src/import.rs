//! `mailverse import`: runs saved messages through the pipeline and writes saved contacts to
//! Dataverse.
//!
//! 1. Read the files ([`saved`]). Nothing is written before every file was read and is usable.
//! 2. Import the contacts first ([`people`]), so that the messages find them. Then import the
//!    messages ([`messages`]), as the backfill processes a listed page.
//! 3. Report the outcome of each object that was not imported ([`report`]).
//!
//! With `--dry-run` the same code runs on a client that records its writes, and on a ledger in
//! memory ([`rows`]).
//!
//! # Duplicates
//!
//! The output of the Nylas CLI has no headers, so it lacks the Message-ID by which copies of a
//! message in several mailboxes share one row. A message without a Message-ID is therefore fetched
//! from Nylas, with one request each. It is imported as it was saved only if Nylas no longer has
//! it, or with `--as-saved`. Its key is then its mailbox and id, and a copy in another mailbox
//! would become a second row.
//!
//! Exit status: 0 if every object was imported or skipped by a rule; 1 if an object was not; 2 for
//! bad usage, an unusable file, a missing confirmation, or a service that does not answer.

mod contacts;
mod dry_run_rows;
mod messages;
mod report;
mod saved_files;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use mailverse::clients::nylas::error::NylasError;
use mailverse::clients::nylas::wire::Grant;
use mailverse::env::{self, Settings, SettingsError};
use mailverse::ledger::messages::{Ledger, LedgerError};
use mailverse::model::address::EmailAddress;
use mailverse::model::ids::GrantId;
use mailverse::pipeline::config::PipelineSettings;
use mailverse::pipeline::created_on::CreatedOn;
use mailverse::pipeline::{Invocation, Pipeline};
use mailverse::policy::cache::{PolicyError, PolicySource};
use mailverse::rate_limit::ApplicationUser;
use serde_json::Value;

use self::dry_run_rows::Rows;
use self::report::Report;
use self::saved_files::{FileError, Kind, SavedFile};
use crate::aws::{self, AwsError};
use crate::replay::embedded_ledger::{EmbeddedError, EmbeddedLedger};
use crate::terminal::{self, Answer, printable};

/// The time limit of one batch: less than the lease of a claim.
const STEP: TimeDelta = TimeDelta::seconds(150);

/// Imports saved messages and contacts into Dynamics 365.
///
/// Accepts the output of `nylas email list --json` and `nylas contacts list --json`, and list
/// answers of the Nylas API. File names do not matter. Reads the settings of sync-worker from the
/// environment, with the standard AWS variables. If it was interrupted, run it again: nothing is
/// written twice. Exit status: 0 if every object was imported or skipped by a rule, 1 if not, 2 if
/// the command failed.
#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(crate) struct Arguments {
    /// Files with saved messages or contacts.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Address or grant id of the mailbox for messages that name no mailbox, or one that is not
    /// connected.
    #[arg(long, value_name = "MAILBOX")]
    mailbox: Option<String>,
    /// Import messages without a Message-ID as they were saved, without fetching each from Nylas. A
    /// copy in another mailbox may then become a second row.
    #[arg(long)]
    as_saved: bool,
    /// The created-on of rows for messages older than a day: the time of the import (`now`), or
    /// when the message was received (`original`). Default: the setting CREATED_ON.
    #[arg(long, value_enum, value_name = "WHEN")]
    created_on: Option<Made>,
    /// Write nothing; print the rows that would be written, one JSON object per line. They include
    /// the content of messages.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object instead of the report.
    #[arg(long)]
    json: bool,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Made {
    Now,
    Original,
}

/// Nothing was imported, or the import stopped. Running the same command again is safe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0} (import reads the settings of sync-worker)")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("failed to create an HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    #[error("failed to read the ledger table {table}: {source}")]
    Ledger { table: String, source: LedgerError },
    #[error("{0}")]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    #[error("Dataverse asked for a pause until {}: run the import again after that", .0.to_rfc3339())]
    Paused(DateTime<Utc>),
    #[error("failed to list the mailboxes: {0}")]
    Grants(#[source] NylasError),
    #[error("Nylas has no mailbox {0}")]
    NoMailbox(String),
    #[error("the mailbox {0} does not take part: MAILBOXES does not name it")]
    Excluded(String),
    #[error(
        "refusing to write to the live organisation without confirmation: pass --yes, or run in a terminal"
    )]
    NobodyToAsk,
    #[error("nothing was imported")]
    Declined,
    #[error("failed to read the answer: {0}")]
    Answer(#[source] std::io::Error),
    #[error("failed to print the report: {0}")]
    Print(#[source] std::io::Error),
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, ImportError> {
    let files = arguments.files.iter().map(|path| SavedFile::read(path));
    let files: Vec<SavedFile> = files.collect::<Result<_, _>>()?;
    let mut settings = Settings::new(env::process);
    let mut pipeline = PipelineSettings::read(&mut settings);
    settings.finish()?;
    if let Some(made) = arguments.created_on {
        pipeline.created_on = match made {
            Made::Now => CreatedOn::Now,
            Made::Original => CreatedOn::Original,
        };
    }
    let count = |kind| files.iter().map(|file| file.count(kind)).sum::<usize>();
    let (messages, contacts) = (count(Kind::Message), count(Kind::Contact));
    if !arguments.dry_run && !arguments.yes {
        ask(messages, contacts, pipeline.dataverse_url.as_str())?;
    }
    let mut importer = Importer::connect(&arguments, &pipeline).await?;
    let mut report = Report::new(&files);
    let progress = progress_bar(messages + contacts);
    importer
        .import_contacts(&files, &mut report, &progress)
        .await?;
    importer
        .import_messages(&files, &mut report, &progress)
        .await?;
    progress.finish_and_clear();
    report.created_on_refused = importer.pipeline.created_on.is_refused();
    print(&report, &arguments)?;
    Ok(ExitCode::from(u8::from(!report.is_success())))
}

/// Prints the report. In a dry run it goes to standard error, because the rows go to standard
/// output.
fn print(report: &Report, arguments: &Arguments) -> Result<(), ImportError> {
    let mut out = std::io::stdout().lock();
    let printed = if arguments.json {
        writeln!(out, "{}", report.json())
    } else if arguments.dry_run {
        report.print(&mut std::io::stderr().lock(), true)
    } else {
        report.print(&mut out, false)
    };
    terminal::printed(printed).map_err(ImportError::Print)
}

/// The services and options of an import.
struct Importer {
    pipeline: Pipeline,
    /// The real ledger, also in a dry run.
    ledger: Ledger,
    table: String,
    /// The connected mailboxes that take part.
    mailboxes: Vec<Grant>,
    /// The connected mailboxes that do not take part.
    excluded: Vec<Grant>,
    /// The mailbox for messages that name none that is connected, from `--mailbox`.
    mailbox: Option<GrantId>,
    as_saved: bool,
    dry: Option<Dry>,
}

/// What a dry run uses instead of services that it could change.
struct Dry {
    rows: Rows,
    _ledger: EmbeddedLedger,
}

impl Importer {
    async fn connect(
        arguments: &Arguments,
        settings: &PipelineSettings,
    ) -> Result<Self, ImportError> {
        let aws = aws::connect().await?;
        let ledger = aws::ledger(&aws, &settings.ledger_table);
        let mut pipeline = settings.connect(&aws)?;
        let now = Utc::now();
        let paused = ledger.paused_until(&ApplicationUser::primary(), now).await;
        let table = settings.ledger_table.clone();
        let failed = |source| ImportError::Ledger {
            table: table.clone(),
            source,
        };
        if let Some(until) = paused.map_err(failed)? {
            return Err(ImportError::Paused(until));
        }
        let mailboxes = pipeline.nylas.grants().await;
        let mailboxes = mailboxes.map_err(ImportError::Grants)?;
        let takes_part = |grant: &Grant| pipeline.mailboxes.admits(grant);
        let (mailboxes, excluded): (Vec<Grant>, Vec<Grant>) =
            mailboxes.into_iter().partition(takes_part);
        let mailbox = arguments.mailbox.as_deref().map(|name| {
            let address = EmailAddress::parse(name);
            let is = |grant: &&Grant| {
                grant.id.as_str() == name || (address.is_some() && grant.address == address)
            };
            match mailboxes.iter().find(is) {
                Some(grant) => Ok(grant.id.clone()),
                None if excluded.iter().any(|grant| is(&grant)) => {
                    Err(ImportError::Excluded(printable(name)))
                }
                None => Err(ImportError::NoMailbox(printable(name))),
            }
        });
        let dry = if arguments.dry_run {
            let policy = pipeline.policy.policy(&ledger, now).await?;
            pipeline.policy = PolicySource::Given(policy);
            let embedded = EmbeddedLedger::start(None).await?;
            pipeline.ledger = embedded.ledger.clone();
            let rows = Rows::default();
            pipeline.dataverse = pipeline.dataverse.dry_run(rows.dry_run.clone());
            Some(Dry {
                rows,
                _ledger: embedded,
            })
        } else {
            None
        };
        Ok(Self {
            pipeline,
            ledger,
            table,
            mailbox: mailbox.transpose()?,
            mailboxes,
            excluded,
            as_saved: arguments.as_saved,
            dry,
        })
    }

    /// Returns why an object must not be imported: it names a mailbox that does not take part.
    /// Otherwise `None`.
    fn refusal(&self, object: &Value) -> Option<String> {
        let id = object.get("grant_id")?.as_str()?;
        let excluded = self.excluded.iter().any(|grant| grant.id.as_str() == id);
        excluded.then(|| format!("the mailbox {id} does not take part: MAILBOXES does not name it"))
    }

    /// Starts the invocation of one batch: its deadline and claim token.
    fn begin() -> Invocation {
        Invocation::begin(Utc::now() + STEP)
    }

    /// Ends a batch: prints the rows of a dry run, and returns whether a service asked for a pause.
    ///
    /// # Errors
    /// The rows cannot be printed, or the ledger cannot be read; the import stops.
    async fn must_stop(&mut self, report: &mut Report) -> Result<bool, ImportError> {
        if let Some(dry) = &mut self.dry {
            let printed = dry.rows.print(&mut std::io::stdout().lock());
            terminal::printed(printed).map_err(ImportError::Print)?;
        }
        let paused = self
            .pipeline
            .ledger
            .paused_until(&ApplicationUser::primary(), Utc::now())
            .await;
        let paused = paused.map_err(|source| ImportError::Ledger {
            table: self.table.clone(),
            source,
        })?;
        if let Some(until) = paused {
            report.paused("Dataverse", until);
        }
        Ok(report.is_paused())
    }
}

fn ask(messages: usize, contacts: usize, organisation: &str) -> Result<(), ImportError> {
    let question =
        format!("This imports {messages} messages and {contacts} contacts into {organisation}.");
    match terminal::ask(&question).map_err(ImportError::Answer)? {
        Answer::Yes => Ok(()),
        Answer::No => Err(ImportError::Declined),
        Answer::NobodyThere => Err(ImportError::NobodyToAsk),
    }
}

/// Returns a progress bar, which is shown on standard error and only on a terminal.
fn progress_bar(length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} objects, {eta} left") {
        bar.set_style(style);
    }
    bar
}
