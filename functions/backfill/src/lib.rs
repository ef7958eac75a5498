//! backfill: lists mailboxes and runs the messages that it finds through the pipeline: recent mail
//! on a schedule, older mail when an operator requests it.
//!
//! | Event | What the function does | File |
//! | --- | --- | --- |
//! | from the schedule | plans a run: puts a task for each mailbox on the backfill queue | `plan.rs` |
//! | from an operator, directly or through the function's URL | does the same for the mailboxes in the request, or reports the progress of a run | `request.rs` |
//! | from the backfill queue | works on a task, page by page, and queues it again when time is short | `list_mailbox.rs`, `page.rs` |
//!
//! A scheduled run finds messages that webhooks missed, processes messages that are waiting in the
//! ledger, and looks for rows that other clients wrote after ours. Waiting messages are processed
//! when their mailbox is listed, and otherwise once they are stranded: no worker is processing the
//! message, and no queue has delivered it for an hour after the delivery was due. A mailbox that
//! cannot be listed does not stop the others.

pub mod config;
mod event;
pub mod list_mailbox;
mod list_position;
mod page;
pub mod plan;
pub mod request;
pub mod task;
pub mod task_error;

use std::time::Duration;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsMessage};
use futures_util::{StreamExt, TryStreamExt, stream};
use mailverse::clients::aws::queue::{MemoryQueue, QueueError, SyncQueue};
use mailverse::clients::nylas::error::NylasError;
use mailverse::clients::nylas::wire::Grant;
use mailverse::clients::retry::RECEIVE_LIMIT;
use mailverse::ledger::backfill_runs::{Progress, RunId, TaskState};
use mailverse::ledger::messages::LedgerError;
use mailverse::pipeline::{Invocation, Pipeline, Processed};
use serde_json::{Value, json};

use self::event::Event;
pub use self::event::NotAnEvent;
use self::plan::Planned;
use self::request::{Answer, Invalid, Request, Wanted};
use self::task::Task;
use self::task_error::QueueAction;

/// The handler for all events of the function.
pub struct Backfill<Q> {
    pipeline: Pipeline,
    /// The queue for messages that have to be retried.
    sync: Q,
    /// The queue for tasks.
    tasks: Q,
}

/// Why an invocation failed or a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// The event is not for this function.
    #[error(transparent)]
    NotAnEvent(#[from] NotAnEvent),
    /// The request is invalid.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The connected mailboxes could not be listed. The schedule runs again; an operator has to
    /// repeat the request.
    #[error("failed to list the connected mailboxes: {0}")]
    Grants(#[source] NylasError),
    /// The ledger could not be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Some tasks could not be queued.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl<Q: SyncQueue> Backfill<Q> {
    /// Creates a backfill that sends messages to retry to `sync`, and tasks to `tasks`.
    pub fn new(pipeline: Pipeline, sync: Q, tasks: Q) -> Self {
        Self {
            pipeline,
            sync,
            tasks,
        }
    }

    /// Handles any event of the function. `begin` reads the clock and draws random numbers for each
    /// step. No step begins in the last minute before the invocation's deadline.
    ///
    /// # Errors
    /// [`BackfillError`]: the invocation fails. For an operator's request the result is `Ok`, and
    /// the answer contains the error.
    pub async fn handle(
        &self,
        event: &Value,
        begin: &impl Fn() -> Invocation,
    ) -> Result<Value, BackfillError> {
        match Event::read(event)? {
            Event::Schedule(schedule) => Ok(json!(self.plan(&schedule, begin).await?)),
            Event::Tasks(records) => {
                let mut response = SqsBatchResponse::default();
                for record in records {
                    if !self.deliver(&record, begin, &mut drop).await {
                        response.batch_item_failures.push(failure(record));
                    }
                }
                Ok(json!(response))
            }
            Event::Request(body) => Ok(event::direct_answer(&self.answer(&body, begin).await)),
            Event::Http(body) => {
                let answer = match body {
                    Ok(body) => self.answer(&body, begin).await,
                    Err(invalid) => Err(invalid.into()),
                };
                Ok(event::http_answer(&answer))
            }
        }
    }

    /// Works on a message of the backfill queue. Returns whether the queue may delete it.
    async fn deliver(
        &self,
        record: &SqsMessage,
        begin: &impl Fn() -> Invocation,
        seen: &mut impl FnMut(Processed),
    ) -> bool {
        let task = match Task::from_body(record.body.as_deref().unwrap_or_default()) {
            Ok(task) => task,
            Err(error) => {
                tracing::error!(sqs_message_id = record.message_id, %error, "failed to parse a queue message; it will move to the dead-letter queue");
                return false;
            }
        };
        // The attribute is only missing in handmade events.
        let receive_count = record
            .attributes
            .get("ApproximateReceiveCount")
            .and_then(|n| n.parse().ok())
            .unwrap_or(1);
        match self.work(&task, receive_count, begin, seen).await {
            QueueAction::Done => true,
            // The queue would move the task to the dead-letter queue now, although the task did not
            // fail.
            QueueAction::Later {
                delay,
                postponed: true,
            } if receive_count >= RECEIVE_LIMIT => {
                self.tasks.send_body(task.to_body(), delay).await.is_ok()
            }
            QueueAction::Later { delay, .. } => {
                if let Some(receipt) = &record.receipt_handle
                    && let Err(error) = self.tasks.hide(receipt, delay).await
                {
                    // The task then reappears after the queue's own visibility timeout.
                    tracing::warn!(task = %task.key(), %error, "failed to set the task's visibility timeout; the queue's own timeout applies");
                }
                false
            }
        }
    }

    /// Starts a run, or reports the progress of one.
    async fn answer(
        &self,
        body: &Value,
        begin: &impl Fn() -> Invocation,
    ) -> Result<Answer, BackfillError> {
        let invocation = begin();
        match Request::read(body, invocation.now)? {
            Request::Begin(wanted) => self.open(&wanted, &invocation).await,
            Request::Ask(run_id) => {
                let found = self.pipeline.ledger.run(run_id).await?;
                let (request, tasks) = found.ok_or_else(|| Invalid {
                    field: "run_id".to_owned(),
                    problem: "no run has this id, or it is too old".to_owned(),
                })?;
                let asked = serde_json::from_str(&request).map_err(|_| {
                    LedgerError::Unavailable(
                        "the run's item does not contain a valid request".to_owned(),
                    )
                })?;
                Ok(Answer::new(run_id, asked, tasks))
            }
        }
    }

    async fn open(
        &self,
        wanted: &Wanted,
        invocation: &Invocation,
    ) -> Result<Answer, BackfillError> {
        let run_id = RunId::from(invocation.token);
        let (grants, excluded) = self.grants().await?;
        let tasks = wanted.tasks(&grants, &excluded, run_id, invocation.now)?;
        let ledger = &self.pipeline.ledger;
        let asked = wanted.asked();
        ledger
            .open_run(run_id, &json!(asked).to_string(), invocation.now)
            .await?;
        let begun = stream::iter(tasks).map(async |(task, can_be_read)| {
            let body = task.to_body();
            let state = if can_be_read {
                // In this order, so that the progress report always has every mailbox of the run.
                ledger
                    .set_task(&task.key(), TaskState::Queued, None, invocation.now)
                    .await?;
                self.queue_body(body).await?;
                TaskState::Queued
            } else {
                ledger.park(&task.grant_id, &body).await?;
                let reason = Some("a user has to sign in to the mailbox again");
                ledger
                    .set_task(&task.key(), TaskState::Parked, reason, invocation.now)
                    .await?;
                TaskState::Parked
            };
            let progress = Progress {
                state,
                ..Progress::none()
            };
            Ok::<_, BackfillError>((task.grant_id, progress))
        });
        let begun: Vec<_> = begun.buffered(plan::SENDS).try_collect().await?;
        tracing::info!(%run_id, mailboxes = begun.len(), dry_run = asked.dry_run, "backfill run started");
        Ok(Answer::new(run_id, asked, begun))
    }

    /// Returns the grants that take part, and those that do not.
    async fn grants(&self) -> Result<(Vec<Grant>, Vec<Grant>), BackfillError> {
        let grants = self.pipeline.nylas.grants().await;
        let grants = grants.map_err(BackfillError::Grants)?;
        let takes_part = |grant: &Grant| self.pipeline.mailboxes.admits(grant);
        Ok(grants.into_iter().partition(takes_part))
    }

    async fn queue_body(&self, body: String) -> Result<(), BackfillError> {
        Ok(self.tasks.send_body(body, Duration::ZERO).await?)
    }
}

/// For the command and the tests, which have the queues in memory.
impl Backfill<MemoryQueue> {
    /// Plans a scheduled run and works on its tasks. Returns the plan and the result of every
    /// message. A task that has to be repeated later stays on the queue, hidden.
    ///
    /// # Errors
    /// [`BackfillError`]: no mailbox was listed.
    /// [`BackfillError`]: nothing was listed.
    pub async fn run_scheduled(
        &self,
        event: &Value,
        begin: &impl Fn() -> Invocation,
    ) -> Result<(Planned, Vec<Processed>), BackfillError> {
        let Event::Schedule(schedule) = Event::read(event)? else {
            return Err(NotAnEvent("it is not an event of the schedule").into());
        };
        let planned = self.plan(&schedule, begin).await?;
        Ok((planned, self.process_queue(begin).await))
    }

    /// Works on the queued tasks until no task is visible. Returns the result of every message.
    pub async fn process_queue(&self, begin: &impl Fn() -> Invocation) -> Vec<Processed> {
        let mut processed = Vec::new();
        while let Some(received) = self.tasks.receive(1).pop() {
            let mut record = SqsMessage::default();
            record.receipt_handle = Some(received.receipt.clone());
            record.body = Some(received.body);
            let seen = &mut |message| processed.push(message);
            if self.deliver(&record, begin, seen).await {
                self.tasks.delete(&received.receipt);
            }
        }
        processed
    }

    /// Returns the number of unfinished tasks; they are on the queue, hidden.
    #[must_use]
    pub fn left(&self) -> usize {
        self.tasks.hidden().len()
    }
}

/// Reports a queue message as failed. A record without an id gets an empty one, which makes Lambda
/// keep the whole batch, so nothing is lost.
fn failure(record: SqsMessage) -> BatchItemFailure {
    let mut failure = BatchItemFailure::default();
    failure.item_identifier = record.message_id.unwrap_or_default();
    failure
}
