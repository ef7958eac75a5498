//! The pauses of mailboxes, and of Nylas as a whole.
//!
//! They are read before anything is fetched, and written when a call is throttled or refused.
//!
//! | Nylas answers | Then |
//! | --- | --- |
//! | 429 | the mailbox is paused for all workers: for `Retry-After`, or 30 seconds |
//! | 401 for the mailbox | the key is tried on a path that needs no mailbox; if it is refused there too, all calls to Nylas are paused, otherwise only the mailbox |
//! | 403 because a scope is missing, or a grant that does not exist | the mailbox is paused for all workers |
//!
//! A pause for a refusal lasts 15 minutes
//! ([`MAILBOX_WAIT`](crate::clients::nylas::error::MAILBOX_WAIT)) and ends with a probe: one
//! message of the mailbox is fetched alone, and if that succeeds, the others follow.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::failure::Failure;
use super::invocation::{Delivery, Invocation};
use super::processed::Processed;
use super::refusals::Refusals;
use super::stages::{Finished, PendingMessage};
use super::{PauseAccess, Pipeline, untouched};
use crate::clients::nylas::error::NylasError;
use crate::clients::refusal::RefusalState;
use crate::clients::retry::{FIRST_STEP, LONGEST_HIDE};
use crate::ledger::LEASE;
use crate::ledger::pauses::{Pause, Scope};
use crate::model::ids::GrantId;

/// The known pauses of the mailboxes of a run.
#[derive(Default)]
pub(super) struct Pauses {
    known: HashMap<Scope, Pause>,
}

/// Which jobs of a run may fetch.
pub(super) struct Admission {
    /// The jobs that may fetch at once.
    pub(super) free: Vec<PendingMessage>,
    /// For each pause that is over: the job that is its probe, and the jobs that follow if the
    /// probe succeeds.
    pub(super) probes: Vec<(Scope, PendingMessage, Vec<PendingMessage>)>,
}

impl Pauses {
    pub(super) fn refused(&self, scope: &Scope) -> RefusalState {
        let pause = self.known.get(scope);
        pause.map(|pause| pause.refused.clone()).unwrap_or_default()
    }

    /// Returns why nothing may be requested of Nylas now; `None` if it is not paused.
    pub(super) fn of_nylas(&self, invocation: &Invocation) -> Option<Failure> {
        let until = self.until(&Scope::Nylas, invocation.time())?;
        Some(paused(until, invocation))
    }

    fn until(&self, scope: &Scope, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.known
            .get(scope)
            .and_then(|pause| pause.until)
            .filter(|until| *until > now)
    }

    /// Returns whether this is a pause for a refusal, so that it ends with a probe. Only asked once
    /// its time is over.
    fn probe_is_due(&self, scope: &Scope) -> bool {
        self.known
            .get(scope)
            .is_some_and(|pause| pause.refused.cause.is_some())
    }
}

impl Pipeline {
    /// Reads the pauses of these mailboxes. If the ledger does not answer, assumes that there are
    /// none; the next ledger call reports the failure.
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
                tracing::warn!(%error, "failed to read the pauses of mailboxes; assuming there are none");
                Pauses::default()
            }
        }
    }

    /// Returns messages to the queue unclaimed if they have to be fetched from a paused mailbox.
    ///
    /// They are not claimed, because if the worker dies, an unclaimed message is still waiting and
    /// is not counted as given up.
    pub(super) async fn hold_back(
        &self,
        deliveries: Vec<Delivery>,
        invocation: &Invocation,
    ) -> (Vec<Delivery>, Vec<Processed>) {
        let grants: Vec<&GrantId> = deliveries
            .iter()
            .map(|it| &it.request.key.grant_id)
            .collect();
        let pauses = self.mailbox_pauses(&grants).await;
        let now = invocation.time();
        let (mut free, mut held) = (Vec::new(), Vec::new());
        for deliveries in deliveries {
            let mailbox = Scope::Mailbox(deliveries.request.key.grant_id.clone());
            let until = pauses
                .until(&mailbox, now)
                .max(pauses.until(&Scope::Nylas, now));
            match until {
                Some(until) if deliveries.message.is_none() => {
                    held.extend(untouched(
                        vec![deliveries],
                        &paused(until, invocation),
                        invocation,
                    ));
                }
                _ => free.push(deliveries),
            }
        }
        (free, held)
    }

    /// Decides which messages may be fetched now. The others wait until the pause is over.
    pub(super) async fn admit_fetches(
        &self,
        pending_messages: Vec<PendingMessage>,
        pauses: &Pauses,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) -> Admission {
        let mut by_scope: Vec<(Scope, Vec<PendingMessage>)> = Vec::new();
        let mut free = Vec::new();
        let now = invocation.time();
        for pending in pending_messages {
            // A list returned it with the message.
            if pending.message.is_some() {
                free.push(pending);
                continue;
            }
            let mailbox = Scope::Mailbox(pending.key.grant_id.clone());
            let scopes = [Scope::Nylas, mailbox];
            if let Some(until) = scopes.iter().filter_map(|it| pauses.until(it, now)).max() {
                finished.push(pending.failed(paused(until, invocation), invocation));
                continue;
            }
            let Some(scope) = scopes.into_iter().find(|it| pauses.probe_is_due(it)) else {
                free.push(pending);
                continue;
            };
            match by_scope.iter_mut().find(|(known, _)| *known == scope) {
                Some((_, pending_messages)) => pending_messages.push(pending),
                None => by_scope.push((scope, vec![pending])),
            }
        }
        let mut probes = Vec::new();
        for (scope, mut pending_messages) in by_scope {
            // Longer than this run may take: if the worker dies with the probe, the pause is
            // repeated once.
            let until = now + LEASE;
            let is_ours = self.ledger.take_probe(&scope, now, until).await;
            if is_ours.unwrap_or(false) && !pending_messages.is_empty() {
                let probe = pending_messages.remove(0);
                probes.push((scope, probe, pending_messages));
            } else {
                let failure = paused(until, invocation);
                finished.extend(
                    pending_messages
                        .into_iter()
                        .map(|pending| pending.failed(failure.clone(), invocation)),
                );
            }
        }
        Admission { free, probes }
    }

    /// Stores a pause of the mailbox for all workers if Nylas throttled it. Returns the end of the
    /// pause; `None` if the error is not a throttling.
    pub async fn note_throttled(
        &self,
        grant_id: &GrantId,
        error: &NylasError,
        invocation: &Invocation,
    ) -> Option<DateTime<Utc>> {
        let NylasError::Throttled { retry_after } = error else {
            return None;
        };
        let wait = retry_after.unwrap_or(FIRST_STEP).min(LONGEST_HIDE);
        let until = invocation.time() + TimeDelta::from_std(wait).unwrap_or_default();
        let scope = Scope::Mailbox(grant_id.clone());
        if let Err(error) = self.ledger.pause_all(&scope, until).await {
            tracing::warn!(%scope, %error, "failed to store the pause; other workers will be throttled before they pause");
        }
        Some(until)
    }

    /// Returns until when nothing is requested for the mailbox; `None` if it is not paused, or if
    /// the ledger does not answer.
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

    /// Handles messages that failed because the mailboxes could not be listed. If Nylas refused the
    /// list, it refuses the API key, so all calls to Nylas are paused.
    pub(super) async fn without_mailboxes(
        &self,
        mut failed: Vec<Finished>,
        pauses: &Pauses,
        pause_access: PauseAccess,
        invocation: &Invocation,
    ) -> Vec<Finished> {
        if pause_access == PauseAccess::ReadWrite {
            let refusals = Refusals {
                scope: &Scope::Nylas,
                state: &pauses.refused(&Scope::Nylas),
                is_probe: false,
                passed: false,
            };
            self.judge(&refusals, &mut failed, invocation).await;
        }
        for end in &mut failed {
            end.refusal = None;
        }
        failed
    }
}

pub(super) fn paused(until: DateTime<Utc>, invocation: &Invocation) -> Failure {
    let wait = (until - invocation.time()).to_std().unwrap_or_default();
    Failure::postponed(wait, "nylas asked for a pause, or refuses the mailbox")
}
