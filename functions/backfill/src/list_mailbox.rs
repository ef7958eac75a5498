//! Works through the pages of a mailbox.
//!
//! A task on the backfill queue is one mailbox of one run. The steps are the same for scheduled and
//! requested runs:
//!
//! 1. **Lease the mailbox** ([`mailverse::ledger::mailbox_state`]): at a time, one worker lists it
//!    for the schedule, and one for operators.
//! 2. **Read the position** ([`mailverse::ledger::backfill_runs`]), where the list continues.
//! 3. **List** a page, with bodies and basic headers, if the mailbox still takes part.
//! 4. **Settle** the page (`page.rs`): messages in a final state are only counted, the others go
//!    through the pipeline.
//! 5. **Save** the position and the counts of the page in one conditional write. Continue at 3.
//! 6. After the last page, **finish**: the task is done, the watermark advances, the coverage is
//!    published.
//!
//! With less than a minute left, the task is queued again and the invocation ends.
//!
//! # What if the process dies here?
//!
//! | Between | Then |
//! | --- | --- |
//! | 1 and 5 | the queue delivers the task again after the lease has expired; the page is listed again, and settled messages need only one read of the ledger |
//! | 5 and 3 | the same, from the next page on |
//! | 5 and 6 | the task is done; the watermark does not advance, so the next scheduled run lists a little more |
//! | queueing the task again and acknowledging its message | two queue messages for one task: the second waits for the mailbox, and continues from what the first one saved |
//!
//! # Parts of a mailbox
//!
//! One list covers a whole mailbox, except for the IMAP family, of which Nylas caches 90 days:
//! older mail is requested from the mail server, folder by folder (`query_imap`; Nylas facts §7 and
//! §16). Parts are listed in the order of their names, which are digests; a position contains the
//! name of its part.
//!
//! # A cursor that Nylas no longer knows
//!
//! How long a cursor is valid is *unknown* (Nylas facts §1). A cursor that Nylas rejects with 400,
//! or that is older than 24 hours, is dropped, and the list starts again at the newest message of
//! the last settled page. Lists are sorted newest first (Nylas facts §7), but not strictly, so it
//! starts a day later than that.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::clients::aws::queue::SyncQueue;
use mailverse::clients::nylas::error::NylasError;
use mailverse::clients::nylas::{Filter, Headers, LARGEST_MESSAGE, LARGEST_PAGE, Page};
use mailverse::ledger::backfill_runs::{Coverage, Position, Progress, Saved, Settled, TaskState};
use mailverse::ledger::mailbox_state::{Lease, TASK_LEASE};
use mailverse::mailboxes::Participation;
use mailverse::pipeline::backfill_batches::NEAR;
use mailverse::pipeline::{Invocation, Processed};
use mailverse::telemetry::{Count, count};

use crate::Backfill;
use crate::list_position::{Part, advanced, forget_cursor, forget_old_cursor, part_at};
use crate::task::{Task, cache_limit, digest, is_meant};
use crate::task_error::{QueueAction, TaskDecision, TaskError, judge, soon};

/// The time that settling a batch may take. With less time left, no step begins.
pub(crate) const BATCH_TIME: TimeDelta = TimeDelta::seconds(60);

/// The most bytes of a page to load into memory at once. A larger page is requested again with
/// fewer messages.
const MOST_BYTES: usize = 32 << 20;

/// The longest delay that SQS supports for a new message.
const LONGEST_DELAY: TimeDelta = TimeDelta::minutes(15);

impl<Q: SyncQueue> Backfill<Q> {
    /// Works on a task for as long as there is time. `begin` reads the clock and draws random
    /// numbers for each step; `seen` gets the result of every message.
    pub async fn work(
        &self,
        task: &Task,
        receive_count: u32,
        begin: &impl Fn() -> Invocation,
        seen: &mut impl FnMut(Processed),
    ) -> QueueAction {
        let invocation = begin();
        if invocation.now + BATCH_TIME > invocation.deadline {
            tracing::error!(task = %task.key(), "the function's timeout is too short to process a page; the task is retried, but set a longer timeout");
            return soon(receive_count);
        }
        let ledger = &self.pipeline.ledger;
        let kept_for = task.key().to_string();
        let (grant, lists) = (&task.grant_id, task.kind.lists());
        let lease = ledger.lease_mailbox(grant, lists, &kept_for, invocation.token, invocation.now);
        let task_error = match lease.await {
            Ok(Lease::Won) => {
                let worked = self.list(task, &invocation, begin, seen);
                // Boxed: nested this deep, the future's type is too deep for the compiler.
                Box::pin(worked).await.err()
            }
            Ok(Lease::HeldUntil(until)) => Some(TaskError::Busy(until)),
            Err(error) => Some(error.into()),
        };
        let next = self
            .decide_queue_action(task, task_error.as_ref(), receive_count, begin().now)
            .await;
        if !matches!(task_error, Some(TaskError::Busy(_))) {
            self.release_mailbox(task, &invocation, task_error.as_ref(), next, begin().now)
                .await;
        }
        if matches!(task_error, Some(TaskError::NoTime)) {
            // Only after `release_mailbox`, when the mailbox is leased to the task and no longer to
            // this invocation.
            return match self.queue_body(task.to_body()).await {
                Ok(()) => QueueAction::Done,
                Err(_) => QueueAction::Later {
                    delay: Duration::ZERO,
                    postponed: false,
                },
            };
        }
        next
    }

    /// Releases the mailbox, or extends its lease if the task comes back soon.
    async fn release_mailbox(
        &self,
        task: &Task,
        invocation: &Invocation,
        task_error: Option<&TaskError>,
        next: QueueAction,
        now: DateTime<Utc>,
    ) {
        let comes_back_after = match (task_error, next) {
            (Some(TaskError::NoTime), _) => Some(TimeDelta::zero()),
            (_, QueueAction::Later { delay, .. }) => TimeDelta::from_std(delay)
                .ok()
                .filter(|delay| *delay <= LONGEST_DELAY),
            (_, QueueAction::Done) => None,
        };
        let kept_until = comes_back_after.map(|delay| now + delay + TASK_LEASE);
        let ledger = &self.pipeline.ledger;
        if let Err(error) = ledger
            .release_mailbox(
                &task.grant_id,
                task.kind.lists(),
                invocation.token,
                kept_until,
            )
            .await
        {
            tracing::warn!(task = %task.key(), %error, "failed to release the mailbox; it stays leased until the lease expires");
        }
    }

    /// Returns an error if the next page may not be listed now: time is short, Dataverse or live
    /// mail goes first, or the mailbox is excluded or paused. `took` is how long the last page
    /// took.
    async fn check_next_page(
        &self,
        task: &Task,
        invocation: &Invocation,
        took: TimeDelta,
    ) -> Result<(), TaskError> {
        if invocation.now + took + BATCH_TIME > invocation.deadline {
            return Err(TaskError::NoTime);
        }
        match self.check_may_continue(invocation).await {
            // The pause is short enough for the pipeline to wait for it.
            Err(TaskError::Paused(until)) if !task.dry_run && until - invocation.now <= NEAR => {}
            may => may?,
        }
        // A run takes minutes, in which the mailbox may have been excluded.
        self.check_participation(task, invocation.now).await?;
        let paused = self
            .pipeline
            .mailbox_paused_until(&task.grant_id, invocation.now);
        match paused.await {
            Some(until) => Err(TaskError::MailboxPaused(until)),
            None => Ok(()),
        }
    }

    /// Lists the mailbox to its end.
    async fn list(
        &self,
        task: &Task,
        first: &Invocation,
        begin: &impl Fn() -> Invocation,
        seen: &mut impl FnMut(Processed),
    ) -> Result<(), TaskError> {
        let ledger = &self.pipeline.ledger;
        let mut progress = ledger.progress(&task.key()).await?;
        if progress.state.is_final() {
            return Ok(());
        }
        if progress.state == TaskState::Parked {
            ledger
                .set_task(&task.key(), TaskState::Queued, None, first.now)
                .await?;
        }
        self.check_participation(task, first.now).await?;
        let parts = self.parts(task, first.now).await?;
        let headers = self.pipeline.headers(&task.grant_id, first.now).await;
        let mut limit = page_limit(progress.nylas_failures);
        forget_old_cursor(&mut progress.position, task, first.now);
        // How long the last page took. Without that much time left, the next page would be listed
        // in vain.
        let mut took = TimeDelta::zero();
        loop {
            let invocation = begin();
            self.check_next_page(task, &invocation, took).await?;
            let (part, next_part) = part_at(&parts, progress.position.part.as_deref());
            if part.name != progress.position.part {
                // The folder of the position was deleted. Its cursor and dates do not apply to the
                // next folder.
                progress.position = Position {
                    part: part.name.clone(),
                    ..Position::default()
                };
            }
            let listed = self.page(
                task,
                part,
                &progress.position,
                headers,
                limit,
                invocation.now,
            );
            let page = match listed.await {
                Ok(Some(page)) => page,
                Ok(None) => {
                    limit = (limit / 4).max(1);
                    continue;
                }
                Err(NylasError::Rejected { status: 400, kind })
                    if progress.position.cursor.is_some() =>
                {
                    tracing::warn!(task = %task.key(), kind, "nylas rejected the cursor; the list starts again near the last settled page");
                    forget_cursor(&mut progress.position, task);
                    continue;
                }
                Err(error) => {
                    self.pipeline
                        .note_throttled(&task.grant_id, &error, &invocation)
                        .await;
                    return Err(error.into());
                }
            };
            let next_cursor = page.next.clone();
            let (coverage, newest) = self.settle_page(task, page, begin, seen).await?;
            let now = begin().now;
            let at_the_end = next_cursor.is_none() && next_part.is_none();
            let position = advanced(&progress.position, next_cursor, next_part, newest, now);
            let settled = Settled {
                after: progress.pages,
                position: &position,
                coverage: &coverage,
                state: if at_the_end {
                    TaskState::Done
                } else {
                    TaskState::Queued
                },
                scheduled: task.kind.is_scheduled(),
            };
            match ledger
                .save_page(&task.key(), &settled, first.token, now)
                .await?
            {
                Saved::Saved => {}
                Saved::Overtaken => return Err(TaskError::Overtaken),
            }
            took = now - invocation.now;
            publish(task, &coverage);
            progress = Progress {
                pages: progress.pages + 1,
                position,
                coverage: progress.coverage.plus(&coverage),
                nylas_failures: 0,
                ..progress
            };
            if at_the_end {
                return self.finished(task, &progress.coverage).await;
            }
        }
    }

    /// Returns an error if the mailbox does not take part, so that it is not read. Tasks that were
    /// planned earlier do not change that.
    async fn check_participation(&self, task: &Task, now: DateTime<Utc>) -> Result<(), TaskError> {
        match self.pipeline.participation(&task.grant_id, now).await? {
            Participation::In => Ok(()),
            Participation::Excluded => Err(TaskError::Excluded),
            Participation::Unlisted => Err(TaskError::Unlisted),
        }
    }

    /// Returns an error if no step may begin now: time is short, or Dataverse or live mail makes
    /// backfill wait.
    pub(crate) async fn check_may_continue(
        &self,
        invocation: &Invocation,
    ) -> Result<(), TaskError> {
        if invocation.now + BATCH_TIME > invocation.deadline {
            return Err(TaskError::NoTime);
        }
        let waits = self
            .pipeline
            .backfill_waits_until(&self.sync, invocation.now);
        waits
            .await
            .map_or(Ok(()), |until| Err(TaskError::Paused(until)))
    }

    /// Returns the lists that together cover what the task asks for.
    async fn parts(&self, task: &Task, now: DateTime<Utc>) -> Result<Vec<Part>, TaskError> {
        let whole = Part {
            name: None,
            folder: None,
            query_imap: false,
        };
        let past_cache = task.past_cache && task.received_after < cache_limit(now);
        if task.folder.is_none() && !past_cache {
            return Ok(vec![whole]);
        }
        let folders = self.pipeline.nylas.folders(&task.grant_id).await?;
        let mut folders: Vec<String> = folders
            .into_iter()
            .filter(|it| {
                let wanted = task.folder.as_deref();
                wanted.is_none_or(|wanted| is_meant(it, wanted))
            })
            .map(|folder| folder.id)
            .collect();
        folders.sort_by_cached_key(|id| digest(id));
        let first = match &task.folder {
            None => whole,
            Some(_) => Part {
                folder: Some(folders.first().cloned().ok_or(TaskError::NoFolder)?),
                ..whole
            },
        };
        if task.folder.is_some() {
            folders.truncate(1);
        }
        let older = folders.into_iter().filter(|_| past_cache);
        let older = older.map(|id| Part {
            name: Some(digest(&id)),
            folder: Some(id),
            query_imap: true,
        });
        Ok(std::iter::once(first).chain(older).collect())
    }

    /// Lists one page. Returns `None` if it is too large.
    async fn page(
        &self,
        task: &Task,
        part: &Part,
        position: &Position,
        headers: Headers,
        limit: u32,
        now: DateTime<Utc>,
    ) -> Result<Option<Page>, NylasError> {
        let older = part.query_imap.then(|| cache_limit(now));
        let bounds = [task.received_before, position.before, older];
        let filter = Filter {
            received_after: task.received_after,
            received_before: bounds.into_iter().flatten().min(),
            folder: part.folder.as_deref(),
            query_imap: part.query_imap,
        };
        let cursor = position.cursor.as_ref().map(|(cursor, _)| cursor.as_str());
        // A single message may be larger than the limit of a page.
        let most = if limit > 1 {
            MOST_BYTES
        } else {
            LARGEST_MESSAGE
        };
        self.pipeline
            .nylas
            .messages_within(&task.grant_id, &filter, cursor, headers, limit, most)
            .await
    }

    /// Finishes the task after its last page was saved.
    async fn finished(&self, task: &Task, coverage: &Coverage) -> Result<(), TaskError> {
        let Coverage {
            listed,
            written,
            skipped,
            waiting,
            dead,
            repaired,
        } = coverage;
        let accounted = coverage.accounted();
        tracing::info!(
            task = %task.key(), kind = ?task.kind, listed, accounted, written, skipped, waiting, dead, repaired, dry_run = task.dry_run,
            "mailbox listed to the end"
        );
        let whole = task.folder.is_none() && task.received_before.is_none();
        // Messages without a usable id are never accounted for. They are in every list, so the
        // watermark does not wait for them.
        if task.kind.is_scheduled()
            && whole
            && let Some(until) = DateTime::from_timestamp(task.planned_at, 0)
        {
            let ledger = &self.pipeline.ledger;
            ledger.advance_watermark(&task.grant_id, until).await?;
        }
        Ok(())
    }

    /// Decides what happens to the queue message, and records the task's state in the ledger.
    async fn decide_queue_action(
        &self,
        task: &Task,
        task_error: Option<&TaskError>,
        receive_count: u32,
        now: DateTime<Utc>,
    ) -> QueueAction {
        let Some(task_error) = task_error else {
            return QueueAction::Done;
        };
        let ledger = &self.pipeline.ledger;
        let (key, reason) = (task.key(), task_error.to_string());
        let tries = match task_error {
            TaskError::Nylas(_) => match ledger.note_nylas_failure(&key, now).await {
                Ok(failures) => u32::try_from(failures).unwrap_or(u32::MAX),
                Err(error) => {
                    tracing::warn!(task = %key, %error, "failed to count the failure in the ledger; using the receive count instead");
                    receive_count
                }
            },
            _ => receive_count,
        };
        let verdict = judge(task, task_error, tries, now);
        let recorded = match verdict {
            TaskDecision::Again => return QueueAction::Done,
            TaskDecision::Leave => {
                tracing::info!(task = %key, reason, "task dropped; the next scheduled run or another worker does its work");
                return QueueAction::Done;
            }
            TaskDecision::Later(next) => {
                tracing::warn!(task = %key, reason, ?next, "task failed or has to wait; it will be delivered again");
                return next;
            }
            TaskDecision::Park => match ledger.park(&task.grant_id, &task.to_body()).await {
                Ok(()) => {
                    tracing::warn!(task = %key, reason, "task parked until a user signs in to the mailbox again");
                    ledger
                        .set_task(&key, TaskState::Parked, Some(&reason), now)
                        .await
                }
                Err(error) => Err(error),
            },
            TaskDecision::Fail => {
                tracing::error!(task = %key, reason, "the mailbox cannot be listed; the task failed and is not retried");
                ledger
                    .set_task(&key, TaskState::Failed, Some(&reason), now)
                    .await
            }
        };
        match recorded {
            Ok(()) => QueueAction::Done,
            // The next delivery gets the same verdict and records it then.
            Err(_) => soon(receive_count),
        }
    }
}

/// Returns the page size: smaller once Nylas has failed several times. Nylas advises 20 when it
/// throttles, and a slow provider may manage that in time (Nylas facts §7). That a cursor works
/// with another limit is *inferred*; a cursor that does not is rejected and dropped.
const fn page_limit(failures: u64) -> u32 {
    match failures {
        0..=1 => LARGEST_PAGE,
        2..=3 => 50,
        _ => 20,
    }
}

fn publish(task: &Task, coverage: &Coverage) {
    if task.dry_run {
        return;
    }
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    count(Count::Listed, number(coverage.listed));
    count(Count::Accounted, number(coverage.accounted()));
    count(Count::Repaired, number(coverage.repaired));
}
