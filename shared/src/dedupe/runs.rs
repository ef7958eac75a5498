//! Runs of the backfill: what was asked for, and how far the list of each mailbox has come.
//!
//! One item for each run that an operator asked for:
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk` | S | `run#` and the run's id |
//! | `sk` | S | `run` |
//! | `asked_for` | S | what was asked for, as JSON: times and a flag |
//! | `expires_at` | N | when the table's TTL may remove it, Unix seconds |
//!
//! and one for each mailbox of a run, the operator's and the schedule's alike:
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk`, `sk` | S | `run#` and the run's id; `mailbox#` and the grant id |
//! | `state` | S | `queued`, `parked`, `done` or `failed` |
//! | `pages` | N | pages that were settled. Whoever saves names the number that it began with, so that of two workers one cannot set the other back |
//! | `saved_by` | S | who saved last; by it, a save whose answer was lost is recognised |
//! | `part` | S | which part of the mailbox is being listed; absent in the first |
//! | `cursor`, `cursor_at_ms` | S, N | Nylas' cursor of the next page, and when it was given; absent at the beginning of a part |
//! | `before` | N | the upper bound that the cursor belongs to, Unix seconds; absent without one |
//! | `reached` | N | how far back the list of this part has come: the date of the newest message of the last settled page, Unix seconds |
//! | `listed`, `written`, `skipped`, `waiting`, `dead`, `repaired` | N | what was found: [`Coverage`] |
//! | `nylas_failures` | N | how often Nylas failed since a page was settled last; absent when it has not |
//! | `reason` | S | why it failed, without content |
//! | `changed_at_ms` | N | the last write, Unix milliseconds |
//! | `expires_at` | N | when the table's TTL may remove it, Unix seconds |

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::ClaimToken;
use super::ledger::{
    Ledger, LedgerError, milliseconds, number, refusal, shortened, text, text_of, took_effect,
    unavailable,
};
use crate::ids::GrantId;

/// How long a run can be asked about.
const KEPT: TimeDelta = TimeDelta::days(90);

/// How long what the schedule's runs found is kept: there are a hundred a day.
const SCHEDULED_KEPT: TimeDelta = TimeDelta::days(7);

/// Names a run: a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(uuid::Uuid);

impl RunId {
    /// A run of this id, drawn at random by the caller.
    #[must_use]
    pub const fn new(value: uuid::Uuid) -> Self {
        Self(value)
    }
}

/// The run that begins with this invocation.
impl From<ClaimToken> for RunId {
    fn from(token: ClaimToken) -> Self {
        Self(token.0)
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::str::FromStr for RunId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// One mailbox of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskKey {
    /// Which run.
    pub run_id: RunId,
    /// Which mailbox.
    pub grant_id: GrantId,
}

impl std::fmt::Display for TaskKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.run_id, self.grant_id)
    }
}

/// Where the work on a mailbox stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// On the queue, or being worked on.
    Queued,
    /// The mailbox needs signing in again; the schedule queues the task once that is done.
    Parked,
    /// Listed to the end.
    Done,
    /// It cannot be listed; the reason says why.
    Failed,
}

impl TaskState {
    /// The text in the ledger and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Parked => "parked",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Queued, Self::Parked, Self::Done, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == text)
    }

    /// Nothing more will be done.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// What a list showed, and what the ledger says of it. A message that two pages show counts twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Messages that the list showed.
    pub listed: u64,
    /// Of these, in Dataverse; in a dry run, those that would be.
    pub written: u64,
    /// Left out by the policy.
    pub skipped: u64,
    /// To be tried again when their page was worked on; in a dry run, those of which nobody can tell.
    pub waiting: u64,
    /// Cannot be written.
    pub dead: u64,
    /// Had no state in the ledger before.
    pub repaired: u64,
}

impl Coverage {
    /// Messages that have a state. All that were listed, or somebody has to look.
    #[must_use]
    pub const fn accounted(&self) -> u64 {
        self.written + self.skipped + self.waiting + self.dead
    }

    /// Both together.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            listed: self.listed + other.listed,
            written: self.written + other.written,
            skipped: self.skipped + other.skipped,
            waiting: self.waiting + other.waiting,
            dead: self.dead + other.dead,
            repaired: self.repaired + other.repaired,
        }
    }

    const fn numbers(&self) -> [(&'static str, u64); 6] {
        [
            ("listed", self.listed),
            ("written", self.written),
            ("skipped", self.skipped),
            ("waiting", self.waiting),
            ("dead", self.dead),
            ("repaired", self.repaired),
        ]
    }
}

/// Where the list of a mailbox goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// Which part of the mailbox; `None` is the first.
    pub part: Option<String>,
    /// Nylas' cursor of the next page, and when it was given; `None` at the beginning of a part.
    pub cursor: Option<(String, DateTime<Utc>)>,
    /// The upper bound that the cursor belongs to, Unix seconds.
    pub before: Option<i64>,
    /// How far back the list of this part has come: the date of the newest message of the last settled page, Unix seconds.
    pub reached: Option<i64>,
}

/// How far the list of a mailbox has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Where the work stands.
    pub state: TaskState,
    /// Pages settled so far.
    pub pages: u64,
    /// Where it goes on.
    pub position: Position,
    /// What was found so far.
    pub coverage: Coverage,
    /// How often Nylas failed since a page was settled last.
    pub nylas_failures: u64,
    /// Why it failed.
    pub reason: Option<String>,
    /// The last write; `None` where the item does not say.
    pub changed_at: Option<DateTime<Utc>>,
}

impl Progress {
    /// Nothing is done yet.
    #[must_use]
    pub fn none() -> Self {
        Self {
            state: TaskState::Queued,
            pages: 0,
            position: Position::default(),
            coverage: Coverage::default(),
            nylas_failures: 0,
            reason: None,
            changed_at: None,
        }
    }
}

/// A page that was settled.
#[derive(Debug, Clone, Copy)]
pub struct Settled<'a> {
    /// How many pages were settled before it.
    pub after: u64,
    /// Where the list goes on.
    pub position: &'a Position,
    /// What it showed.
    pub coverage: &'a Coverage,
    /// [`TaskState::Done`] with the last page.
    pub state: TaskState,
    /// It belongs to a run of the schedule, of which nobody asks for long.
    pub scheduled: bool,
}

/// What came of saving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It is kept.
    Saved,
    /// Another worker has gone on from there: leave the task to it.
    Overtaken,
}

impl Ledger {
    /// Notes what an operator asked for.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: nothing was begun.
    pub async fn open_run(
        &self,
        run_id: RunId,
        request: &str,
        now: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let call = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(run_key(run_id)))
            .update_expression("SET asked_for = :asked, expires_at = :expiry")
            .expression_attribute_values(":asked", text(request))
            .expression_attribute_values(":expiry", seconds(now + KEPT));
        took_effect(call.send().await).map(drop)
    }

    /// What was asked for, and every mailbox of the run; `None` for a run that nobody knows.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn run(
        &self,
        run_id: RunId,
    ) -> Result<Option<(String, Vec<(GrantId, Progress)>)>, LedgerError> {
        let mut items = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text(format!("run#{run_id}")))
            .consistent_read(true)
            .into_paginator()
            .items()
            .send();
        let (mut request, mut tasks) = (None, Vec::new());
        while let Some(item) = items.next().await {
            let item = item.map_err(|error| unavailable(&error))?;
            match text_of(&item, "sk").and_then(|sk| sk.strip_prefix("mailbox#")) {
                Some(grant) => {
                    let grant = grant.parse().map_err(|_| {
                        LedgerError::Unavailable("a run's item has no grant id".to_owned())
                    })?;
                    tasks.push((grant, read_progress(&item)?));
                }
                None => request = text_of(&item, "asked_for").map(str::to_owned),
            }
        }
        Ok(request.map(|request| (request, tasks)))
    }

    /// How far a task has come.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn progress(&self, task: &TaskKey) -> Result<Progress, LedgerError> {
        let item = self.item(task_key(task)).await?;
        item.as_ref().map_or(Ok(Progress::none()), read_progress)
    }

    /// Notes where a task stands, other than by a page that was settled. One that has ended stays as it is.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn set_task(
        &self,
        task: &TaskKey,
        state: TaskState,
        reason: Option<&str>,
        now: DateTime<Utc>,
    ) -> Result<(), LedgerError> {
        let mut update = "SET #state = :state, changed_at_ms = :now, \
                          expires_at = if_not_exists(expires_at, :expiry)"
            .to_owned();
        let mut call = self.update_task(task);
        if let Some(reason) = reason {
            update.push_str(", reason = :reason");
            call = call.expression_attribute_values(":reason", text(shortened(reason)));
        }
        let call = call
            .update_expression(update)
            .condition_expression(
                "attribute_not_exists(#state) OR NOT (#state IN (:done, :failed))",
            )
            .expression_attribute_values(":done", text(TaskState::Done.as_str()))
            .expression_attribute_values(":failed", text(TaskState::Failed.as_str()))
            .expression_attribute_values(":state", text(state.as_str()))
            .expression_attribute_values(":now", milliseconds(now))
            .expression_attribute_values(":expiry", seconds(now + KEPT));
        took_effect(call.send().await).map(drop)
    }

    /// Keeps a page that was settled, unless another worker has gone on meanwhile.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: it may be kept or not. The page may be listed once more; its messages are settled.
    pub async fn save_page(
        &self,
        task: &TaskKey,
        settled: &Settled<'_>,
        by: ClaimToken,
        now: DateTime<Utc>,
    ) -> Result<Saved, LedgerError> {
        let position = settled.position;
        let (cursor, cursor_at) = position.cursor.clone().unzip();
        let places = [
            ("part", position.part.clone().map(text)),
            ("cursor", cursor.map(text)),
            ("cursor_at_ms", cursor_at.map(milliseconds)),
            ("before", position.before.map(whole)),
            ("reached", position.reached.map(whole)),
        ];
        let mut set = "SET #state = :state, pages = :next, saved_by = :by, changed_at_ms = :now, \
                       expires_at = if_not_exists(expires_at, :expiry)"
            .to_owned();
        let mut add = Vec::new();
        let mut remove = vec!["nylas_failures".to_owned()];
        let mut call = self.update_task(task);
        // Some of these names are words of DynamoDB's own.
        for (name, value) in places {
            call = call.expression_attribute_names(format!("#{name}"), name);
            match value {
                Some(value) => {
                    set.push_str(&format!(", #{name} = :{name}"));
                    call = call.expression_attribute_values(format!(":{name}"), value);
                }
                None => remove.push(format!("#{name}")),
            }
        }
        for (name, number) in settled.coverage.numbers() {
            add.push(format!("{name} :{name}"));
            call = call.expression_attribute_values(format!(":{name}"), whole(number));
        }
        set.push_str(&format!(" REMOVE {}", remove.join(", ")));
        call = if settled.after == 0 {
            call.condition_expression("attribute_not_exists(pages)")
        } else {
            call.condition_expression("pages = :pages")
                .expression_attribute_values(":pages", whole(settled.after))
        };
        let expiry = now
            + if settled.scheduled {
                SCHEDULED_KEPT
            } else {
                KEPT
            };
        let call = call
            .update_expression(format!("{set} ADD {}", add.join(", ")))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .expression_attribute_values(":state", text(settled.state.as_str()))
            .expression_attribute_values(":next", whole(settled.after + 1))
            .expression_attribute_values(":by", text(by.to_string()))
            .expression_attribute_values(":now", milliseconds(now))
            .expression_attribute_values(":expiry", seconds(expiry));
        let Err(error) = call.send().await else {
            return Ok(Saved::Saved);
        };
        let Some(refusal) = refusal(&error) else {
            return Err(unavailable(&error));
        };
        // The answer to the first try was lost, and the SDK repeated it: what it finds is our own doing.
        let is_ours = |item: &HashMap<_, _>| {
            text_of(item, "saved_by") == Some(by.to_string().as_str())
                && counted(item, "pages") == settled.after + 1
        };
        Ok(if refusal.item().is_some_and(is_ours) {
            Saved::Saved
        } else {
            Saved::Overtaken
        })
    }

    /// Notes that Nylas failed while a page was listed. How often it has since the last page.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: it may or may not be noted.
    pub async fn note_nylas_failure(
        &self,
        task: &TaskKey,
        now: DateTime<Utc>,
    ) -> Result<u64, LedgerError> {
        // Of an operator's task there is an item already, which is kept for longer.
        let call = self.update_task(task).update_expression(
            "SET #state = if_not_exists(#state, :queued), changed_at_ms = :now, \
             expires_at = if_not_exists(expires_at, :expiry) ADD nylas_failures :one",
        );
        let call = call
            .expression_attribute_values(":queued", text(TaskState::Queued.as_str()))
            .expression_attribute_values(":now", milliseconds(now))
            .expression_attribute_values(":expiry", seconds(now + SCHEDULED_KEPT))
            .expression_attribute_values(":one", whole(1_u64))
            .return_values(ReturnValue::UpdatedNew);
        let answer = call.send().await.map_err(|error| unavailable(&error))?;
        let failures = answer
            .attributes()
            .and_then(|it| number(it, "nylas_failures"));
        Ok(failures.and_then(|it| u64::try_from(it).ok()).unwrap_or(1))
    }

    fn update_task(&self, task: &TaskKey) -> UpdateItemFluentBuilder {
        self.client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(task_key(task)))
            .expression_attribute_names("#state", "state")
    }
}

fn run_key(run_id: RunId) -> HashMap<String, AttributeValue> {
    HashMap::from([
        ("pk".to_owned(), text(format!("run#{run_id}"))),
        ("sk".to_owned(), text("run")),
    ])
}

fn task_key(task: &TaskKey) -> HashMap<String, AttributeValue> {
    HashMap::from([
        ("pk".to_owned(), text(format!("run#{}", task.run_id))),
        ("sk".to_owned(), text(format!("mailbox#{}", task.grant_id))),
    ])
}

fn whole(number: impl Into<i128>) -> AttributeValue {
    AttributeValue::N(number.into().to_string())
}

fn seconds(time: DateTime<Utc>) -> AttributeValue {
    whole(time.timestamp())
}

fn counted(item: &HashMap<String, AttributeValue>, name: &str) -> u64 {
    number(item, name)
        .and_then(|n| u64::try_from(n).ok())
        .unwrap_or_default()
}

fn read_progress(item: &HashMap<String, AttributeValue>) -> Result<Progress, LedgerError> {
    let state = text_of(item, "state")
        .and_then(TaskState::parse)
        .ok_or_else(|| {
            LedgerError::Unavailable("a task has no state that this build knows".to_owned())
        })?;
    let time = |name| number(item, name).and_then(DateTime::from_timestamp_millis);
    let cursor = text_of(item, "cursor").map(str::to_owned);
    Ok(Progress {
        state,
        pages: counted(item, "pages"),
        position: Position {
            part: text_of(item, "part").map(str::to_owned),
            cursor: cursor.zip(time("cursor_at_ms")),
            before: number(item, "before"),
            reached: number(item, "reached"),
        },
        coverage: Coverage {
            listed: counted(item, "listed"),
            written: counted(item, "written"),
            skipped: counted(item, "skipped"),
            waiting: counted(item, "waiting"),
            dead: counted(item, "dead"),
            repaired: counted(item, "repaired"),
        },
        nylas_failures: counted(item, "nylas_failures"),
        reason: text_of(item, "reason").map(str::to_owned),
        changed_at: time("changed_at_ms"),
    })
}
