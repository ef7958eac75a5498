//! `mailverse import`: saved messages through the pipeline, and saved contacts into Dataverse.
//!
//! 1. Read the files ([`saved`]): nothing is begun before each of them is known to hold something.
//! 2. People first ([`people`]), so that the mail finds them; then the mail ([`messages`]), as the backfill takes what it listed.
//! 3. Tell what became of each object that was not brought in ([`report`]).
//!
//! With `--dry-run` the same code runs on a client that notes its writes, and on a ledger in memory ([`rows`]).
//!
//! # Nothing twice
//!
//! What the CLI prints has no headers, so no Message-ID, by which copies of a mail in other mailboxes are the same mail. A message without one is
//! therefore asked for, one request each, and taken as Nylas has it. Only when Nylas has it no more, or with `--as-saved`, it is taken as it was saved:
//! its own mailbox then knows it by its id, and a copy in another mailbox would be a second row.
//!
//! Exit status: 0 when every object was brought in, or left out by a rule; 1 when one was not; 2 for bad usage, a file that cannot be used, no yes, or a service
//! that does not answer.

mod messages;
mod people;
mod report;
mod rows;
mod saved;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use mailverse::dedupe::ledger::{Ledger, LedgerError};
use mailverse::env::{self, Settings, SettingsError};
use mailverse::governor::User;
use mailverse::ids::{EmailAddress, GrantId};
use mailverse::nylas::error::NylasError;
use mailverse::nylas::wire::Grant;
use mailverse::pipeline::created_on::CreatedOn;
use mailverse::pipeline::settings::PipelineSettings;
use mailverse::pipeline::{Pipeline, Run};
use mailverse::policy::source::{PolicyError, PolicySource};
use serde_json::Value;

use self::report::Report;
use self::rows::Rows;
use self::saved::{FileError, Kind, SavedFile};
use crate::aws::{self, AwsError};
use crate::replay::ledger::{EmbeddedError, EmbeddedLedger};
use crate::terminal::{self, Answer, printable};

/// Time that some objects may take together: less than a claim lasts.
const STEP: TimeDelta = TimeDelta::seconds(150);

/// Brings saved messages and contacts into Dynamics 365.
///
/// Takes what `nylas email list --json` and `nylas contacts list --json` print, and list answers of the API, whatever the files are called. Needs the settings of
/// the sync-worker, and AWS's own variables. Run it again when it was interrupted: nothing is written twice.
#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(crate) struct Arguments {
    /// Saved files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Whose mailbox it is, by its address or grant id, where a message does not name one that is connected.
    #[arg(long, value_name = "MAILBOX")]
    mailbox: Option<String>,
    /// Take messages without a Message-ID as they are saved, without asking Nylas for each. A copy in another mailbox may then become a second row.
    #[arg(long)]
    as_saved: bool,
    /// When the rows of old mail say that they were made; the default is the setting CREATED_ON.
    #[arg(long, value_enum, value_name = "WHEN")]
    created_on: Option<Made>,
    /// Print the rows that would be written, a JSON object a line, and write none.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object in place of the report.
    #[arg(long)]
    json: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Made {
    Now,
    Original,
}

/// Nothing was imported, or the import could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0} (import reads the settings of the sync-worker)")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    #[error("table {table}: {source}")]
    Ledger { table: String, source: LedgerError },
    #[error("{0}")]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    #[error("Dataverse asked for a pause until {}: import then", .0.to_rfc3339())]
    Paused(DateTime<Utc>),
    #[error("the mailboxes cannot be listed: {0}")]
    Grants(#[source] NylasError),
    #[error("Nylas has no mailbox {0}")]
    NoMailbox(String),
    #[error("the mailbox {0} does not take part: MAILBOXES does not name it")]
    Excluded(String),
    #[error(
        "import writes to the real organisation: say --yes, or run it on a terminal and answer"
    )]
    NobodyToAsk,
    #[error("nothing was imported")]
    Declined,
    #[error("the answer cannot be read: {0}")]
    Answer(#[source] std::io::Error),
    #[error("the report cannot be printed: {0}")]
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
        .bring_in_people(&files, &mut report, &progress)
        .await?;
    importer
        .bring_in_messages(&files, &mut report, &progress)
        .await?;
    progress.finish_and_clear();
    report.created_on_refused = importer.pipeline.created_on.is_refused();
    print(&report, &arguments)?;
    Ok(ExitCode::from(u8::from(!report.is_success())))
}

/// Rows are for standard output; the report goes beside them.
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

/// What an import works with.
struct Importer {
    pipeline: Pipeline,
    /// The real one, also in a dry run.
    ledger: Ledger,
    table: String,
    /// Those that are connected and take part.
    mailboxes: Vec<Grant>,
    /// Those that are connected and do not.
    excluded: Vec<Grant>,
    /// Whose mailbox it is where a message does not say.
    mailbox: Option<GrantId>,
    as_saved: bool,
    dry: Option<Dry>,
}

/// What a dry run has in place of services that could be changed.
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
        let paused = ledger.paused_until(&User::primary(), now).await;
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
            pipeline.dataverse = pipeline.dataverse.rehearsing(rows.rehearsal.clone());
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

    /// Why an object must not be brought in: the mailbox that it names does not take part.
    fn refusal(&self, object: &Value) -> Option<String> {
        let id = object.get("grant_id")?.as_str()?;
        let excluded = self.excluded.iter().any(|grant| grant.id.as_str() == id);
        excluded.then(|| format!("the mailbox {id} does not take part: MAILBOXES does not name it"))
    }

    /// Time and chance of one step.
    fn begin() -> Run {
        Run::begin(Utc::now() + STEP)
    }

    /// After each step: prints what it would have written, and says whether a service wants no more.
    async fn must_stop(&mut self, report: &mut Report) -> Result<bool, ImportError> {
        if let Some(dry) = &mut self.dry {
            let printed = dry.rows.print(&mut std::io::stdout().lock());
            terminal::printed(printed).map_err(ImportError::Print)?;
        }
        let paused = self
            .pipeline
            .ledger
            .paused_until(&User::primary(), Utc::now())
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
        format!("This brings {messages} messages and {contacts} contacts into {organisation}.");
    match terminal::ask(&question).map_err(ImportError::Answer)? {
        Answer::Yes => Ok(()),
        Answer::No => Err(ImportError::Declined),
        Answer::NobodyThere => Err(ImportError::NobodyToAsk),
    }
}

/// On standard error, and only on a terminal.
fn progress_bar(length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} objects, {eta} left") {
        bar.set_style(style);
    }
    bar
}
