//! The backfill's items of one mailbox as values, and what each call does to them.

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::ledger::ClaimToken;
use mailverse::ledger::backfill_runs::{Coverage, Position, Progress, Saved, TaskState};
use mailverse::ledger::mailbox_state::{Lease, Lists, TASK_LEASE};

/// The number of tasks that list the mailbox.
pub(super) const TASKS: usize = 2;

/// The two leases of a mailbox, in the order of [`Model::leases`].
pub(super) const LISTS: [Lists; 2] = [Lists::Schedule, Lists::Operator];

/// What a worker saves of a page.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Page {
    pub(super) position: Position,
    pub(super) coverage: Coverage,
    pub(super) state: TaskState,
    pub(super) scheduled: bool,
}

/// A lease as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leased {
    pub(super) task: usize,
    /// The worker that runs the task; `None` while the task is on its queue.
    pub(super) token: Option<ClaimToken>,
    pub(super) until: DateTime<Utc>,
}

/// A task as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) progress: Progress,
    pub(super) saved_by: Option<ClaimToken>,
    /// Unix seconds.
    pub(super) expires_at: i64,
}

/// The items of one mailbox and of the tasks that list it, as values.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) leases: [Option<Leased>; LISTS.len()],
    pub(super) watermark: Option<DateTime<Utc>>,
    pub(super) tasks: [Option<Stored>; TASKS],
}

impl Model {
    /// | Stored lease | Answer |
    /// | --- | --- |
    /// | none, or its time has passed | won |
    /// | of this worker | won: the response to its first call was lost |
    /// | of this task, on its queue | won |
    /// | any other | held |
    pub(super) fn lease(
        &mut self,
        lists: usize,
        task: usize,
        token: ClaimToken,
        now: DateTime<Utc>,
    ) -> Lease {
        if let Some(lease) = self.leases[lists] {
            let comes_back = lease.token.is_none() && lease.task == task;
            if lease.until > now && lease.token != Some(token) && !comes_back {
                return Lease::HeldUntil(lease.until);
            }
        }
        self.leases[lists] = Some(Leased {
            task,
            token: Some(token),
            until: now + TASK_LEASE,
        });
        Lease::Won
    }

    pub(super) fn release(
        &mut self,
        lists: usize,
        token: ClaimToken,
        kept_until: Option<DateTime<Utc>>,
    ) {
        let Some(lease) = self.leases[lists].filter(|lease| lease.token == Some(token)) else {
            return;
        };
        self.leases[lists] = kept_until.map(|until| Leased {
            token: None,
            until,
            ..lease
        });
    }

    pub(super) fn listed(&mut self, until: DateTime<Utc>) {
        self.watermark = self.watermark.max(Some(until));
    }

    pub(super) fn progress(&self, task: usize) -> Progress {
        match &self.tasks[task] {
            Some(stored) => stored.progress.clone(),
            None => Progress::none(),
        }
    }

    /// Returns the task, which is stored for `days` from now on if it is new.
    fn task(&mut self, task: usize, days: i64, now: DateTime<Utc>) -> &mut Stored {
        let stored = self.tasks[task].get_or_insert_with(|| Stored {
            progress: Progress::none(),
            saved_by: None,
            expires_at: (now + TimeDelta::days(days)).timestamp(),
        });
        stored.progress.changed_at = Some(now);
        stored
    }

    pub(super) fn save(&mut self, task: usize, save: &Save) -> Saved {
        let progress = self.progress(task);
        if progress.pages != save.after {
            let saved_by = self.tasks[task].as_ref().and_then(|stored| stored.saved_by);
            return if saved_by == Some(save.by) && progress.pages == save.after + 1 {
                Saved::Saved
            } else {
                Saved::Overtaken
            };
        }
        let page = &save.page;
        let stored = self.task(task, if page.scheduled { 7 } else { 90 }, save.now);
        stored.saved_by = Some(save.by);
        stored.progress = Progress {
            state: page.state,
            pages: save.after + 1,
            position: page.position.clone(),
            coverage: progress.coverage.plus(&page.coverage),
            nylas_failures: 0,
            reason: progress.reason,
            changed_at: Some(save.now),
        };
        Saved::Saved
    }

    pub(super) fn set(
        &mut self,
        task: usize,
        state: TaskState,
        reason: Option<&'static str>,
        now: DateTime<Utc>,
    ) {
        if self.progress(task).state.is_final() {
            return;
        }
        let progress = &mut self.task(task, 90, now).progress;
        progress.state = state;
        if let Some(reason) = reason {
            progress.reason = Some(reason.to_owned());
        }
    }

    pub(super) fn failure(&mut self, task: usize, now: DateTime<Utc>) -> u64 {
        let progress = &mut self.task(task, 7, now).progress;
        progress.nylas_failures += 1;
        progress.nylas_failures
    }
}

/// A call that saves a page.
#[derive(Debug, Clone)]
pub(super) struct Save {
    pub(super) after: u64,
    pub(super) page: Page,
    pub(super) by: ClaimToken,
    pub(super) now: DateTime<Utc>,
}
