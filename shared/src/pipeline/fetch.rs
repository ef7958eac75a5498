//! The step **fetch**: fetches messages that are not loaded yet, or that lack headers which the
//! policy needs.
//!
//! It does so while the mailbox is not paused ([`super::mailbox_pauses`]) and there is room in
//! memory ([`super::portions`]).

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use futures_util::{StreamExt, stream};

use super::failure::Failure;
use super::invocation::Invocation;
use super::mailbox_pauses::{Admission, Pauses, paused};
use super::portions::MemoryInUse;
use super::refusals::{Consequence, Refusals};
use super::run_context::RunContext;
use super::stages::{Finished, PendingMessage};
use super::{PauseAccess, Pipeline};
use crate::clients::nylas::error::NylasError;
use crate::clients::nylas::{Fetched, Headers};
use crate::ledger::pauses::Scope;
use crate::model::ids::GrantId;
use crate::model::message::Message;

/// The most messages that are fetched at the same time. Microsoft allows four calls at once for
/// each mailbox (Nylas facts §14).
const FETCHES: usize = 3;

/// The mailboxes that were throttled or refused in this fetch, with the failure for their remaining
/// messages.
type Stopped = Mutex<HashMap<GrantId, Failure>>;

impl Pipeline {
    /// Fetches messages that are not loaded yet. Messages that do not fit in memory stay in
    /// `pending_messages`.
    ///
    /// A message that Nylas still does not find after several attempts is skipped; a message of a
    /// paused mailbox waits.
    pub(super) async fn fetch(
        &self,
        pending_messages: &mut Vec<PendingMessage>,
        pauses: &Pauses,
        pause_access: PauseAccess,
        context: &RunContext,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) -> Vec<(PendingMessage, Message)> {
        // Messages that a list returned with all needed headers are already loaded.
        let (in_hand, missing): (Vec<PendingMessage>, Vec<PendingMessage>) =
            std::mem::take(pending_messages)
                .into_iter()
                .map(|pending| drop_if_headers_missing(pending, context))
                .partition(|pending| pending.message.is_some());
        let memory = MemoryInUse::default();
        let mut fetched = Vec::new();
        for mut pending in in_hand {
            if let Some(message) = pending.message.take() {
                memory.add(&message);
                fetched.push((pending, message));
            }
        }
        let admission = if pause_access == PauseAccess::ReadWrite {
            self.admit_fetches(missing, pauses, invocation, finished)
                .await
        } else {
            Admission {
                free: missing,
                probes: Vec::new(),
            }
        };
        let Admission { mut free, probes } = admission;
        for (scope, probe, followers) in probes {
            let mut probe = VecDeque::from([probe]);
            let came = self
                .fetch_some(&mut probe, &memory, context, invocation)
                .await;
            if came.is_empty() {
                // The probe does not fit in memory now.
                free.extend(probe);
                free.extend(followers);
                continue;
            }
            let group = Group {
                scope,
                is_probe: true,
                key_is_refused: self.refuses_key(&came).await,
                came,
            };
            match self
                .sort_results(group, pauses, invocation, &mut fetched, finished)
                .await
            {
                Consequence::GoOn => free.extend(followers),
                Consequence::Pause(until) => {
                    let failure = paused(until, invocation);
                    let followers = followers.into_iter();
                    finished.extend(
                        followers.map(|pending| pending.failed(failure.clone(), invocation)),
                    );
                }
            }
        }
        let mut free = VecDeque::from(free);
        let came = self
            .fetch_some(&mut free, &memory, context, invocation)
            .await;
        pending_messages.extend(free);
        if pause_access == PauseAccess::Read {
            sort(came, invocation, &mut fetched, finished);
            return fetched;
        }
        let key_is_refused = self.refuses_key(&came).await;
        for (scope, came) in by_mailbox(came) {
            let group = Group {
                scope,
                is_probe: false,
                key_is_refused,
                came,
            };
            self.sort_results(group, pauses, invocation, &mut fetched, finished)
                .await;
        }
        fetched
    }

    /// Returns whether Nylas refuses the API key itself, if a mailbox answered 401.
    async fn refuses_key(&self, came: &[FetchResult]) -> bool {
        let is_401 = |answer: &Result<Fetched, FetchFailure>| {
            matches!(
                answer,
                Err(FetchFailure::Failed(NylasError::SignInNeeded { .. }))
            )
        };
        came.iter().any(|(_, answer)| is_401(answer)) && self.nylas.refuses_key().await
    }

    /// Fetches a few messages at a time, as many as fit in memory. Once a mailbox is throttled or
    /// refused, no further message of it is requested.
    async fn fetch_some(
        &self,
        pending_messages: &mut VecDeque<PendingMessage>,
        memory: &MemoryInUse,
        context: &RunContext,
        invocation: &Invocation,
    ) -> Vec<FetchResult> {
        let stopped = Stopped::default();
        let next = std::iter::from_fn(|| pending_messages.pop_front_if(|_| memory.has_room()));
        let fetches = stream::iter(next).map(async |pending| {
            let grant_id = &pending.key.grant_id;
            let known = lock(&stopped).get(grant_id).cloned();
            if let Some(failure) = known {
                return (pending, Err(FetchFailure::NotAsked(failure)));
            }
            if invocation.is_nearly_over() {
                return (
                    pending,
                    Err(FetchFailure::NotAsked(Failure::no_time_left())),
                );
            }
            let headers = context.headers(grant_id);
            let message = self
                .nylas
                .message_counted(&pending.key, headers, memory.counter());
            let answer = message.await;
            if let Err(error) = &answer
                && (error.concerns_mailbox() || matches!(error, NylasError::Throttled { .. }))
            {
                let failure = Failure::new(error.retry_advice(), error.to_string());
                lock(&stopped).entry(grant_id.clone()).or_insert(failure);
            }
            (pending, answer.map_err(FetchFailure::Failed))
        });
        fetches.buffered(FETCHES).collect().await
    }

    /// Sorts the results for messages that pause together into `fetched` and `finished`, and stores
    /// the start or the end of a pause for all workers.
    async fn sort_results(
        &self,
        group: Group,
        pauses: &Pauses,
        invocation: &Invocation,
        fetched: &mut Vec<(PendingMessage, Message)>,
        finished: &mut Vec<Finished>,
    ) -> Consequence {
        let Group {
            scope,
            is_probe,
            key_is_refused,
            came,
        } = group;
        let throttled = came.iter().find_map(|(pending, answer)| match answer {
            Err(FetchFailure::Failed(error @ NylasError::Throttled { .. })) => {
                Some((pending.key.grant_id.clone(), error))
            }
            _ => None,
        });
        let mut until = None;
        if let Some((grant_id, error)) = &throttled {
            until = self.note_throttled(grant_id, error, invocation).await;
        }
        let is_401 = |(_, answer): &FetchResult| {
            matches!(
                answer,
                Err(FetchFailure::Failed(NylasError::SignInNeeded { .. }))
            )
        };
        let scope = if key_is_refused && came.iter().any(is_401) {
            Scope::Nylas
        } else {
            scope
        };
        let is_of_scope = |pending: &PendingMessage| matches!(&scope, Scope::Mailbox(grant) if *grant == pending.key.grant_id);
        let passed = came.iter().any(|(_, answer)| answer.is_ok())
            || fetched.iter().any(|(pending, _)| is_of_scope(pending));
        let mut failed = Vec::new();
        sort(came, invocation, fetched, &mut failed);
        let state = pauses.refused(&scope);
        let refusals = Refusals {
            scope: &scope,
            state: &state,
            is_probe,
            passed,
        };
        let consequence = self.judge(&refusals, &mut failed, invocation).await;
        for end in &mut failed {
            // The refusal is judged here; refusals by Dataverse are judged separately.
            end.refusal = None;
        }
        finished.extend(failed);
        match until {
            Some(until) if consequence == Consequence::GoOn => Consequence::Pause(until),
            _ => consequence,
        }
    }
}

fn sort(
    came: Vec<FetchResult>,
    invocation: &Invocation,
    fetched: &mut Vec<(PendingMessage, Message)>,
    finished: &mut Vec<Finished>,
) {
    for (pending, answer) in came {
        match answer {
            Ok(Fetched::Message(message)) => fetched.push((pending, *message)),
            Ok(Fetched::Gone) => finished.push(pending.gone(invocation)),
            Err(FetchFailure::NotAsked(failure)) => {
                finished.push(pending.failed(failure, invocation));
            }
            Err(FetchFailure::Failed(error)) => {
                let refusal = error.refusal();
                let failure = Failure {
                    refusal,
                    ..Failure::from(error)
                };
                finished.push(pending.failed(failure, invocation));
            }
        }
    }
}

/// The results of fetching messages that pause together.
struct Group {
    scope: Scope,
    /// The group is the one probe of a pause.
    is_probe: bool,
    /// Nylas refuses the API key, whatever the mailbox.
    key_is_refused: bool,
    came: Vec<FetchResult>,
}

/// A job with the answer of Nylas, or with the reason why there is no answer.
type FetchResult = (PendingMessage, Result<Fetched, FetchFailure>);

enum FetchFailure {
    /// Its mailbox is paused, or there was no time left.
    NotAsked(Failure),
    Failed(NylasError),
}

/// Drops the loaded message if it lacks headers that the policy needs, so that it is fetched again.
fn drop_if_headers_missing(mut pending: PendingMessage, context: &RunContext) -> PendingMessage {
    let headers = context.headers(&pending.key.grant_id);
    pending.message = pending
        .message
        .filter(|message| headers == Headers::Basic || message.has_all_headers);
    pending
}

/// Groups results by mailbox, in the order of the first message of each mailbox.
fn by_mailbox(came: Vec<FetchResult>) -> Vec<(Scope, Vec<FetchResult>)> {
    let mut groups: Vec<(Scope, Vec<FetchResult>)> = Vec::new();
    for one in came {
        let scope = Scope::Mailbox(one.0.key.grant_id.clone());
        match groups.iter_mut().find(|(known, _)| *known == scope) {
            Some((_, group)) => group.push(one),
            None => groups.push((scope, vec![one])),
        }
    }
    groups
}

fn lock(stopped: &Stopped) -> std::sync::MutexGuard<'_, HashMap<GrantId, Failure>> {
    // A panic elsewhere leaves the map consistent: each change is one insertion.
    stopped.lock().unwrap_or_else(PoisonError::into_inner)
}
