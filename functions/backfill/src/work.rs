//! How is a mailbox's history worked through?
//!
//! A task on the backfill queue is one mailbox of one run. Working it, the same for recent mail and for history:
//!
//! 1. **Keep the mailbox** ([`mailverse::dedupe::mailbox`]): one worker at a time lists it for the schedule, and one for operators.
//! 2. **Read the position** ([`mailverse::dedupe::runs`]): where the list goes on.
//! 3. **List** a page, with bodies and basic headers.
//! 4. **Settle** it (`page.rs`): what the ledger has settled is only counted, the rest goes through the pipeline.
//! 5. **Save** the position, and what the page showed, in one conditional write. Back to 3.
//! 6. After the last page, **say so**: the task is done, the watermark moves, the coverage is published.
//!
//! With less than a minute left, the task goes on the queue again and this invocation ends.
//!
//! # What if the process dies here?
//!
//! | Between | Then |
//! | --- | --- |
//! | 1 and 5 | the queue delivers the task again when the lease has run out; the page is listed again, and what is settled costs one read of the ledger |
//! | 5 and 3 | the same, from the next page on |
//! | 5 and 6 | the task is done; the watermark stays, and the next run of the schedule lists a little more |
//! | queueing itself and being acknowledged | two queue messages for one task: the second waits for the mailbox, and goes on from what the first one saved |
//!
//! # Parts of a mailbox
//!
//! One list shows a whole mailbox, but for the IMAP family, of which Nylas keeps 90 days: what is older is asked of the mail server, folder by folder
//! (`query_imap`; Nylas facts §7 and §16). Parts are worked through in the order of their names, which are digests; a position names its part.
//!
//! # A cursor that is no longer known
//!
//! How long one lives is unknown (Nylas facts §1). One that Nylas refuses with 400, or that is older than 24 hours, is dropped, and the list begins
//! anew below the newest message of the last page that was settled. Lists come newest first (Nylas facts §7), though not strictly, so it begins a day above.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::dedupe::mailbox::{Lease, TASK_LEASE};
use mailverse::dedupe::runs::{Coverage, Position, Progress, Saved, Settled, TaskState};
use mailverse::nylas::error::NylasError;
use mailverse::nylas::{Filter, Headers, LARGEST_PAGE, Page};
use mailverse::pipeline::history::NEAR;
use mailverse::pipeline::{Handled, Run};
use mailverse::queue::SyncQueue;
use mailverse::telemetry::{Count, count};

use crate::Backfill;
use crate::position::{Part, advanced, forget_cursor, forget_old_cursor, part_at};
use crate::task::{Task, beyond_cache, digest, is_meant};
use crate::trouble::{Next, Trouble, Verdict, judge, soon};

/// Time that settling a batch may take: with less left, nothing is begun.
pub(crate) const BATCH_TIME: TimeDelta = TimeDelta::seconds(60);

/// Most bytes of a page that are taken into memory at once; a page with more is asked for in smaller ones.
const MOST_BYTES: usize = 32 << 20;

/// Longest time for which SQS delays a new message.
const LONGEST_DELAY: TimeDelta = TimeDelta::minutes(15);

impl<Q: SyncQueue> Backfill<Q> {
    /// Works on a task for as long as there is time. `begin` draws time and chance for each step; `seen` gets every message that was dealt with.
    pub async fn work(
        &self,
        task: &Task,
        receive_count: u32,
        begin: &impl Fn() -> Run,
        seen: &mut impl FnMut(Handled),
    ) -> Next {
        let run = begin();
        if run.now + BATCH_TIME > run.deadline {
            tracing::error!(task = %task.key(), "the function's timeout leaves no time to work");
            return soon(receive_count);
        }
        let ledger = &self.pipeline.ledger;
        let kept_for = task.key().to_string();
        let (grant, lists) = (&task.grant_id, task.kind.lists());
        let lease = ledger.lease_mailbox(grant, lists, &kept_for, run.token, run.now);
        let trouble = match lease.await {
            Ok(Lease::Won) => {
                let worked = self.list(task, &run, begin, seen);
                // Boxed, because nested this deep the future's type is more than the compiler lays out.
                Box::pin(worked).await.err()
            }
            Ok(Lease::HeldUntil(until)) => Some(Trouble::Busy(until)),
            Err(error) => Some(error.into()),
        };
        let next = self
            .after(task, trouble.as_ref(), receive_count, begin().now)
            .await;
        if !matches!(trouble, Some(Trouble::Busy(_))) {
            self.leave(task, &run, trouble.as_ref(), next, begin().now)
                .await;
        }
        if matches!(trouble, Some(Trouble::NoTime)) {
            // Only now, when the mailbox is kept for the task and no longer for this invocation.
            return match self.queue_body(task.to_body()).await {
                Ok(()) => Next::Done,
                Err(_) => Next::Later {
                    delay: Duration::ZERO,
                    postponed: false,
                },
            };
        }
        next
    }

    /// Leaves the mailbox: kept for a task that comes back soon, free otherwise.
    async fn leave(
        &self,
        task: &Task,
        run: &Run,
        trouble: Option<&Trouble>,
        next: Next,
        now: DateTime<Utc>,
    ) {
        let comes_back_after = match (trouble, next) {
            (Some(Trouble::NoTime), _) => Some(TimeDelta::zero()),
            (_, Next::Later { delay, .. }) => TimeDelta::from_std(delay)
                .ok()
                .filter(|delay| *delay <= LONGEST_DELAY),
            (_, Next::Done) => None,
        };
        let kept_until = comes_back_after.map(|delay| now + delay + TASK_LEASE);
        let ledger = &self.pipeline.ledger;
        if let Err(error) = ledger
            .leave_mailbox(&task.grant_id, task.kind.lists(), run.token, kept_until)
            .await
        {
            tracing::warn!(task = %task.key(), %error, "the mailbox stays kept until the lease has run out");
        }
    }

    /// Lists until the end of the mailbox.
    async fn list(
        &self,
        task: &Task,
        first: &Run,
        begin: &impl Fn() -> Run,
        seen: &mut impl FnMut(Handled),
    ) -> Result<(), Trouble> {
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
        let parts = self.parts(task, first.now).await?;
        let headers = self.pipeline.headers(&task.grant_id, first.now).await;
        let mut limit = page_limit(progress.nylas_failures);
        forget_old_cursor(&mut progress.position, task, first.now);
        // What the last page took: one that there is no time for would be listed in vain.
        let mut took = TimeDelta::zero();
        loop {
            let run = begin();
            if run.now + took + BATCH_TIME > run.deadline {
                return Err(Trouble::NoTime);
            }
            match self.go_on(&run).await {
                // The page waits for its turn by itself.
                Err(Trouble::Paused(until)) if !task.dry_run && until - run.now <= NEAR => {}
                may => may?,
            }
            let paused = self.pipeline.mailbox_paused_until(&task.grant_id, run.now);
            if let Some(until) = paused.await {
                return Err(Trouble::MailboxPaused(until));
            }
            let (part, next_part) = part_at(&parts, progress.position.part.as_deref());
            if part.name != progress.position.part {
                // Its folder went. What is known of that one's list says nothing of this one's.
                progress.position = Position {
                    part: part.name.clone(),
                    ..Position::default()
                };
            }
            let listed = self.page(task, part, &progress.position, headers, limit, run.now);
            let page = match listed.await {
                Ok(Some(page)) => page,
                Ok(None) => {
                    limit = (limit / 4).max(1);
                    continue;
                }
                Err(NylasError::Rejected { status: 400, kind })
                    if progress.position.cursor.is_some() =>
                {
                    tracing::warn!(task = %task.key(), kind, "nylas refused the cursor; the list begins anew below what is settled");
                    forget_cursor(&mut progress.position, task);
                    continue;
                }
                Err(error) => {
                    self.pipeline
                        .note_throttled(&task.grant_id, &error, &run)
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
                Saved::Overtaken => return Err(Trouble::Overtaken),
            }
            took = now - run.now;
            publish(task, &coverage);
            progress = Progress {
                pages: progress.pages + 1,
                position,
                coverage: progress.coverage.plus(&coverage),
                nylas_failures: 0,
                ..progress
            };
            if at_the_end {
                return self.ended(task, &progress.coverage).await;
            }
        }
    }

    /// Whether a step may begin now.
    pub(crate) async fn go_on(&self, run: &Run) -> Result<(), Trouble> {
        if run.now + BATCH_TIME > run.deadline {
            return Err(Trouble::NoTime);
        }
        let waits = self.pipeline.history_waits_until(&self.sync, run.now);
        waits
            .await
            .map_or(Ok(()), |until| Err(Trouble::Paused(until)))
    }

    /// The lists that show all of what the task asks for.
    async fn parts(&self, task: &Task, now: DateTime<Utc>) -> Result<Vec<Part>, Trouble> {
        let whole = Part {
            name: None,
            folder: None,
            query_imap: false,
        };
        let past_cache = task.past_cache && task.received_after < beyond_cache(now);
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
                folder: Some(folders.first().cloned().ok_or(Trouble::NoFolder)?),
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

    /// One page; `None` when it is too large.
    async fn page(
        &self,
        task: &Task,
        part: &Part,
        position: &Position,
        headers: Headers,
        limit: u32,
        now: DateTime<Utc>,
    ) -> Result<Option<Page>, NylasError> {
        let older = part.query_imap.then(|| beyond_cache(now));
        let bounds = [task.received_before, position.before, older];
        let filter = Filter {
            received_after: task.received_after,
            received_before: bounds.into_iter().flatten().min(),
            folder: part.folder.as_deref(),
            query_imap: part.query_imap,
        };
        let cursor = position.cursor.as_ref().map(|(cursor, _)| cursor.as_str());
        // One message alone is taken as large as it is.
        let most = if limit > 1 { MOST_BYTES } else { usize::MAX };
        self.pipeline
            .nylas
            .messages_within(&task.grant_id, &filter, cursor, headers, limit, most)
            .await
    }

    /// The last page is saved.
    async fn ended(&self, task: &Task, coverage: &Coverage) -> Result<(), Trouble> {
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
        // A page without a usable id has messages that nobody accounts for; they come with every list, so they hold nothing up.
        if task.kind.is_scheduled()
            && whole
            && let Some(until) = DateTime::from_timestamp(task.planned_at, 0)
        {
            let ledger = &self.pipeline.ledger;
            ledger.listed_until(&task.grant_id, until).await?;
        }
        Ok(())
    }

    /// What becomes of the queue message, and what the ledger is told of the task.
    async fn after(
        &self,
        task: &Task,
        trouble: Option<&Trouble>,
        receive_count: u32,
        now: DateTime<Utc>,
    ) -> Next {
        let Some(trouble) = trouble else {
            return Next::Done;
        };
        let ledger = &self.pipeline.ledger;
        let (key, reason) = (task.key(), trouble.to_string());
        let tries = match trouble {
            Trouble::Nylas(_) => match ledger.note_nylas_failure(&key, now).await {
                Ok(failures) => u32::try_from(failures).unwrap_or(u32::MAX),
                Err(error) => {
                    tracing::warn!(task = %key, %error, "the failure could not be noted");
                    receive_count
                }
            },
            _ => receive_count,
        };
        let verdict = judge(task, trouble, tries, now);
        let told = match verdict {
            Verdict::Again => return Next::Done,
            Verdict::Leave => {
                tracing::info!(task = %key, reason, "task is left to the schedule's next run");
                return Next::Done;
            }
            Verdict::Later(next) => {
                tracing::warn!(task = %key, reason, ?next, "task goes back to the queue");
                return next;
            }
            Verdict::Park => match ledger.park(&task.grant_id, &task.to_body()).await {
                Ok(()) => {
                    tracing::warn!(task = %key, reason, "task is parked until somebody has signed in again");
                    ledger
                        .set_task(&key, TaskState::Parked, Some(&reason), now)
                        .await
                }
                Err(error) => Err(error),
            },
            Verdict::Fail => {
                tracing::error!(task = %key, reason, "mailbox cannot be listed");
                ledger
                    .set_task(&key, TaskState::Failed, Some(&reason), now)
                    .await
            }
        };
        match told {
            Ok(()) => Next::Done,
            // The next delivery comes to the same end, and tells of it.
            Err(_) => soon(receive_count),
        }
    }
}

/// Fewer messages a page once Nylas has failed several times: it advises 20 when it throttles, and a provider that is slow may manage these in time
/// (Nylas facts §7). That a cursor may be continued with another limit is inferred; one that may not is refused, and dropped.
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
