//! `mailverse redrive`: dead messages are tried again.
//!
//! For each message, in this order: the ledger is told that it may be claimed again, then a request for it goes on the sync queue. Should the command
//! end between the two, nothing has happened to the message but the permission, and the same command does the rest: a message that may be claimed
//! is still dead until a worker takes it up. A request too many costs one look at the ledger.
//!
//! Exit status: 0 when every message was queued; 1 when one was not; 2 for bad usage, without a yes, or when AWS does not answer (what was queued before is counted).

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use futures_util::{StreamExt, stream};
use mailverse::dedupe::State;
use mailverse::dedupe::attention::Attention;
use mailverse::dedupe::ledger::{Ledger, LedgerError};
use mailverse::env::{self, Settings, SettingsError};
use mailverse::ids::MessageKey;
use mailverse::queue::{QueueError, SqsQueue, SyncQueue};
use mailverse::sync_request::{SyncRequest, Trigger};

use crate::aws::{self, AwsError};
use crate::status::is_being_tried;
use crate::terminal::{self, Answer, printable};

/// Messages on their way at once.
const IN_FLIGHT: usize = 10;

/// Puts dead messages on the sync queue again, once the cause is mended.
///
/// Reads and changes the ledger's table, which LEDGER_TABLE names, and sends to the queue of SYNC_QUEUE_URL, with AWS's own variables. A message that is
/// not dead is left alone. Run it again when it was interrupted: a message is written once, however often it is queued.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Messages, as `mailverse status` and sync.key in the logs name them: mailbox/message.
    #[arg(
        value_name = "MESSAGE",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    messages: Vec<MessageKey>,
    /// All dead messages.
    #[arg(long)]
    all: bool,
    /// Only those whose reason contains TEXT, in whatever case: a code of Dataverse, for example.
    #[arg(
        long,
        value_name = "TEXT",
        requires = "all",
        conflicts_with = "messages"
    )]
    reason: Option<String>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Not everything was done; the same command does the rest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedriveError {
    #[error("{0} (the name of the ledger's table and the URL of the sync queue)")]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Aws(#[from] AwsError),
    #[error("table {table}: {source}; run the same command again")]
    Ledger { table: String, source: LedgerError },
    #[error("queue {url}: {source}; run the same command again")]
    Queue { url: String, source: QueueError },
    #[error("redrive queues messages again: say --yes, or run it on a terminal and answer")]
    NobodyToAsk,
    #[error("nothing was queued")]
    Declined,
    #[error("the answer cannot be read: {0}")]
    Answer(#[source] std::io::Error),
    #[error("the report cannot be printed: {0}")]
    Print(#[source] std::io::Error),
}

/// What became of a message.
enum Outcome {
    Queued,
    /// It is in another state.
    NotDead(State),
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
            format!(" for a reason that contains {}", printable(&text))
        });
        say(&format!("Nothing to redrive: no message is dead{which}."))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.yes {
        let what = format!(
            "This puts {} on the sync queue again.",
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

/// The two places that a redrive touches.
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

    /// The dead whose reason contains `text`, those left out whose last try is under way.
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

    /// Redrives them and tells what became of each that was not queued, until AWS fails.
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
                Ok(Outcome::Unknown) => "is unknown to the ledger: no worker has claimed it",
                Err(error) => {
                    // The next one would fail too. Some more may be queued already, which does no harm.
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
        // Like what a list of the mailbox shows: no worker takes it for new.
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
        State::Waiting => "is waiting, and will be tried again by itself: left alone",
        State::Written => "is written: left alone",
        State::Skipped => "was skipped by the policy: left alone",
        State::Dead => "died a moment ago: run the same command again",
    }
}

fn say(line: &str) -> Result<(), RedriveError> {
    let mut out = std::io::stdout().lock();
    terminal::printed(writeln!(out, "{line}")).map_err(RedriveError::Print)
}
