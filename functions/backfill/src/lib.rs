//! backfill: lists mailboxes and takes what it finds through the pipeline: recent mail on a schedule, history when an operator asks for it.
//!
//! | Event | What it does | File |
//! | --- | --- | --- |
//! | the schedule's | plans: a task for each mailbox on the backfill queue | `plan.rs` |
//! | an operator's, direct or to the function's URL | the same for the mailboxes that are named; or tells how a run goes | `request.rs` |
//! | the backfill queue's | works on a task, page by page, and puts it on the queue again when time is short | `work.rs`, `page.rs` |
//!
//! The schedule's runs repair what webhooks missed, take up what is waiting in the ledger, and look for rows that other clients brought after ours. What waits
//! is taken up by its list, and beyond that when it is stranded, which is a message that nobody is at and that no queue has delivered for an hour after it
//! should have. A mailbox that cannot be listed does not stop the others.

pub mod config;
mod event;
mod page;
pub mod plan;
mod position;
pub mod request;
pub mod task;
pub mod trouble;
pub mod work;

use std::time::Duration;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsMessage};
use futures_util::{StreamExt, TryStreamExt, stream};
use mailverse::dedupe::ledger::LedgerError;
use mailverse::dedupe::runs::{Progress, RunId, TaskState};
use mailverse::nylas::error::NylasError;
use mailverse::nylas::wire::Grant;
use mailverse::pipeline::{Handled, Pipeline, Run};
use mailverse::queue::{MemoryQueue, QueueError, SyncQueue};
use mailverse::retry::RECEIVE_LIMIT;
use serde_json::{Value, json};

use self::event::Event;
pub use self::event::NotAnEvent;
use self::plan::Planned;
use self::request::{Answer, Invalid, Request, Wanted};
use self::task::Task;
use self::trouble::Next;

/// The handler.
pub struct Backfill<Q> {
    pipeline: Pipeline,
    /// For messages that have to be tried again.
    sync: Q,
    /// For tasks.
    tasks: Q,
}

/// An invocation that did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// Not an event for this function.
    #[error(transparent)]
    NotAnEvent(#[from] NotAnEvent),
    /// The request cannot be meant.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The mailboxes could not be listed: the schedule comes again, an operator asks again.
    #[error("the connected mailboxes could not be listed: {0}")]
    Grants(#[source] NylasError),
    /// The ledger did not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Not all tasks are on the queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl<Q: SyncQueue> Backfill<Q> {
    /// A backfill that hands messages that have to be tried again to `sync`, and tasks to `tasks`.
    pub fn new(pipeline: Pipeline, sync: Q, tasks: Q) -> Self {
        Self {
            pipeline,
            sync,
            tasks,
        }
    }

    /// Answers any event of the function. `begin` draws time and chance for each step; no step begins within a minute of the invocation's deadline.
    ///
    /// # Errors
    /// [`BackfillError`]. To an operator, what is wrong is answered.
    pub async fn handle(
        &self,
        event: &Value,
        begin: &impl Fn() -> Run,
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

    /// Whether the queue may forget a message of the backfill queue.
    async fn deliver(
        &self,
        record: &SqsMessage,
        begin: &impl Fn() -> Run,
        seen: &mut impl FnMut(Handled),
    ) -> bool {
        let task = match Task::from_body(record.body.as_deref().unwrap_or_default()) {
            Ok(task) => task,
            Err(error) => {
                tracing::error!(sqs_message_id = record.message_id, %error, "queue message cannot be read");
                return false;
            }
        };
        // Absent only in events made by hand.
        let receive_count = record
            .attributes
            .get("ApproximateReceiveCount")
            .and_then(|n| n.parse().ok())
            .unwrap_or(1);
        match self.work(&task, receive_count, begin, seen).await {
            Next::Done => true,
            // The queue would move it to the dead-letter queue now, for no fault of its own.
            Next::Later {
                delay,
                postponed: true,
            } if receive_count >= RECEIVE_LIMIT => {
                self.tasks.send_body(task.to_body(), delay).await.is_ok()
            }
            Next::Later { delay, .. } => {
                if let Some(receipt) = &record.receipt_handle
                    && let Err(error) = self.tasks.hide(receipt, delay).await
                {
                    // It comes back after the queue's own visibility timeout instead.
                    tracing::warn!(task = %task.key(), %error, "task could not be hidden");
                }
                false
            }
        }
    }

    /// Begins a run, or tells how one goes.
    async fn answer(
        &self,
        body: &Value,
        begin: &impl Fn() -> Run,
    ) -> Result<Answer, BackfillError> {
        let run = begin();
        match Request::read(body, run.now)? {
            Request::Begin(wanted) => self.open(&wanted, &run).await,
            Request::Ask(run_id) => {
                let found = self.pipeline.ledger.run(run_id).await?;
                let (request, tasks) = found.ok_or_else(|| Invalid {
                    field: "run_id".to_owned(),
                    problem: "no run has this id, or it was long ago".to_owned(),
                })?;
                let asked = serde_json::from_str(&request).map_err(|_| {
                    LedgerError::Unavailable("a run's item says not what was asked for".to_owned())
                })?;
                Ok(Answer::new(run_id, asked, tasks))
            }
        }
    }

    async fn open(&self, wanted: &Wanted, run: &Run) -> Result<Answer, BackfillError> {
        let run_id = RunId::from(run.token);
        let (grants, excluded) = self.grants().await?;
        let tasks = wanted.tasks(&grants, &excluded, run_id, run.now)?;
        let ledger = &self.pipeline.ledger;
        let asked = wanted.asked();
        ledger
            .open_run(run_id, &json!(asked).to_string(), run.now)
            .await?;
        let begun = stream::iter(tasks).map(async |(task, can_be_read)| {
            let body = task.to_body();
            let state = if can_be_read {
                // In this order, so that whoever asks finds every mailbox of the run.
                ledger
                    .set_task(&task.key(), TaskState::Queued, None, run.now)
                    .await?;
                self.queue_body(body).await?;
                TaskState::Queued
            } else {
                ledger.park(&task.grant_id, &body).await?;
                let reason = Some("the mailbox needs signing in again");
                ledger
                    .set_task(&task.key(), TaskState::Parked, reason, run.now)
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
        tracing::info!(%run_id, mailboxes = begun.len(), dry_run = asked.dry_run, "run begun");
        Ok(Answer::new(run_id, asked, begun))
    }

    /// The mailboxes that take part, and those that do not.
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

/// For the command and the tests, where the queues are in this process.
impl Backfill<MemoryQueue> {
    /// A run of the schedule, planned and worked through: what was planned, and each message that was dealt with. A task that goes back to its queue stays
    /// there, hidden.
    ///
    /// # Errors
    /// [`BackfillError`]: nothing was listed.
    pub async fn run_through(
        &self,
        event: &Value,
        begin: &impl Fn() -> Run,
    ) -> Result<(Planned, Vec<Handled>), BackfillError> {
        let Event::Schedule(schedule) = Event::read(event)? else {
            return Err(NotAnEvent("it is no event of the schedule").into());
        };
        let planned = self.plan(&schedule, begin).await?;
        Ok((planned, self.work_off(begin).await))
    }

    /// Works on what is on the queue, until it shows nothing: each message that was dealt with.
    pub async fn work_off(&self, begin: &impl Fn() -> Run) -> Vec<Handled> {
        let mut handled = Vec::new();
        while let Some(received) = self.tasks.receive(1).pop() {
            let mut record = SqsMessage::default();
            record.receipt_handle = Some(received.receipt.clone());
            record.body = Some(received.body);
            let seen = &mut |message| handled.push(message);
            if self.deliver(&record, begin, seen).await {
                self.tasks.delete(&received.receipt);
            }
        }
        handled
    }

    /// How many tasks could not be ended: they wait, hidden, on the queue.
    #[must_use]
    pub fn left(&self) -> usize {
        self.tasks.hidden().len()
    }
}

/// An empty id, of a record that came without one, makes Lambda keep the whole batch: nothing is lost.
fn failure(record: SqsMessage) -> BatchItemFailure {
    let mut failure = BatchItemFailure::default();
    failure.item_identifier = record.message_id.unwrap_or_default();
    failure
}
