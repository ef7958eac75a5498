//! `mailverse policy`: the document that says what is tracked.
//!
//! | Verb | Question |
//! | --- | --- |
//! | `check FILE` | Can this document be used, and if not, what is wrong with it and where? |
//! | `push FILE` | What does it change? Then it holds, everywhere within five minutes. |
//! | `show` | What holds now, with the defaults filled in; what holds for one mailbox? |
//! | `schema` | What may stand in such a document? For editors. |
//!
//! Exit status: 0 when it was done; 1 when a document cannot be used; 2 for bad usage, or when a file or the table cannot be read or written.

mod changes;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aws_config::BehaviorVersion;
use chrono::Utc;
use clap::{Args, Subcommand};
use mailverse::dedupe::ledger::{Ledger, LedgerError};
use mailverse::dedupe::stored_policy::{Pushed, StoredPolicy};
use mailverse::env::{self, Settings, SettingsError};
use mailverse::ids::EmailAddress;
use mailverse::policy::document::Document;
use mailverse::policy::{Policy, Problem, version_of};
use serde_json::{Value, json};

/// Checks, stores and shows the policy: what is tracked, who is created, and what a mail is about.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Checks a document and prints every problem with its place.
    Check {
        /// The document.
        file: PathBuf,
    },
    /// Checks a document, shows what it changes, and stores it in the ledger's table (setting LEDGER_TABLE).
    Push {
        /// The document.
        file: PathBuf,
    },
    /// Prints the stored document with its defaults filled in (setting LEDGER_TABLE).
    Show {
        /// Print what holds for this mailbox.
        #[arg(long, value_name = "ADDRESS")]
        mailbox: Option<String>,
    },
    /// Prints the JSON Schema of the document.
    Schema,
}

/// A document that was named and cannot be used.
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

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error(transparent)]
    File(#[from] PolicyFileError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("{0} is no address")]
    NoAddress(String),
    #[error("somebody has pushed another policy meanwhile: look at it, and push again")]
    Changed,
    #[error("the stored policy cannot be used, and messages wait:\n{0}")]
    Unusable(String),
    #[error("cannot be printed: {0}")]
    Print(#[from] serde_json::Error),
}

/// Reads and checks a document.
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
    println!(
        "{}: version {} can be used",
        file.display(),
        policy.version()
    );
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
            println!("No policy is stored: the defaults hold until now.");
            Some(Policy::default())
        }
        Some(stored) => {
            let before = Policy::parse(&stored.document).ok();
            if before.is_none() {
                println!("The stored policy cannot be used: everything is new.");
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
            println!("Version {version} is stored. It holds everywhere within five minutes.");
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
    // Beside the document, so that what is printed can be pushed again.
    eprintln!("{}", origin(stored.as_ref()));
    match mailbox {
        None => print(policy.document()),
        Some(address) => {
            let mut domains: Vec<&String> = policy.internal_domains().iter().collect();
            domains.sort();
            let mut effective = json!(policy.for_mailbox(Some(&address)));
            if let Value::Object(settings) = &mut effective {
                settings.insert("internal_domains".to_owned(), json!(domains));
            }
            print(&effective)
        }
    }
}

fn origin(stored: Option<&StoredPolicy>) -> String {
    let Some(stored) = stored else {
        return "No policy is stored: the defaults hold.".to_owned();
    };
    let pushed_at = stored
        .pushed_at
        .map_or_else(|| "nobody knows when".to_owned(), |time| time.to_rfc3339());
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

/// The ledger's table, as the environment names it.
async fn ledger() -> Result<Ledger, PolicyError> {
    let mut settings = Settings::new(env::process);
    let table = settings.required("LEDGER_TABLE");
    settings.finish()?;
    let aws = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
    Ok(Ledger::new(aws_sdk_dynamodb::Client::new(&aws), table))
}
