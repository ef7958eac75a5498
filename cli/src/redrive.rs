//! `mailverse redrive`: queues dead messages again.
//!
//! For each message, in this order: mark it in the ledger as claimable again, then send a sync
//! request to the queue. If the command ends between the two, the message is claimable but not
//! queued, and the same command does the rest: a claimable message stays dead until a worker claims
//! it. A superfluous sync request only adds one read of the ledger.
//!
//! Exit status: 0 if every message was queued; 1 if a message was not; 2 for bad usage, a missing
//! confirmation, or if AWS does not answer (the number of messages queued before is printed).

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use futures_util::{StreamExt, stream};
use mailverse::clients::aws::queue::{QueueError, SqsQueue, SyncQueue};
use mailverse::env::{self, Settings, SettingsError};
use mailverse::ledger::State;
use mailverse::ledger::attention_index::Attention;
use mailverse::ledger::messages::{Ledger, LedgerError};
use mailverse::model::ids::MessageKey;
use mailverse::model::sync_request::{SyncRequest, Trigger};

use crate::aws::{self, AwsError};
use crate::status::is_being_tried;
use crate::terminal::{self, Answer, printable};

/// The number of messages processed at the same time.
const IN_FLIGHT: usize = 10;

/// Queues dead messages again, after the cause is fixed.
///
/// Reads and changes the ledger (the table that LEDGER_TABLE names) and sends to the queue
/// SYNC_QUEUE_URL, with the standard AWS variables. Messages that are not dead are not changed. If
/// it was interrupted, run it again: a message is written once, however often it is queued. Exit
/// status: 0 if every message was queued, 1 if not, 2 if the command failed.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Messages to queue, as MAILBOX/MESSAGE: the form that `mailverse status` prints and that logs
    /// have as sync.key.
    #[arg(
        value_name = "MESSAGE",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    messages: Vec<MessageKey>,
    /// Queue all dead messages.
    #[arg(long)]
    all: bool,
    /// Queue only dead messages whose reason contains TEXT, for example a Dataverse error code such
    /// as 0x80044331. Ignores case.
    #[arg(
        long,
        value_name = "TEXT",
        requires = "all",
        conflicts_with = "messages"
    )]
    reason: Option<String>,
    /// Do not ask for confirmation.
    #[arg(long)]
    yes: bool,
}

/// The command stopped early; running it again does the rest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedriveError {
    #[error("{0} (the name of the ledger table and the URL of the sync queue)")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error(
        "failed to read or change the ledger table {table}: {source}; run the same command again"
    )]
    Ledger { table: String, source: LedgerError },
    #[error("failed to send to the queue {url}: {source}; run the same command again")]
    Queue { url: String, source: QueueError },
    #[error(
        "refusing to queue messages again without confirmation: pass --yes, or run in a terminal"
    )]
    NobodyToAsk,
    #[error("nothing was queued")]
    Declined,
    #[error("failed to read the answer: {0}")]
    Answer(#[source] std::io::Error),
    #[error("failed to print the report: {0}")]
    Print(#[source] std::io::Error),
}

/// The result of redriving one message.
enum Outcome {
    Queued,
    /// The message is in another state, and was not changed.
    NotDead(State),
    /// The ledger has no such message.
    Unknown,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, RedriveError> {
    let redrive = Redrive::connect().await?;
    let mut messages = if arguments.all {
        redrive.dead(arguments.reason.as_deref()).await?
    } else {
        arguments.messages
    };
    let mut seen = HashSet::new();
    messages.retain(|key| seen.insert(key.clone()));
    if messages.is_empty() {
        let which = arguments.reason.map_or_else(String::new, |text| {
            format!(" with a reason that contains {}", printable(&text))
        });
        say(&format!("Nothing to redrive: no message is dead{which}."))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.yes {
        let what = format!(
            "This sends {} to the sync queue again.",
            terminal::counted(messages.len(), "message")
        );
        match terminal::ask(&what).map_err(RedriveError::Answer)? {
            Answer::Yes => {}
            Answer::No => return Err(RedriveError::Declined),
            Answer::NobodyThere => return Err(RedriveError::NobodyToAsk),
        }
    }
    redrive.all(messages).await
}

/// The ledger and the queue that a redrive changes.
struct Redrive {
    table: String,
    ledger: Ledger,
    url: String,
    queue: SqsQueue,
}

impl Redrive {
    async fn connect() -> Result<Self, RedriveError> {
        let mut settings = Settings::new(env::process);
        let table = settings.required("LEDGER_TABLE");
        let url = settings.required("SYNC_QUEUE_URL");
        settings.finish()?;
        let aws = aws::connect().await?;
        Ok(Self {
            ledger: aws::ledger(&aws, &table),
            queue: SqsQueue::new(aws_sdk_sqs::Client::new(&aws), url.clone()),
            table,
            url,
        })
    }

    /// Returns the dead messages whose reason contains `text`, ignoring case. Omits messages whose
    /// last attempt is in progress.
    async fn dead(&self, text: Option<&str>) -> Result<Vec<MessageKey>, RedriveError> {
        let text = text.unwrap_or_default().to_lowercase();
        let now = Utc::now();
        let meant = |one: &Attention| {
            let reason = one.entry.reason.as_deref().unwrap_or_default();
            !is_being_tried(one, now) && reason.to_lowercase().contains(&text)
        };
        let dead =
            self.ledger
                .needing_attention(State::Dead, DateTime::<Utc>::MAX_UTC, usize::MAX, meant);
        let dead = dead.await.map_err(|error| self.ledger_failed(error))?;
        Ok(dead.into_iter().map(|one| one.key).collect())
    }

    /// Redrives the messages, and prints the reason for each one that was not queued. Stops if AWS
    /// fails.
    async fn all(&self, messages: Vec<MessageKey>) -> Result<ExitCode, RedriveError> {
        let all = messages.len();
        let outcomes = stream::iter(messages).map(async |key| {
            let outcome = self.one(&key).await;
            (key, outcome)
        });
        let mut outcomes = std::pin::pin!(outcomes.buffered(IN_FLIGHT));
        let (mut queued, mut failure) = (0_usize, None);
        while let Some((key, outcome)) = outcomes.next().await {
            let why = match outcome {
                Ok(Outcome::Queued) => {
                    queued += 1;
                    continue;
                }
                Ok(Outcome::NotDead(state)) => not_dead(state),
                Ok(Outcome::Unknown) => "is not in the ledger: no worker has claimed it",
                Err(error) => {
                    // The next message would fail too. Later ones may be queued already, which is
                    // harmless.
                    failure = Some(error);
                    break;
                }
            };
            eprintln!("mailverse: {} {why}", printable(&key.to_string()));
        }
        say(&format!(
            "{queued} of {} queued.",
            terminal::counted(all, "message")
        ))?;
        match failure {
            Some(error) => Err(error),
            None => Ok(ExitCode::from(u8::from(queued < all))),
        }
    }

    async fn one(&self, key: &MessageKey) -> Result<Outcome, RedriveError> {
        let failed = |error| self.ledger_failed(error);
        if !self.ledger.redrive(key).await.map_err(failed)? {
            let entry = self.ledger.entry(key).await.map_err(failed)?;
            return Ok(entry.map_or(Outcome::Unknown, |entry| Outcome::NotDead(entry.state)));
        }
        // The trigger of a listed message, so that no worker treats it as new.
        let request = SyncRequest {
            key: key.clone(),
            trigger: Trigger::Backfill,
        };
        let sent = self.queue.send(&request, Duration::ZERO).await;
        sent.map_err(|source| RedriveError::Queue {
            url: self.url.clone(),
            source,
        })?;
        Ok(Outcome::Queued)
    }

    fn ledger_failed(&self, source: LedgerError) -> RedriveError {
        RedriveError::Ledger {
            table: self.table.clone(),
            source,
        }
    }
}

fn not_dead(state: State) -> &'static str {
    match state {
        State::Waiting => "is waiting and will be retried automatically: not queued",
        State::Written => "is written already: not queued",
        State::Skipped => "was skipped by the policy: not queued",
        State::Dead => "died while this command ran: run the same command again",
    }
}

fn say(line: &str) -> Result<(), RedriveError> {
    let mut out = std::io::stdout().lock();
    terminal::printed(writeln!(out, "{line}")).map_err(RedriveError::Print)
}
