//! Decides whether the refusals in a run concern a message or the caller, and pauses the caller if
//! needed. The rule: [`crate::clients::refusal`].
//!
//! Until this step, a message that was refused is `dead` only in memory. The outcome that this step
//! decides is the one that is stored in the ledger.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::Pipeline;
use super::application_users::ReservedBatch;
use super::failure::Failure;
use super::invocation::Invocation;
use super::outcome::Outcome;
use super::stages::Finished;
use crate::clients::nylas::error::MAILBOX_WAIT;
use crate::clients::refusal;
use crate::clients::refusal::{Blame, Others, Refusal, RefusalState, RefusalVerdict};
use crate::clients::retry::RetryAdvice;
use crate::ledger::pauses::Scope;
use crate::model::ids::MessageKey;
use crate::telemetry::{Count, count};

/// The refusals of messages that pause together.
pub(super) struct Refusals<'a> {
    /// What is paused: a Dataverse user, a mailbox, or Nylas.
    pub scope: &'a Scope,
    /// The refusals that were known before this run.
    pub state: &'a RefusalState,
    /// The run was the one probe of a pause.
    pub(crate) is_probe: bool,
    /// A message was accepted.
    pub passed: bool,
}

/// The consequence for the rest of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consequence {
    /// Messages are accepted, or there is no evidence of the opposite.
    GoOn,
    /// All workers pause until this time.
    Pause(DateTime<Utc>),
}

impl Pipeline {
    /// Judges what Dataverse refused in a run.
    pub(super) async fn judge_refusals(
        &self,
        finished: &mut [Finished],
        reserved: &ReservedBatch,
        invocation: &Invocation,
    ) -> Consequence {
        let scope = Scope::Dataverse(self.application_users.of(invocation).user.clone());
        let refusals = Refusals {
            scope: &scope,
            state: &reserved.refused,
            is_probe: reserved.is_probe,
            passed: finished.iter().any(|end| end.wrote),
        };
        self.judge(&refusals, finished, invocation).await
    }

    /// Judges refusals: decides the outcome of each message that met one, and stores the start or
    /// the end of a pause for all workers.
    pub(super) async fn judge(
        &self,
        refusals: &Refusals<'_>,
        finished: &mut [Finished],
        invocation: &Invocation,
    ) -> Consequence {
        let Refusals {
            scope,
            state,
            is_probe,
            passed,
        } = *refusals;
        if passed && state.is_open() {
            if let Err(error) = self.ledger.passed(scope, invocation.time()).await {
                tracing::warn!(%scope, %error, "failed to store the end of the pause; the next accepted message will store it");
            } else if let Some(cause) = &state.cause {
                tracing::info!(%scope, cause, "messages are accepted again");
            }
        }
        let mut refused: Vec<&mut Finished> = finished
            .iter_mut()
            .filter(|end| end.refusal.is_some())
            .collect();
        if refused.is_empty() {
            if is_probe && !passed {
                self.return_probe(scope, invocation).await;
            }
            return Consequence::GoOn;
        }
        let consecutive_refusals = if passed {
            BTreeMap::new()
        } else {
            self.consecutive_refusals(refusals, &refused, invocation)
                .await
        };
        let verdicts: Vec<RefusalVerdict> = refused
            .iter()
            .map(|end| verdict(end, refusals, &consecutive_refusals))
            .collect();
        let of_caller = refused
            .iter()
            .zip(&verdicts)
            .find(|(_, verdict)| **verdict == RefusalVerdict::Caller);
        let of_caller = of_caller.and_then(|(end, _)| end.refusal.clone());
        let pause = match &of_caller {
            Some(refusal) => Some(self.pause_refused(scope, state, refusal, invocation).await),
            None => None,
        };
        if pause.is_none() && is_probe && !passed {
            self.return_probe(scope, invocation).await;
        }
        for (end, verdict) in refused.iter_mut().zip(verdicts) {
            let advice = match (verdict, pause) {
                (RefusalVerdict::Message, _) => continue,
                (RefusalVerdict::Caller | RefusalVerdict::Open, Some(until)) => {
                    RetryAdvice::Postpone((until - invocation.time()).to_std().unwrap_or_default())
                }
                (RefusalVerdict::Caller | RefusalVerdict::Open, None) => RetryAdvice::Soon,
            };
            if pause.is_none() && end.refusal.as_ref().is_some_and(is_of_caller) {
                count(Count::PrivilegeMissing, 1);
            }
            let reason = end.outcome.reason().unwrap_or_default().to_owned();
            let failure = Failure::new(advice, reason);
            end.outcome = Outcome::of_failure(&end.key, failure, end.attempts, invocation);
        }
        pause.map_or(Consequence::GoOn, Consequence::Pause)
    }

    async fn return_probe(&self, scope: &Scope, invocation: &Invocation) {
        if let Err(error) = self.ledger.return_probe(scope, invocation.time()).await {
            tracing::warn!(%scope, %error, "failed to return an inconclusive probe; the next probe is sent after the pause");
        }
    }

    /// Returns, for each cause that messages of the run met, how many different messages met it in
    /// a row.
    async fn consecutive_refusals(
        &self,
        refusals: &Refusals<'_>,
        refused: &[&mut Finished],
        invocation: &Invocation,
    ) -> BTreeMap<String, usize> {
        let mut by_cause: BTreeMap<String, Vec<&MessageKey>> = BTreeMap::new();
        for end in refused {
            if let Some(refusal) = &end.refusal {
                by_cause
                    .entry(refusal.cause.clone())
                    .or_default()
                    .push(&end.key);
            }
        }
        let mut consecutive_refusals: BTreeMap<String, usize> = BTreeMap::new();
        // The most frequent cause comes last, because the ledger item keeps the last one.
        let mut causes: Vec<(String, Vec<&MessageKey>)> = by_cause.into_iter().collect();
        causes.sort_by_key(|(_, keys)| keys.len());
        for (cause, keys) in causes {
            let noted = self
                .ledger
                .note_refused(refusals.scope, &cause, &keys, invocation.time());
            let number = match noted.await {
                Ok(number) => number,
                Err(error) => {
                    tracing::warn!(scope = %refusals.scope, %error, "failed to count the refused messages; using the count of this batch");
                    keys.len()
                }
            };
            consecutive_refusals.insert(cause, number.max(keys.len()));
        }
        consecutive_refusals
    }

    /// Stores the pause after a refusal of the caller, and raises an alarm. Returns the end of the
    /// pause.
    async fn pause_refused(
        &self,
        scope: &Scope,
        state: &RefusalState,
        refusal: &Refusal,
        invocation: &Invocation,
    ) -> DateTime<Utc> {
        let wait = match scope {
            Scope::Dataverse(_) => refusal::pause(state.times),
            // A person has to sign in or to change the key, which takes longer.
            Scope::Mailbox(_) | Scope::Nylas => MAILBOX_WAIT,
        };
        let until = invocation.time() + TimeDelta::from_std(wait).unwrap_or_default();
        let cause = &refusal.cause;
        let times = state.times.saturating_add(1);
        if let Err(error) = self.ledger.pause_refused(scope, cause, times, until).await {
            tracing::warn!(%scope, %error, "failed to store the pause; other workers will be refused before they pause");
        }
        let what = match (scope, refusal.blame) {
            (Scope::Dataverse(_), Blame::RowOrCaller) => Count::PrivilegeMissing,
            (Scope::Dataverse(_), Blame::Caller | Blame::Row | Blame::Content) => {
                Count::CallerRefused
            }
            (Scope::Nylas, _) => Count::ApiKeyRefused,
            (Scope::Mailbox(_), _) => Count::MailboxRefused,
        };
        count(what, 1);
        let wait_ms = wait.as_millis();
        tracing::error!(%scope, cause, wait_ms, "all requests are refused; messages wait, and one is sent as a probe after the pause");
        until
    }
}

fn is_of_caller(refusal: &Refusal) -> bool {
    matches!(refusal.blame, Blame::Caller | Blame::RowOrCaller)
}

fn verdict(
    end: &Finished,
    refusals: &Refusals<'_>,
    consecutive_refusals: &BTreeMap<String, usize>,
) -> RefusalVerdict {
    let Some(Refusal { cause, blame }) = &end.refusal else {
        return RefusalVerdict::Message;
    };
    let state = refusals.state;
    // The probe met the refusal that caused the pause.
    let is_met_again = refusals.is_probe && state.cause.as_deref() == Some(cause.as_str());
    let consecutive_refusals = if is_met_again {
        refusal::IN_A_ROW
    } else {
        consecutive_refusals.get(cause).copied().unwrap_or_default()
    };
    let others = Others {
        one_passed_now: refusals.passed,
        one_passed_since: state.passed_at.is_some_and(|at| at > end.attempts.since),
        consecutive_refusals,
    };
    refusal::judge(*blame, others)
}

/// Returns the failure for the rest of a run if it would only be refused as well: no message was
/// written, and the caller was refused, or a privilege was missing twice. Otherwise `None`.
pub(super) fn failure_of_rest(finished: &[Finished]) -> Option<Failure> {
    if finished.iter().any(|end| end.wrote) {
        return None;
    }
    let refused = || finished.iter().filter_map(|end| end.refusal.as_ref());
    let privileges = refused().filter(|refusal| refusal.blame == Blame::RowOrCaller);
    let refusal = refused()
        .find(|refusal| refusal.blame == Blame::Caller)
        .or_else(|| privileges.skip(1).last())?;
    Some(Failure {
        advice: RetryAdvice::Never,
        reason: format!("dataverse refused the row: {}", refusal.cause),
        refusal: Some(refusal.clone()),
    })
}
