//! `mailverse policy`: manages the policy, the document that defines what is tracked.
//!
//! | Command | What it does |
//! | --- | --- |
//! | `check FILE` | checks a document and prints every problem with its position |
//! | `push FILE` | prints what a document changes and stores it; it is in force everywhere within five minutes |
//! | `show` | prints the policy in force with its defaults, for all mailboxes or for one |
//! | `schema` | prints the JSON Schema of the document, for editors |
//!
//! Exit status: 0 if the command succeeded; 1 if a document is invalid; 2 for bad usage, or if a
//! file or the table cannot be read or written.

mod changes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aws_config::BehaviorVersion;
use chrono::Utc;
use clap::{Args, Subcommand};
use mailverse::env::{self, Settings, SettingsError};
use mailverse::ledger::messages::{Ledger, LedgerError};
use mailverse::ledger::policy_document::{Pushed, StoredPolicy};
use mailverse::model::address::EmailAddress;
use mailverse::policy::document::Document;
use mailverse::policy::{Policy, Problem, version_of};
use serde_json::{Value, json};

/// Checks, stores and shows the policy: what is tracked, and how contacts and regarding are set.
///
/// `push` and `show` use the ledger table that LEDGER_TABLE names, with the standard AWS variables.
/// Exit status: 0 if the command succeeded, 1 if a document is invalid, 2 if the command failed.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Checks a policy document and prints every problem with its position. Needs no services.
    Check {
        /// The policy document, a JSON file.
        file: PathBuf,
    },
    /// Checks a policy document, prints what it changes, and stores it. It is in force everywhere
    /// within five minutes.
    Push {
        /// The policy document, a JSON file.
        file: PathBuf,
    },
    /// Prints the stored policy with its defaults filled in, in a form that can be pushed again.
    Show {
        /// Print the settings in force for this mailbox instead of the whole policy.
        #[arg(long, value_name = "ADDRESS")]
        mailbox: Option<String>,
    },
    /// Prints the JSON Schema of the policy document, for editors.
    Schema,
}

/// A policy file that cannot be read or is invalid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyFileError {
    #[error("{}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}", listed(path, problems))]
    Problems {
        path: PathBuf,
        problems: Vec<Problem>,
    },
}

fn listed(path: &Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}: {problem}", path.display()))
        .collect();
    lines.join("\n")
}

/// The command failed. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error(transparent)]
    File(#[from] PolicyFileError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("--mailbox must be an email address (got {0})")]
    NoAddress(String),
    #[error(
        "another policy was pushed in the meantime: check it with `mailverse policy show`, then push again"
    )]
    Changed,
    #[error("the stored policy is invalid, and messages wait until it is replaced:\n{0}")]
    Unusable(String),
    #[error("failed to write JSON: {0}")]
    Print(#[from] serde_json::Error),
}

/// Reads and checks a policy document.
///
/// # Errors
/// [`PolicyFileError`]: the file cannot be read, or names every problem of the document.
pub(crate) fn from_file(path: &Path) -> Result<Policy, PolicyFileError> {
    Policy::parse(&read(path)?).map_err(|problems| PolicyFileError::Problems {
        path: path.to_owned(),
        problems,
    })
}

fn read(path: &Path) -> Result<String, PolicyFileError> {
    std::fs::read_to_string(path).map_err(|source| PolicyFileError::Read {
        path: path.to_owned(),
        source,
    })
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, PolicyError> {
    let done = match arguments.verb {
        Verb::Check { file } => check(&file),
        Verb::Push { file } => push(&file).await,
        Verb::Show { mailbox } => show(mailbox.as_deref()).await,
        Verb::Schema => print(&schemars::schema_for!(Document)),
    };
    match done {
        Err(PolicyError::File(problems @ PolicyFileError::Problems { .. })) => {
            eprintln!("{problems}");
            Ok(ExitCode::from(1))
        }
        Err(unusable @ PolicyError::Unusable(_)) => {
            eprintln!("{unusable}");
            Ok(ExitCode::from(1))
        }
        Err(error) => Err(error),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

fn check(file: &Path) -> Result<(), PolicyError> {
    let policy = from_file(file)?;
    println!("{}: version {} is valid", file.display(), policy.version());
    Ok(())
}

async fn push(file: &Path) -> Result<(), PolicyError> {
    let text = read(file)?;
    let policy = from_file(file)?;
    let ledger = ledger().await?;
    let stored = ledger.stored_policy().await?;
    let seen = stored.as_ref().map(|stored| stored.version.as_str());
    let before = match &stored {
        None => {
            println!("No policy is stored: the defaults have applied so far.");
            Some(Policy::default())
        }
        Some(stored) => {
            let before = Policy::parse(&stored.document).ok();
            if before.is_none() {
                println!("The stored policy is invalid: all settings are shown as new.");
            }
            before
        }
    };
    let changes = changes::between(before.as_ref().map(Policy::document), policy.document())?;
    for change in &changes {
        println!("{change}");
    }
    if changes.is_empty() {
        println!("No setting changes.");
    }
    let version = version_of(&text);
    match ledger
        .push_policy(&text, &version, seen, Utc::now())
        .await?
    {
        Pushed::Stored => {
            println!("Version {version} is stored. It is in force everywhere within five minutes.");
            Ok(())
        }
        Pushed::Changed => Err(PolicyError::Changed),
    }
}

async fn show(mailbox: Option<&str>) -> Result<(), PolicyError> {
    let mailbox = mailbox
        .map(|text| {
            EmailAddress::parse(text).ok_or_else(|| PolicyError::NoAddress(text.to_owned()))
        })
        .transpose()?;
    let stored = ledger().await?.stored_policy().await?;
    let policy = match &stored {
        None => Policy::default(),
        Some(stored) => Policy::parse(&stored.document).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
            PolicyError::Unusable(lines.join("\n"))
        })?,
    };
    // On standard error, so that the document on standard output can be pushed again.
    eprintln!("{}", origin(stored.as_ref()));
    match mailbox {
        None => print(policy.document()),
        Some(address) => {
            let mut domains: Vec<&String> = policy.internal_domains().iter().collect();
            domains.sort();
            let mut mailbox_policy = json!(policy.for_mailbox(Some(&address)));
            if let Value::Object(settings) = &mut mailbox_policy {
                settings.insert("internal_domains".to_owned(), json!(domains));
            }
            print(&mailbox_policy)
        }
    }
}

fn origin(stored: Option<&StoredPolicy>) -> String {
    let Some(stored) = stored else {
        return "No policy is stored: the defaults apply.".to_owned();
    };
    let pushed_at = stored
        .pushed_at
        .map_or_else(|| "at an unknown time".to_owned(), |time| time.to_rfc3339());
    let revision = match stored.revision {
        0 => String::new(),
        revision => format!(", revision {revision}"),
    };
    format!("Version {}{revision}, pushed {pushed_at}", stored.version)
}

fn print<T: serde::Serialize>(value: &T) -> Result<(), PolicyError> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Returns the ledger in the table that `LEDGER_TABLE` names.
async fn ledger() -> Result<Ledger, PolicyError> {
    let mut settings = Settings::new(env::process);
    let table = settings.required("LEDGER_TABLE");
    settings.finish()?;
    let aws = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
    Ok(Ledger::new(aws_sdk_dynamodb::Client::new(&aws), table))
}
