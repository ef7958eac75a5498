//! backfill: on a schedule, lists each mailbox's last 24 hours page by page and takes every page through the pipeline.
//!
//! It repairs what webhooks missed, takes up what is waiting in the ledger, and looks for rows that other clients brought after ours. What waits is taken
//! up within that window by its list, and beyond it when it is stranded, which is a message that nobody is at and that no queue has delivered for an hour
//! after it should have. A message that cannot be settled now becomes a request on the sync queue; the page goes on.
//! A mailbox that cannot be listed does not stop the others. A run that is short of time stops between two pages; the next run's window covers the rest.

pub mod config;
pub mod plan;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::dedupe::State;
use mailverse::dedupe::attention::OVERDUE;
use mailverse::ids::MessageKey;
use mailverse::message::Message;
use mailverse::nylas::error::NylasError;
use mailverse::pipeline::theirs::Listed;
use mailverse::pipeline::{Fate, Handled, Pipeline, Run, Work};
use mailverse::queue::SyncQueue;
use mailverse::sync_request::{SyncRequest, Trigger};
use serde::Serialize;
use serde_json::Value;

use self::plan::{NotASchedule, Task};

/// Time that a page may take; a run that has less left starts none.
const PAGE_TIME: TimeDelta = TimeDelta::seconds(60);

/// Stranded messages that one run takes up; the next run finds the others.
const MOST_STRANDED: usize = 1_000;

/// The handler.
pub struct Backfill<Q> {
    pipeline: Pipeline,
    queue: Q,
}

/// What a run came to, as the invocation's answer and in the log. Holds no content.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Mailboxes listed to the end.
    pub mailboxes: usize,
    /// Mailboxes that could not be listed.
    pub failed_mailboxes: usize,
    /// Messages that the lists showed.
    pub listed: usize,
    /// Of these, in Dataverse.
    pub written: usize,
    /// Left out by the policy.
    pub skipped: usize,
    /// Handed to the sync queue.
    pub waiting: usize,
    /// Found stranded, and handed to the sync queue.
    pub stranded: usize,
    /// Cannot be written.
    pub dead: usize,
    /// The run ended before the last page: for want of time, or because Dataverse wants a pause.
    pub cut_short: bool,
}

/// A run that did nothing.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// Not an event for this function.
    #[error(transparent)]
    NotASchedule(#[from] NotASchedule),
    /// The mailboxes could not be listed: the schedule comes again.
    #[error("the connected mailboxes could not be listed: {0}")]
    Grants(#[source] NylasError),
}

impl<Q: SyncQueue> Backfill<Q> {
    /// A backfill that hands what has to be tried again to `queue`.
    pub fn new(pipeline: Pipeline, queue: Q) -> Self {
        Self { pipeline, queue }
    }

    /// Runs for one schedule event. `begin` draws time and chance for each page; no page starts within a minute of the run's deadline, or
    /// while Dataverse wants a pause.
    ///
    /// # Errors
    /// [`BackfillError`]: nothing was done.
    pub async fn run(
        &self,
        event: &Value,
        begin: impl Fn() -> Run,
    ) -> Result<(Outcome, Vec<Handled>), BackfillError> {
        let scheduled = plan::scheduled_time(event)?;
        let grants = self
            .pipeline
            .nylas
            .grants()
            .await
            .map_err(BackfillError::Grants)?;
        let mut outcome = Outcome::default();
        self.take_up_stranded(begin().now, &mut outcome).await;
        let mut handled = Vec::new();
        for task in plan::tasks(&grants, scheduled) {
            match self.list(&task, &begin, &mut outcome, &mut handled).await {
                Ok(()) => outcome.mailboxes += 1,
                Err(error) => {
                    outcome.failed_mailboxes += 1;
                    tracing::warn!(grant_id = %task.grant_id, %error, "mailbox could not be listed");
                }
            }
        }
        tracing::info!(?outcome, "backfill ended");
        Ok((outcome, handled))
    }

    /// Puts what is stranded on the sync queue once more.
    async fn take_up_stranded(&self, now: DateTime<Utc>, outcome: &mut Outcome) {
        let waiting =
            self.pipeline
                .ledger
                .needing_attention(State::Waiting, now - OVERDUE, MOST_STRANDED);
        let waiting = match waiting.await {
            Ok(waiting) => waiting,
            // The next run looks again.
            Err(error) => return tracing::warn!(%error, "stranded messages could not be listed"),
        };
        for message in waiting
            .into_iter()
            .filter(|message| message.is_stranded(now))
        {
            match self.queue_again(&message.key, now).await {
                Ok(true) => {
                    outcome.stranded += 1;
                    tracing::warn!("sync.key" = %message.key, "message was stranded, and is queued again");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!("sync.key" = %message.key, %error, "stranded message could not be queued");
                }
            }
        }
    }

    async fn queue_again(
        &self,
        key: &MessageKey,
        now: DateTime<Utc>,
    ) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        if !self.pipeline.ledger.expect_delivery(key, now).await? {
            return Ok(false);
        }
        let request = SyncRequest {
            key: key.clone(),
            trigger: Trigger::Backfill,
        };
        self.queue.send(&request, Duration::ZERO).await?;
        Ok(true)
    }

    /// Lists one mailbox to the end, or until time is short.
    async fn list(
        &self,
        task: &Task,
        begin: &impl Fn() -> Run,
        outcome: &mut Outcome,
        handled: &mut Vec<Handled>,
    ) -> Result<(), NylasError> {
        let mut cursor = None;
        let headers = self.pipeline.headers(&task.grant_id, begin().now).await;
        loop {
            if self.must_stop(&begin()).await {
                outcome.cut_short = true;
                return Ok(());
            }
            let page = self
                .pipeline
                .nylas
                .messages(
                    &task.grant_id,
                    task.received_after,
                    cursor.as_deref(),
                    headers,
                )
                .await?;
            if page.unreadable > 0 {
                tracing::warn!(grant_id = %task.grant_id, messages = page.unreadable, "listed messages without a usable id");
            }
            outcome.listed += page.messages.len();
            let listed: Vec<Listed> = page.messages.iter().filter_map(Listed::of).collect();
            let begun_with = handled.len();
            let work = page.messages.into_iter().map(in_hand).collect();
            // Boxed, because its future is large.
            let done = Box::pin(self.pipeline.history(work, &self.queue, begin)).await;
            for message in &done.handled {
                self.account_for(message, outcome).await;
            }
            handled.extend(done.handled);
            let of_page = handled.get(begun_with..).unwrap_or_default();
            self.reconcile(listed, of_page, &begin()).await;
            if done.left.is_some() {
                outcome.cut_short = true;
                return Ok(());
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Looks for other clients' rows of the page's mails that were written lately.
    async fn reconcile(&self, listed: Vec<Listed>, handled: &[Handled], run: &Run) {
        let is_due = |listed: &Listed| {
            let done = handled.iter().find(|done| done.key == *listed.key());
            done.is_some_and(|done| listed.is_due(done, run.now))
        };
        let due: Vec<Listed> = listed.into_iter().filter(is_due).collect();
        self.pipeline.reconcile(&due, run).await;
    }

    /// Whether a page that is begun now would only go on the sync queue, or not be settled in time.
    async fn must_stop(&self, run: &Run) -> bool {
        let waits = self.pipeline.history_waits_until(&self.queue, run.now);
        run.now + PAGE_TIME > run.deadline || waits.await.is_some()
    }

    async fn account_for(&self, message: &Handled, outcome: &mut Outcome) {
        match message.fate.state() {
            State::Written => outcome.written += 1,
            State::Skipped => outcome.skipped += 1,
            State::Dead => outcome.dead += 1,
            State::Waiting => {
                outcome.waiting += 1;
                if let Err(error) = self.hand_over(message).await {
                    // The ledger says that it waits, and the next run lists it again.
                    tracing::warn!("sync.key" = %message.key, %error, "message could not be handed to the sync queue");
                }
            }
        }
    }

    /// Puts a message that has to be tried again on the sync queue, unless an earlier try has put it there.
    async fn hand_over(
        &self,
        message: &Handled,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Fate::Waiting { delay, .. } = &message.fate else {
            return Ok(());
        };
        let entry = self.pipeline.ledger.entry(&message.key).await?;
        if entry.is_some_and(|entry| entry.attempts > 1) {
            return Ok(());
        }
        let request = SyncRequest {
            key: message.key.clone(),
            trigger: Trigger::Backfill,
        };
        Ok(self.queue.send(&request, *delay).await?)
    }
}

fn in_hand(message: Message) -> Work {
    let request = SyncRequest {
        key: message.key.clone(),
        trigger: Trigger::Backfill,
    };
    Work {
        request,
        message: Some(message),
        receive_count: 1,
    }
}
