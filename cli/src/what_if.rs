//! `mailverse what-if`: shows what another policy would have changed for recent messages. Writes
//! nothing.
//!
//! 1. Check the new document and read the stored policy.
//! 2. List the recent messages of the mailboxes, page by page.
//! 3. Run each page through the read-only steps of the pipeline, once under each policy.
//! 4. Report the differences ([`difference`], [`report`]).
//!
//! Pushing a policy does not change rows that exist already. The report shows how similar messages
//! would be processed from then on.
//!
//! Exit status: 0 if every message could be compared; 1 if the document is invalid, or a message or
//! mailbox could not be compared; 2 for bad usage, or if a service does not answer.

mod difference;
mod report;

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use mailverse::clients::nylas::error::NylasError;
use mailverse::clients::nylas::wire::Grant;
use mailverse::clients::nylas::{Filter, Headers, LARGEST_PAGE};
use mailverse::env::{self, Settings, SettingsError};
use mailverse::ledger::messages::LedgerError;
use mailverse::model::message::Message;
use mailverse::pipeline::config::PipelineSettings;
use mailverse::pipeline::preview::Preview;
use mailverse::pipeline::{Invocation, Pipeline};
use mailverse::policy::cache::PolicySource;
use mailverse::policy::{Policy, Problem};
use mailverse::rate_limit::ApplicationUser;

use self::report::Report;
use crate::aws::{self, AwsError};
use crate::policy::{PolicyFileError, from_file};
use crate::status::age::Age;
use crate::terminal::{self, printable};

/// The time limit of one page.
const PAGE_TIME: TimeDelta = TimeDelta::hours(1);

/// Shows what another policy would have changed for recent messages. Writes nothing.
///
/// Compares the policy in a file with the stored policy. Reads the settings of sync-worker from the
/// environment, with the standard AWS variables. Exit status: 0 if every message could be compared,
/// 1 if not or if the document is invalid, 2 if the command failed.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The policy document to compare with the stored one, a JSON file.
    policy: PathBuf,
    /// Compare messages that were received within this time: a number and a unit (s, m, h or d),
    /// such as 12h or 7d.
    #[arg(long, value_name = "AGE", default_value = "7d")]
    since: Age,
    /// Compare only messages of this mailbox: its address or grant id. May be given several times.
    /// Default: all mailboxes that take part.
    #[arg(long, value_name = "MAILBOX")]
    mailbox: Vec<String>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WhatIfError {
    #[error(transparent)]
    File(#[from] PolicyFileError),
    #[error("{0} (what-if reads the settings of sync-worker)")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("failed to create an HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    #[error("failed to read the ledger table {table}: {source}")]
    Ledger { table: String, source: LedgerError },
    #[error("the stored policy is invalid, so there is nothing to compare with:\n{0}")]
    Stored(String),
    #[error("Dataverse asked for a pause until {}: run the command again after that", .0.to_rfc3339())]
    Paused(DateTime<Utc>),
    #[error("failed to list the mailboxes: {0}")]
    Grants(#[source] NylasError),
    #[error("the mailbox {0} does not take part: MAILBOXES does not name it")]
    Excluded(String),
    #[error("Nylas has no mailbox {0} that is signed in")]
    NoMailbox(String),
    #[error("failed to print the report: {0}")]
    Print(#[source] std::io::Error),
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, WhatIfError> {
    let after = match from_file(&arguments.policy) {
        Err(problems @ PolicyFileError::Problems { .. }) => {
            eprintln!("{problems}");
            return Ok(ExitCode::from(1));
        }
        other => other?,
    };
    let mut settings = Settings::new(env::process);
    let pipeline = PipelineSettings::read(&mut settings);
    settings.finish()?;
    let aws = aws::connect().await?;
    let failed = |source| WhatIfError::Ledger {
        table: pipeline.ledger_table.clone(),
        source,
    };
    let ledger = aws::ledger(&aws, &pipeline.ledger_table);
    let now = Utc::now();
    if let Some(until) = ledger
        .paused_until(&ApplicationUser::primary(), now)
        .await
        .map_err(failed)?
    {
        return Err(WhatIfError::Paused(until));
    }
    let before = match ledger.stored_policy().await.map_err(failed)? {
        None => Policy::default(),
        Some(stored) => Policy::parse(&stored.document).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
            WhatIfError::Stored(lines.join("\n"))
        })?,
    };
    let mut asker = Asker {
        pipeline: pipeline.connect(&aws)?,
        policies: [before, after],
    };
    let mailboxes = asker.mailboxes(&arguments.mailbox).await?;
    let mut report = Report::new(&asker.policies, now - arguments.since.time());
    for mailbox in &mailboxes {
        asker.compare_mailbox(mailbox, &mut report).await;
    }
    let mut out = std::io::stdout().lock();
    let printed = if arguments.json {
        writeln!(out, "{}", report.json())
    } else {
        report.print(&mut out)
    };
    terminal::printed(printed).map_err(WhatIfError::Print)?;
    Ok(ExitCode::from(u8::from(!report.is_complete())))
}

/// Runs previews on one pipeline under both policies, so that mailboxes, folders and token are read
/// only once.
struct Asker {
    pipeline: Pipeline,
    /// The stored policy and the new one.
    policies: [Policy; 2],
}

impl Asker {
    /// Returns the mailboxes to compare: those in `wanted`, or all that take part and are signed
    /// in.
    ///
    /// # Errors
    /// The mailboxes cannot be listed, or a name in `wanted` is not one of them.
    async fn mailboxes(&self, wanted: &[String]) -> Result<Vec<Grant>, WhatIfError> {
        let grants = self.pipeline.nylas.grants().await;
        let grants = grants.map_err(WhatIfError::Grants)?;
        let is = |grant: &Grant, name: &str| {
            let address = grant.address.as_ref();
            grant.id.as_str() == name
                || address.is_some_and(|address| address.as_str() == name.trim().to_lowercase())
        };
        let takes_part = |grant: &Grant| self.pipeline.mailboxes.admits(grant);
        let (grants, excluded): (Vec<Grant>, Vec<Grant>) = grants.into_iter().partition(takes_part);
        let valid: Vec<Grant> = grants.into_iter().filter(|grant| grant.valid).collect();
        for name in wanted {
            if excluded.iter().any(|grant| is(grant, name)) {
                return Err(WhatIfError::Excluded(printable(name)));
            }
            if !valid.iter().any(|grant| is(grant, name)) {
                return Err(WhatIfError::NoMailbox(printable(name)));
            }
        }
        let meant = |grant: &Grant| wanted.is_empty() || wanted.iter().any(|name| is(grant, name));
        Ok(valid.into_iter().filter(meant).collect())
    }

    /// Lists the recent messages of a mailbox and compares them. A mailbox that cannot be listed is
    /// reported and does not stop the others.
    async fn compare_mailbox(&mut self, mailbox: &Grant, report: &mut Report) {
        report.mailboxes += 1;
        let mut headers = Headers::Basic;
        for policy in self.policies.clone() {
            self.pipeline.policy = PolicySource::given(policy);
            if self.pipeline.headers(&mailbox.id, Utc::now()).await == Headers::All {
                headers = Headers::All;
            }
        }
        let mut page_token: Option<String> = None;
        let mut seen = HashSet::new();
        loop {
            let filter = Filter {
                received_after: report.since.timestamp(),
                ..Filter::default()
            };
            // The largest page that Nylas allows: a command has enough memory for the bodies, and
            // should make few requests.
            let page = self.pipeline.nylas.messages(
                &mailbox.id,
                &filter,
                page_token.as_deref(),
                headers,
                LARGEST_PAGE,
            );
            let mut page = match page.await {
                Ok(page) => page,
                Err(error) => return report.not_listed(&mailbox.id, &error),
            };
            // New messages shift the list while it is read, so a message may appear twice.
            page.messages
                .retain(|message| seen.insert(message.key.clone()));
            self.compare(page.messages, report).await;
            page_token = page.next;
            if page_token.is_none() {
                return;
            }
        }
    }

    async fn compare(&mut self, messages: Vec<Message>, report: &mut Report) {
        let [before, after] = self.policies.clone();
        let before = self.previews(before, messages.clone()).await;
        let mut after = self.previews(after, messages).await;
        for (key, before) in before {
            if let Some(after) = after.remove(&key) {
                report.add(&before, &after);
            }
        }
    }

    async fn previews(
        &mut self,
        policy: Policy,
        messages: Vec<Message>,
    ) -> BTreeMap<mailverse::model::ids::MessageKey, Preview> {
        self.pipeline.policy = PolicySource::given(policy);
        let run = Invocation::begin(Utc::now() + PAGE_TIME);
        let previews = self.pipeline.preview(messages, &run).await;
        previews
            .into_iter()
            .map(|preview| (preview.key.clone(), preview))
            .collect()
    }
}
