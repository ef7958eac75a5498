//! How a listed page is settled: every message of it ends with a state in the ledger, or on the sync queue, or the page counts as not settled.
//!
//! The ledger is read for the whole page first. What is in a final state there is only counted, without a claim and without a call to Dataverse. The rest goes
//! through the pipeline, within the budget of Dataverse and behind live mail; what fails in it becomes a request on the sync queue, and the page goes on.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use mailverse::dedupe::attention::OVERDUE;
use mailverse::dedupe::runs::Coverage;
use mailverse::dedupe::{Claim, ClaimRequest, State, decide_claim};
use mailverse::ids::MessageKey;
use mailverse::message::Message;
use mailverse::nylas::Page;
use mailverse::pipeline::preview::Foreseen;
use mailverse::pipeline::theirs::Listed;
use mailverse::pipeline::{Fate, Handled, Run, Work};
use mailverse::queue::SyncQueue;
use mailverse::sync_request::{SyncRequest, Trigger};

use crate::Backfill;
use crate::task::Task;
use crate::trouble::Trouble;

/// Messages that a dry run looks at together.
const AT_ONCE: usize = 50;

/// Stranded messages that one run takes up; the next run finds the others.
const MOST_STRANDED: usize = 1_000;

/// The messages of a page.
#[derive(Default)]
struct Sorted {
    /// Those that the ledger has settled.
    settled: Vec<(Message, Handled)>,
    /// The others.
    fresh: Vec<Message>,
    /// Of the others, those that somebody tried and released, after which there is a request on the sync queue. One that is claimed is not among them: who
    /// claimed it may be a list, and if it died, it left no request behind.
    queued: HashSet<MessageKey>,
}

impl<Q: SyncQueue> Backfill<Q> {
    /// Settles a page. What it showed, and the date of its newest message.
    ///
    /// # Errors
    /// [`Trouble`]: the page is not settled, and has to be listed again.
    pub(crate) async fn settle_page(
        &self,
        task: &Task,
        page: Page,
        begin: &impl Fn() -> Run,
        seen: &mut impl FnMut(Handled),
    ) -> Result<(Coverage, Option<i64>), Trouble> {
        let mut coverage = Coverage {
            listed: u64::try_from(page.messages.len() + page.unreadable).unwrap_or_default(),
            ..Coverage::default()
        };
        if page.unreadable > 0 {
            tracing::warn!(task = %task.key(), messages = page.unreadable, "listed messages without a usable id");
        }
        // Not the oldest: one mail with a date of long ago would have the rest skipped, if the list has to begin anew.
        let newest = page.messages.iter().filter_map(|it| it.date).max();
        let newest = newest.map(|date| date.timestamp());
        let mut known = HashSet::new();
        let messages: Vec<Message> = page
            .messages
            .into_iter()
            .filter(|message| known.insert(message.key.clone()))
            .collect();
        // One that stands on the page twice counts once.
        let twice = known.len().abs_diff(messages.len());
        coverage.listed -= u64::try_from(twice).unwrap_or_default();
        let Sorted {
            settled,
            fresh,
            queued,
        } = self.sorted(task, messages, &begin(), &mut coverage).await?;
        if task.kind.is_scheduled() {
            self.look_for_theirs(&settled, begin).await;
        }
        for (_, handled) in settled {
            seen(handled);
        }
        if task.dry_run {
            self.foresee(fresh, begin, &mut coverage).await?;
        } else {
            let work = self.bring_in(task, fresh, &queued, begin, &mut coverage, seen);
            work.await?;
        }
        Ok((coverage, newest))
    }

    /// What the ledger has settled, and the rest.
    async fn sorted(
        &self,
        task: &Task,
        messages: Vec<Message>,
        run: &Run,
        coverage: &mut Coverage,
    ) -> Result<Sorted, Trouble> {
        let keys: Vec<MessageKey> = messages.iter().map(|it| it.key.clone()).collect();
        let mut entries = self.pipeline.ledger.entries(&keys).await?;
        // The claim of a message that a list shows, as the pipeline makes it.
        let request = ClaimRequest {
            revisit: true,
            ..ClaimRequest::new(run.token, run.now)
        };
        let mut sorted = Sorted::default();
        for mut message in messages {
            let entry = entries.remove(&message.key);
            if entry.is_none() {
                coverage.repaired += 1;
            }
            let claim = decide_claim(entry.as_ref(), &request);
            if entry.is_some_and(|it| it.state == State::Waiting && it.held.is_none()) {
                sorted.queued.insert(message.key.clone());
            }
            let before = match claim {
                Claim::Settled(entry) => Handled::settled_before(message.key.clone(), entry),
                Claim::Won { .. } | Claim::HeldUntil(_) => None,
            };
            match before {
                Some(handled) => {
                    add(coverage, &handled.fate);
                    // Its body has no more use, and the others' need the room.
                    message.body = String::new();
                    sorted.settled.push((message, handled));
                }
                None => sorted.fresh.push(message),
            }
        }
        if coverage.repaired > 0 && task.kind.is_scheduled() && !task.dry_run {
            tracing::info!(task = %task.key(), messages = coverage.repaired, "listed messages that nothing had told of");
        }
        Ok(sorted)
    }

    /// Takes messages through the pipeline, a few at a time, each with claims of its own.
    async fn bring_in(
        &self,
        task: &Task,
        fresh: Vec<Message>,
        queued: &HashSet<MessageKey>,
        begin: &impl Fn() -> Run,
        coverage: &mut Coverage,
        seen: &mut impl FnMut(Handled),
    ) -> Result<(), Trouble> {
        if fresh.is_empty() {
            return Ok(());
        }
        let work = fresh.into_iter().map(in_hand).collect();
        // Boxed, because its future is large.
        let done = Box::pin(self.pipeline.history(work, &self.sync, begin)).await;
        let run = begin();
        let is_left = done.left.is_some();
        let stopped = match done.left {
            Some(left) if left.not_before <= run.now => Some(Trouble::NoTime),
            Some(left) => Some(Trouble::Paused(left.not_before)),
            None if self.pipeline.is_paused(run.now).await => {
                let waits = self.pipeline.history_waits_until(&self.sync, run.now);
                Some(Trouble::Paused(waits.await.unwrap_or(run.now)))
            }
            None => None,
        };
        let mut is_settled = true;
        for handled in done.handled {
            if let Fate::Waiting { delay, .. } = &handled.fate {
                if stopped.is_some() {
                    // Dataverse stopped the whole batch. The page comes again after the pause; the sync queue is for what fails alone.
                    is_settled = false;
                    continue;
                }
                // The schedule lists a message again and again, and leaves it to the request that is there.
                if !(task.kind.is_scheduled() && queued.contains(&handled.key)) {
                    self.hand_over(&handled.key, *delay).await?;
                }
            }
            add(coverage, &handled.fate);
            seen(handled);
        }
        match stopped {
            Some(trouble) if !is_settled || is_left => Err(trouble),
            _ => Ok(()),
        }
    }

    /// The same for a dry run, which writes nothing.
    async fn foresee(
        &self,
        fresh: Vec<Message>,
        begin: &impl Fn() -> Run,
        coverage: &mut Coverage,
    ) -> Result<(), Trouble> {
        let mut fresh = fresh.into_iter().peekable();
        while fresh.peek().is_some() {
            let run = begin();
            self.go_on(&run).await?;
            let some: Vec<Message> = fresh.by_ref().take(AT_ONCE).collect();
            for preview in self.pipeline.preview(some, &run).await {
                match preview.outcome {
                    Foreseen::Tracked { .. } => coverage.written += 1,
                    Foreseen::Skipped { .. } => coverage.skipped += 1,
                    Foreseen::Unknown { .. } => coverage.waiting += 1,
                }
            }
        }
        Ok(())
    }

    /// Looks for other clients' rows of the page's mails that were written lately.
    async fn look_for_theirs(&self, settled: &[(Message, Handled)], begin: &impl Fn() -> Run) {
        let run = begin();
        let due = settled.iter().filter_map(|(message, handled)| {
            Listed::of(message).filter(|listed| listed.is_due(handled, run.now))
        });
        let due: Vec<Listed> = due.collect();
        self.pipeline.reconcile(&due, &run).await;
    }

    /// Puts a message that has to be tried again on the sync queue.
    async fn hand_over(&self, key: &MessageKey, delay: Duration) -> Result<(), Trouble> {
        let request = SyncRequest {
            key: key.clone(),
            trigger: Trigger::Backfill,
        };
        Ok(self.sync.send(&request, delay).await?)
    }

    /// Puts what is stranded on the sync queue once more. How many messages that were.
    pub(crate) async fn take_up_stranded(&self, now: DateTime<Utc>) -> usize {
        let stranded = self.pipeline.ledger.needing_attention(
            State::Waiting,
            now - OVERDUE,
            MOST_STRANDED,
            |message| message.is_stranded(now),
        );
        let stranded = match stranded.await {
            Ok(stranded) => stranded,
            Err(error) => {
                // The next run looks again.
                tracing::warn!(%error, "stranded messages could not be listed");
                return 0;
            }
        };
        let mut taken_up = 0;
        for message in stranded {
            match self.queue_again(&message.key, now).await {
                Ok(true) => {
                    taken_up += 1;
                    tracing::warn!("sync.key" = %message.key, "message was stranded, and is queued again");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!("sync.key" = %message.key, %error, "stranded message could not be queued");
                }
            }
        }
        taken_up
    }

    async fn queue_again(&self, key: &MessageKey, now: DateTime<Utc>) -> Result<bool, Trouble> {
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

fn add(coverage: &mut Coverage, fate: &Fate) {
    match fate.state() {
        State::Written => coverage.written += 1,
        State::Skipped => coverage.skipped += 1,
        State::Waiting => coverage.waiting += 1,
        State::Dead => coverage.dead += 1,
    }
}
