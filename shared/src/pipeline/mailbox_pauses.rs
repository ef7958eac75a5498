//! The pauses of mailboxes, and of Nylas as a whole: read before anything is fetched, written when a
//! call is throttled or refused.
//!
//! | Nylas says | Then |
//! | --- | --- |
//! | 429 | whoever asks for the mailbox pauses: for `Retry-After`, or 30 seconds |
//! | 401 for the mailbox | the key is tried on a path that needs no mailbox: if it is refused there too, whoever asks Nylas pauses, else whoever asks for the mailbox |
//! | 403 for want of a scope, a grant that is not there | whoever asks for the mailbox pauses |
//!
//! A pause for a refusal ends with a probe: one message of the mailbox is fetched alone, and when it
//! comes, the others follow.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::fate::{Failure, Run, Work};
use super::handled::Handled;
use super::job::{Ended, Job};
use super::refusals::Refusals;
use super::{Looks, Pipeline, untouched};
use crate::dedupe::LEASE;
use crate::dedupe::pause::{Pause, Scope};
use crate::ids::GrantId;
use crate::nylas::error::NylasError;
use crate::refusal::RefusalState;
use crate::retry::{FIRST_STEP, LONGEST_HIDE};

/// What is known of the pauses of the mailboxes of a run.
#[derive(Default)]
pub(super) struct Pauses {
    known: HashMap<Scope, Pause>,
}

/// Which jobs of a run may fetch.
pub(super) struct Admission {
    /// Those that may at once.
    pub(super) free: Vec<Job>,
    /// For each pause that is over: one that goes as its probe, and those that follow if it passes.
    pub(super) probes: Vec<(Scope, Job, Vec<Job>)>,
}

impl Pauses {
    pub(super) fn refused(&self, scope: &Scope) -> RefusalState {
        let pause = self.known.get(scope);
        pause.map(|pause| pause.refused.clone()).unwrap_or_default()
    }

    /// Why nothing is asked of Nylas now.
    pub(super) fn of_nylas(&self, run: &Run) -> Option<Failure> {
        let until = self.until(&Scope::Nylas, run.time())?;
        Some(paused(until, run))
    }

    fn until(&self, scope: &Scope, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.known
            .get(scope)
            .and_then(|pause| pause.until)
            .filter(|until| *until > now)
    }

    /// Whether the time of a pause for a refusal is over, so that its probe is due.
    fn probe_is_due(&self, scope: &Scope) -> bool {
        self.known
            .get(scope)
            .is_some_and(|pause| pause.refused.cause.is_some())
    }
}

impl Pipeline {
    /// Reads the pauses of these mailboxes. A ledger that does not answer counts as none: it says so
    /// again when it is asked for anything else.
    pub(super) async fn mailbox_pauses(&self, grants: &[&GrantId]) -> Pauses {
        let grants: HashSet<&GrantId> = grants.iter().copied().collect();
        let scopes: Vec<Scope> = grants
            .into_iter()
            .map(|grant| Scope::Mailbox(grant.clone()))
            .chain([Scope::Nylas])
            .collect();
        match self.ledger.pauses(&scopes).await {
            Ok(known) => Pauses { known },
            Err(error) => {
                tracing::warn!(%error, "the pauses of mailboxes could not be read");
                Pauses::default()
            }
        }
    }

    /// Sends what would have to be fetched from a mailbox that pauses back as it came. It is not even
    /// claimed: a worker that dies with it then leaves a message that waits, and none that counts as
    /// given up.
    pub(super) async fn hold_back(&self, work: Vec<Work>, run: &Run) -> (Vec<Work>, Vec<Handled>) {
        let grants: Vec<&GrantId> = work.iter().map(|it| &it.request.key.grant_id).collect();
        let pauses = self.mailbox_pauses(&grants).await;
        let now = run.time();
        let (mut free, mut held) = (Vec::new(), Vec::new());
        for work in work {
            let mailbox = Scope::Mailbox(work.request.key.grant_id.clone());
            let until = pauses
                .until(&mailbox, now)
                .max(pauses.until(&Scope::Nylas, now));
            match until {
                Some(until) if work.message.is_none() => {
                    held.extend(untouched(vec![work], &paused(until, run), run));
                }
                _ => free.push(work),
            }
        }
        (free, held)
    }

    /// Sorts out what may be fetched now. The rest waits until the pause is over.
    pub(super) async fn admit_fetches(
        &self,
        jobs: Vec<Job>,
        pauses: &Pauses,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Admission {
        let mut by_scope: Vec<(Scope, Vec<Job>)> = Vec::new();
        let mut free = Vec::new();
        let now = run.time();
        for job in jobs {
            // A list brought it along.
            if job.message.is_some() {
                free.push(job);
                continue;
            }
            let mailbox = Scope::Mailbox(job.key.grant_id.clone());
            let scopes = [Scope::Nylas, mailbox];
            if let Some(until) = scopes.iter().filter_map(|it| pauses.until(it, now)).max() {
                ended.push(job.failed(paused(until, run), run));
                continue;
            }
            let Some(scope) = scopes.into_iter().find(|it| pauses.probe_is_due(it)) else {
                free.push(job);
                continue;
            };
            match by_scope.iter_mut().find(|(known, _)| *known == scope) {
                Some((_, jobs)) => jobs.push(job),
                None => by_scope.push((scope, vec![job])),
            }
        }
        let mut probes = Vec::new();
        for (scope, mut jobs) in by_scope {
            // Longer than this run may take: a worker that dies with the probe costs one more pause.
            let until = now + LEASE;
            let is_ours = self.ledger.take_probe(&scope, now, until).await;
            if is_ours.unwrap_or(false) && !jobs.is_empty() {
                let probe = jobs.remove(0);
                probes.push((scope, probe, jobs));
            } else {
                let failure = paused(until, run);
                ended.extend(jobs.into_iter().map(|job| job.failed(failure.clone(), run)));
            }
        }
        Admission { free, probes }
    }

    /// Tells everybody who asks for the mailbox that Nylas throttles it. Until when.
    pub async fn note_throttled(
        &self,
        grant_id: &GrantId,
        error: &NylasError,
        run: &Run,
    ) -> Option<DateTime<Utc>> {
        let NylasError::Throttled { retry_after } = error else {
            return None;
        };
        let wait = retry_after.unwrap_or(FIRST_STEP).min(LONGEST_HIDE);
        let until = run.time() + TimeDelta::from_std(wait).unwrap_or_default();
        let scope = Scope::Mailbox(grant_id.clone());
        if let Err(error) = self.ledger.pause_all(&scope, until).await {
            tracing::warn!(%scope, %error, "the pause could not be stored; each worker finds out for itself");
        }
        Some(until)
    }

    /// Until when nobody asks Nylas for the mailbox; `None` when one may, or when that cannot be told.
    pub async fn mailbox_paused_until(
        &self,
        grant_id: &GrantId,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let pauses = self.mailbox_pauses(&[grant_id]).await;
        let mailbox = Scope::Mailbox(grant_id.clone());
        pauses
            .until(&mailbox, now)
            .max(pauses.until(&Scope::Nylas, now))
    }

    /// Messages of a run for which the mailboxes could not be listed. If Nylas refused that, it is the
    /// key that it refuses, and everybody pauses.
    pub(super) async fn without_mailboxes(
        &self,
        mut failed: Vec<Ended>,
        pauses: &Pauses,
        looks: Looks,
        run: &Run,
    ) -> Vec<Ended> {
        if looks == Looks::Write {
            let refusals = Refusals {
                scope: &Scope::Nylas,
                state: &pauses.refused(&Scope::Nylas),
                is_probe: false,
                passed: false,
            };
            self.judge(&refusals, &mut failed, run).await;
        }
        for end in &mut failed {
            end.refusal = None;
        }
        failed
    }
}

pub(super) fn paused(until: DateTime<Utc>, run: &Run) -> Failure {
    let wait = (until - run.time()).to_std().unwrap_or_default();
    Failure::postponed(wait, "nylas asked for a pause, or refuses the mailbox")
}
