//! Backfill runs: what was requested, and the progress of each mailbox.
//!
//! There is one item for each run that an operator requested:
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk` | S | `run#` and the run's id |
//! | `sk` | S | `run` |
//! | `request` | S | the request, as JSON: times and a flag |
//! | `expires_at` | N | when the table's TTL may remove the item, Unix seconds |
//!
//! and one for each mailbox of a run, whether an operator or the schedule started it:
//!
//! | Attribute | Type | Meaning |
//! | --- | --- | --- |
//! | `pk`, `sk` | S | `run#` and the run's id; `mailbox#` and the grant id |
//! | `state` | S | `queued`, `parked`, `done` or `failed` |
//! | `pages` | N | the number of settled pages. A save is conditional on the number that the worker started with, so that of two workers neither can undo the other's progress |
//! | `saved_by` | S | the token of the worker that saved last. It shows whether a save whose response was lost was stored |
//! | `part` | S | the part of the mailbox that is being listed; absent in the first |
//! | `cursor`, `cursor_at_ms` | S, N | Nylas' cursor of the next page, and when it was issued; absent at the start of a part |
//! | `before` | N | the upper bound that the cursor belongs to, Unix seconds; absent without one |
//! | `reached` | N | how far back this part has been listed: the date of the newest message of the last settled page, Unix seconds |
//! | `listed`, `written`, `skipped`, `waiting`, `dead`, `repaired` | N | the counts of [`Coverage`] |
//! | `nylas_failures` | N | how often Nylas failed since the last settled page; absent if it has not failed |
//! | `reason` | S | why the task failed, without content |
//! | `changed_at_ms` | N | the last write, Unix milliseconds |
//! | `expires_at` | N | when the table's TTL may remove the item, Unix seconds |

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::ClaimToken;
use super::messages::{
    Ledger, LedgerError, milliseconds, number, refusal, shortened, text, text_of, took_effect,
    unavailable,
};
use crate::model::ids::GrantId;

/// How long an operator's run is stored.
const KEPT: TimeDelta = TimeDelta::days(90);

/// How long the results of the schedule's runs are stored: there are a hundred runs a day.
const SCHEDULED_KEPT: TimeDelta = TimeDelta::days(7);

/// The id of a run: a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(uuid::Uuid);

impl RunId {
    /// Creates a run id from a value that the caller drew at random.
    #[must_use]
    pub const fn new(value: uuid::Uuid) -> Self {
        Self(value)
    }
}

/// The id of a run that starts with this invocation.
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

/// Identifies a task: one mailbox of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskKey {
    /// The run.
    pub run_id: RunId,
    /// The mailbox.
    pub grant_id: GrantId,
}

impl std::fmt::Display for TaskKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.run_id, self.grant_id)
    }
}

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// On the queue, or running.
    Queued,
    /// The mailbox must be signed in again; the schedule queues the task after that.
    Parked,
    /// The mailbox was listed completely.
    Done,
    /// The mailbox cannot be listed; the reason is recorded.
    Failed,
}

impl TaskState {
    /// Returns the text that the ledger stores and responses contain.
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

    /// Returns whether nothing more will be done.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// Counts of listed messages and of their states in the ledger. A message on two pages counts
/// twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Messages in the list.
    pub listed: u64,
    /// Of these, in Dataverse; in a dry run, those that would be written.
    pub written: u64,
    /// Excluded by a policy rule.
    pub skipped: u64,
    /// Waiting for another attempt when their page was processed; in a dry run, those whose outcome
    /// cannot be predicted.
    pub waiting: u64,
    /// Messages that cannot be written.
    pub dead: u64,
    /// Messages that had no state in the ledger before.
    pub repaired: u64,
}

impl Coverage {
    /// Returns the number of messages that have a state. If it differs from `listed`, an operator
    /// has to check.
    #[must_use]
    pub const fn accounted(&self) -> u64 {
        self.written + self.skipped + self.waiting + self.dead
    }

    /// Returns the sum of both counts.
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

/// Where listing a mailbox continues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Position {
    /// The part of the mailbox; `None` is the first.
    pub part: Option<String>,
    /// Nylas' cursor of the next page, and when it was issued; `None` at the start of a part.
    pub cursor: Option<(String, DateTime<Utc>)>,
    /// The upper bound that the cursor belongs to, Unix seconds; `None` without one.
    pub before: Option<i64>,
    /// How far back this part has been listed: the date of the newest message of the last settled
    /// page, Unix seconds; `None` before the first.
    pub reached: Option<i64>,
}

/// The progress of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The state of the task.
    pub state: TaskState,
    /// Pages settled so far.
    pub pages: u64,
    /// Where listing continues.
    pub position: Position,
    /// The counts so far.
    pub coverage: Coverage,
    /// How often Nylas failed since the last settled page.
    pub nylas_failures: u64,
    /// Why the task failed; `None` if it has not.
    pub reason: Option<String>,
    /// The time of the last write; `None` if the item does not record it.
    pub changed_at: Option<DateTime<Utc>>,
}

impl Progress {
    /// Returns the progress of a task that has not started.
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

/// A settled page of a list.
#[derive(Debug, Clone, Copy)]
pub struct Settled<'a> {
    /// The number of pages settled before it.
    pub after: u64,
    /// Where listing continues.
    pub position: &'a Position,
    /// The counts of this page.
    pub coverage: &'a Coverage,
    /// The new state of the task: [`TaskState::Done`] with the last page.
    pub state: TaskState,
    /// Whether the page belongs to a run of the schedule, which is stored for a shorter time.
    pub scheduled: bool,
}

/// The result of saving a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// The page is saved.
    Saved,
    /// Another worker has saved this page already: leave the task to that worker.
    Overtaken,
}

impl Ledger {
    /// Stores an operator's request.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the run was not started.
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
            .update_expression("SET #request = :request, expires_at = :expiry")
            .expression_attribute_names("#request", "request")
            .expression_attribute_values(":request", text(request))
            .expression_attribute_values(":expiry", seconds(now + KEPT));
        took_effect(call.send().await).map(drop)
    }

    /// Returns the request and the progress of every mailbox of a run; `None` if the run is
    /// unknown.
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
                        LedgerError::Unavailable(
                            "an item of a backfill run has no grant id".to_owned(),
                        )
                    })?;
                    tasks.push((grant, read_progress(&item)?));
                }
                None => request = text_of(&item, "request").map(str::to_owned),
            }
        }
        Ok(request.map(|request| (request, tasks)))
    }

    /// Returns the progress of a task.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`].
    pub async fn progress(&self, task: &TaskKey) -> Result<Progress, LedgerError> {
        let item = self.item(task_key(task)).await?;
        item.as_ref().map_or(Ok(Progress::none()), read_progress)
    }

    /// Sets the state of a task for any reason other than a settled page. A finished task stays as
    /// it is.
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

    /// Saves a settled page, unless another worker has saved it already.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the page may or may not be saved. It may be listed again; its
    /// messages are settled.
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
        // Some of these names are reserved words of DynamoDB.
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
        // If the response to the first call was lost, the SDK repeated it and met our own write.
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

    /// Records that Nylas failed while a page was listed. Returns how often it has failed since the
    /// last settled page.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`]: the failure may or may not be recorded.
    pub async fn note_nylas_failure(
        &self,
        task: &TaskKey,
        now: DateTime<Utc>,
    ) -> Result<u64, LedgerError> {
        // An operator's task has an item already, which is stored for longer.
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
            LedgerError::Unavailable("a task has no state or an unknown one".to_owned())
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
