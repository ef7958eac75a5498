//! Settles a listed page: every message on it gets a state in the ledger or a request on the sync
//! queue; otherwise the page is not settled.
//!
//! The ledger is read for the whole page first. A message in a final state is only counted, without
//! a claim and without a call to Dataverse. The others go through the pipeline, within the rate
//! limit of Dataverse and after live mail. A message that fails gets a request on the sync queue,
//! and the page continues.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use mailverse::clients::aws::queue::SyncQueue;
use mailverse::clients::nylas::Page;
use mailverse::ledger::attention_index::OVERDUE;
use mailverse::ledger::backfill_runs::Coverage;
use mailverse::ledger::{Claim, ClaimRequest, State, decide_claim};
use mailverse::model::ids::MessageKey;
use mailverse::model::message::Message;
use mailverse::model::sync_request::{SyncRequest, Trigger};
use mailverse::pipeline::preview::PreviewOutcome;
use mailverse::pipeline::reconcile::Listed;
use mailverse::pipeline::{Delivery, Invocation, Outcome, Processed};

use crate::Backfill;
use crate::task::Task;
use crate::task_error::TaskError;

/// Messages that a dry run previews together.
const AT_ONCE: usize = 50;

/// The most stranded messages that one run queues; later runs queue the rest.
const MOST_STRANDED: usize = 1_000;

/// The messages of a page, sorted by their state in the ledger.
#[derive(Default)]
struct SplitPage {
    /// Messages that are in a final state in the ledger.
    settled: Vec<(Message, Processed)>,
    /// All other messages.
    fresh: Vec<Message>,
    /// The keys of those in `fresh` that were tried and released, so that the sync queue has a
    /// request for them. Claimed messages are not included: the claim may belong to another list,
    /// and if that worker died, it left no request behind.
    queued: HashSet<MessageKey>,
}

impl<Q: SyncQueue> Backfill<Q> {
    /// Settles a page. Returns its counts, and the date of its newest message in Unix seconds.
    ///
    /// # Errors
    /// [`TaskError`]: the page is not settled and has to be listed again.
    pub(crate) async fn settle_page(
        &self,
        task: &Task,
        page: Page,
        begin: &impl Fn() -> Invocation,
        seen: &mut impl FnMut(Processed),
    ) -> Result<(Coverage, Option<i64>), TaskError> {
        let mut coverage = Coverage {
            listed: u64::try_from(page.messages.len() + page.unreadable).unwrap_or_default(),
            ..Coverage::default()
        };
        if page.unreadable > 0 {
            tracing::warn!(task = %task.key(), messages = page.unreadable, "some listed messages have no usable id; they are skipped");
        }
        // Not the oldest: a single message with a very old date would make a restarted list skip
        // the rest.
        let newest = page.messages.iter().filter_map(|it| it.date).max();
        let newest = newest.map(|date| date.timestamp());
        let mut known = HashSet::new();
        let messages: Vec<Message> = page
            .messages
            .into_iter()
            .filter(|message| known.insert(message.key.clone()))
            .collect();
        // A message that is on the page twice counts once.
        let twice = known.len().abs_diff(messages.len());
        coverage.listed -= u64::try_from(twice).unwrap_or_default();
        let SplitPage {
            settled,
            fresh,
            queued,
        } = self
            .split_by_state(task, messages, &begin(), &mut coverage)
            .await?;
        if task.kind.is_scheduled() {
            self.reconcile_recent(&settled, begin).await;
        }
        for (_, processed) in settled {
            seen(processed);
        }
        if task.dry_run {
            self.preview_outcome(fresh, begin, &mut coverage).await?;
        } else {
            let work = self.process_in_batches(task, fresh, &queued, begin, &mut coverage, seen);
            work.await?;
        }
        Ok((coverage, newest))
    }

    /// Separates the messages that are in a final state in the ledger from the others.
    async fn split_by_state(
        &self,
        task: &Task,
        messages: Vec<Message>,
        invocation: &Invocation,
        coverage: &mut Coverage,
    ) -> Result<SplitPage, TaskError> {
        let keys: Vec<MessageKey> = messages.iter().map(|it| it.key.clone()).collect();
        let mut entries = self.pipeline.ledger.entries(&keys).await?;
        // The same claim request as the pipeline makes for a listed message.
        let request = ClaimRequest {
            revisit: true,
            ..ClaimRequest::new(invocation.token, invocation.now)
        };
        let mut split_by_state = SplitPage::default();
        for mut message in messages {
            let entry = entries.remove(&message.key);
            if entry.is_none() {
                coverage.repaired += 1;
            }
            let claim = decide_claim(entry.as_ref(), &request);
            if entry.is_some_and(|it| it.state == State::Waiting && it.held.is_none()) {
                split_by_state.queued.insert(message.key.clone());
            }
            let before = match claim {
                Claim::Settled(entry) => Processed::settled_before(message.key.clone(), entry),
                Claim::Won { .. } | Claim::HeldUntil(_) => None,
            };
            match before {
                Some(processed) => {
                    add(coverage, &processed.outcome);
                    // The body is not used again, and the other messages need the memory.
                    message.body = String::new();
                    split_by_state.settled.push((message, processed));
                }
                None => split_by_state.fresh.push(message),
            }
        }
        if coverage.repaired > 0 && task.kind.is_scheduled() && !task.dry_run {
            tracing::info!(task = %task.key(), messages = coverage.repaired, "the list contains messages that are not in the ledger; processing them now");
        }
        Ok(split_by_state)
    }

    /// Runs messages through the pipeline in small batches, each with its own claims.
    async fn process_in_batches(
        &self,
        task: &Task,
        fresh: Vec<Message>,
        queued: &HashSet<MessageKey>,
        begin: &impl Fn() -> Invocation,
        coverage: &mut Coverage,
        seen: &mut impl FnMut(Processed),
    ) -> Result<(), TaskError> {
        if fresh.is_empty() {
            return Ok(());
        }
        let work = fresh.into_iter().map(as_delivery).collect();
        // Boxed because the future is large.
        let done = Box::pin(self.pipeline.backfill_page(work, &self.sync, begin)).await;
        let invocation = begin();
        let is_left = done.left.is_some();
        let stopped = match done.left {
            Some(left) if left.not_before <= invocation.now => Some(TaskError::NoTime),
            Some(left) => Some(TaskError::Paused(left.not_before)),
            None if self.pipeline.is_paused(invocation.now).await => {
                let waits = self
                    .pipeline
                    .backfill_waits_until(&self.sync, invocation.now);
                Some(TaskError::Paused(waits.await.unwrap_or(invocation.now)))
            }
            None => None,
        };
        let mut is_settled = true;
        for processed in done.processed {
            if let Outcome::Waiting { delay, .. } = &processed.outcome {
                if stopped.is_some() {
                    // Dataverse stopped the whole batch. The page is listed again after the pause;
                    // the sync queue is for messages that fail alone.
                    is_settled = false;
                    continue;
                }
                // Scheduled runs list a message repeatedly and leave it to the request that is
                // already queued.
                if !(task.kind.is_scheduled() && queued.contains(&processed.key)) {
                    self.hand_over(&processed.key, *delay).await?;
                }
            }
            add(coverage, &processed.outcome);
            seen(processed);
        }
        match stopped {
            Some(task_error) if !is_settled || is_left => Err(task_error),
            _ => Ok(()),
        }
    }

    /// Previews messages for a dry run, which writes nothing.
    async fn preview_outcome(
        &self,
        fresh: Vec<Message>,
        begin: &impl Fn() -> Invocation,
        coverage: &mut Coverage,
    ) -> Result<(), TaskError> {
        let mut fresh = fresh.into_iter().peekable();
        while fresh.peek().is_some() {
            let invocation = begin();
            self.check_may_continue(&invocation).await?;
            let some: Vec<Message> = fresh.by_ref().take(AT_ONCE).collect();
            for preview in self.pipeline.preview(some, &invocation).await {
                match preview.outcome {
                    PreviewOutcome::Tracked { .. } => coverage.written += 1,
                    PreviewOutcome::Skipped { .. } => coverage.skipped += 1,
                    PreviewOutcome::Unknown { .. } => coverage.waiting += 1,
                }
            }
        }
        Ok(())
    }

    /// Looks for rows that other clients wrote recently for messages of the page.
    async fn reconcile_recent(
        &self,
        settled: &[(Message, Processed)],
        begin: &impl Fn() -> Invocation,
    ) {
        let invocation = begin();
        let due = settled.iter().filter_map(|(message, processed)| {
            Listed::of(message).filter(|listed| listed.is_due(processed, invocation.now))
        });
        let due: Vec<Listed> = due.collect();
        self.pipeline.reconcile(&due, &invocation).await;
    }

    /// Sends a request for a message that has to be retried to the sync queue.
    async fn hand_over(&self, key: &MessageKey, delay: Duration) -> Result<(), TaskError> {
        let request = SyncRequest {
            key: key.clone(),
            trigger: Trigger::Backfill,
        };
        Ok(self.sync.send(&request, delay).await?)
    }

    /// Queues stranded messages again on the sync queue. Returns how many.
    pub(crate) async fn requeue_stranded(&self, now: DateTime<Utc>) -> usize {
        let stranded = self.pipeline.ledger.needing_attention(
            State::Waiting,
            now - OVERDUE,
            MOST_STRANDED,
            |message| message.is_stranded(now),
        );
        let stranded = match stranded.await {
            Ok(stranded) => stranded,
            Err(error) => {
                // The next run tries again.
                tracing::warn!(%error, "failed to list stranded messages; the next run tries again");
                return 0;
            }
        };
        let mut taken_up = 0;
        for message in stranded {
            match self.queue_again(&message.key, now).await {
                Ok(true) => {
                    taken_up += 1;
                    tracing::warn!("sync.key" = %message.key, "the message was stranded and is queued again");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!("sync.key" = %message.key, %error, "failed to queue a stranded message again; a later run tries again");
                }
            }
        }
        taken_up
    }

    async fn queue_again(&self, key: &MessageKey, now: DateTime<Utc>) -> Result<bool, TaskError> {
        if !self.pipeline.ledger.expect_delivery(key, now).await? {
            return Ok(false);
        }
        let request = SyncRequest {
            key: key.clone(),
            trigger: Trigger::Backfill,
        };
        self.sync.send(&request, Duration::ZERO).await?;
        Ok(true)
    }
}

fn as_delivery(message: Message) -> Delivery {
    let request = SyncRequest {
        key: message.key.clone(),
        trigger: Trigger::Backfill,
    };
    Delivery {
        request,
        message: Some(message),
        receive_count: 1,
    }
}

fn add(coverage: &mut Coverage, outcome: &Outcome) {
    match outcome.state() {
        State::Written => coverage.written += 1,
        State::Skipped => coverage.skipped += 1,
        State::Waiting => coverage.waiting += 1,
        State::Dead => coverage.dead += 1,
    }
}
