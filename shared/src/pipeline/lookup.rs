//! The step **look up**: collects what a group of messages needs to know, and queries Dataverse.
//!
//! | The lookup of a group of messages | Then |
//! | --- | --- |
//! | succeeds | the group continues |
//! | is refused as a whole | each of its messages is looked up alone |
//! | times out | its halves are looked up in smaller batches ([`crate::clients::dataverse`]); then each message alone |
//! | fails otherwise, or the group is one message | the messages fail |

use std::collections::VecDeque;

use super::failure::Failure;
use super::invocation::Invocation;
use super::run_context::RunContext;
use super::stages::{CandidateMessage, Finished};
use super::{Pipeline, all_failed, refusals};
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::session::Session;
use crate::lookup::request::LookupRequest;
use crate::lookup::result::LookupResult;

/// The most batches of queries for one group; each takes a few seconds. An invocation has time for
/// several groups.
const BATCHES_A_GROUP: usize = 4;

/// Messages that are looked up together.
pub(super) struct Group {
    candidates: Vec<CandidateMessage>,
    /// It is part of a group that timed out or was refused.
    is_half: bool,
}

/// The result of looking up the next group.
pub(super) enum LookedUp {
    /// The messages and their lookup result.
    Found(Vec<CandidateMessage>, Box<LookupResult>),
    /// No result: the messages have ended, or will be looked up in smaller groups.
    Nothing,
}

/// Divides messages into groups whose lookups take a predictable time.
pub(super) fn groups(candidates: Vec<CandidateMessage>, queries_a_batch: usize) -> VecDeque<Group> {
    let room = queries_a_batch.saturating_mul(BATCHES_A_GROUP);
    let mut groups: VecDeque<Group> = VecDeque::new();
    let mut held = 0;
    for candidate in candidates {
        let queries = about_how_many_queries(&candidate);
        match groups.back_mut() {
            Some(group) if held + queries <= room => {
                group.candidates.push(candidate);
                held += queries;
            }
            _ => {
                groups.push_back(Group {
                    candidates: vec![candidate],
                    is_half: false,
                });
                held = queries;
            }
        }
    }
    groups
}

/// Estimates the queries for the people of a message: five tables, fifteen people per query.
fn about_how_many_queries(candidate: &CandidateMessage) -> usize {
    let CandidateMessage {
        message, people, ..
    } = candidate;
    let people = message.participants().filter(|one| people.contains(one));
    people.count() / 3
}

impl Pipeline {
    /// Looks up the first of these groups. If it is divided, its parts go to the front of the
    /// queue.
    pub(super) async fn look_up(
        &self,
        session: &Session,
        groups: &mut VecDeque<Group>,
        context: &RunContext,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) -> LookedUp {
        let Some(Group {
            candidates,
            is_half,
        }) = groups.pop_front()
        else {
            return LookedUp::Nothing;
        };
        let fail =
            |candidates: Vec<CandidateMessage>, failure: Failure, finished: &mut Vec<Finished>| {
                let pending_messages = candidates.into_iter().map(|candidate| candidate.pending);
                finished.extend(all_failed(pending_messages, &failure, invocation));
                LookedUp::Nothing
            };
        if let Some(refused) = refusals::failure_of_rest(finished) {
            return fail(candidates, refused, finished);
        }
        if invocation.is_nearly_over() {
            return fail(candidates, Failure::no_time_left(), finished);
        }
        let timeouts = session.timeouts();
        let lookup_request = lookup_request(&candidates, context);
        let error = match self.dataverse.look_up(session, &lookup_request).await {
            Ok(found) => return LookedUp::Found(candidates, Box::new(found)),
            Err(error) => error,
        };
        let timed_out = session.timeouts() > timeouts;
        let smaller = match &error {
            // Looked up one by one, they would meet the same refusal of the caller.
            DataverseError::Rejected { .. } | DataverseError::TooLarge
                if candidates.len() > 1 && !error.may_concern_caller() =>
            {
                alone(candidates)
            }
            DataverseError::Unavailable { .. } if timed_out && is_half && candidates.len() > 1 => {
                alone(candidates)
            }
            // A single message is looked up again, in smaller batches.
            DataverseError::Unavailable { .. } if timed_out && !is_half => halves(candidates),
            _ => return fail(candidates, error.into(), finished),
        };
        smaller
            .into_iter()
            .rev()
            .for_each(|group| groups.push_front(group));
        LookedUp::Nothing
    }
}

fn alone(candidates: Vec<CandidateMessage>) -> Vec<Group> {
    let alone = candidates.into_iter().map(|candidate| Group {
        candidates: vec![candidate],
        is_half: true,
    });
    alone.collect()
}

fn halves(mut candidates: Vec<CandidateMessage>) -> Vec<Group> {
    let second = candidates.split_off(candidates.len().div_ceil(2));
    let halves = [candidates, second].into_iter();
    let halves = halves.filter(|half| !half.is_empty());
    let halves = halves.map(|candidates| Group {
        candidates,
        is_half: true,
    });
    halves.collect()
}

/// Returns the queries that these messages need. People whom the policy removes from a message are
/// not looked up, except the author, who determines the direction.
fn lookup_request(group: &[CandidateMessage], context: &RunContext) -> LookupRequest {
    let mut lookup_request = LookupRequest::default();
    for CandidateMessage {
        pending,
        message,
        mailbox_policy,
        regarding_hints,
        by_content,
        people,
        ..
    } in group
    {
        let asked = message
            .participants()
            .filter(|address| !mailbox_policy.strips(address) && people.contains(address))
            .chain(message.author());
        lookup_request.addresses.extend(asked.flat_map(|address| {
            let main = context.mailboxes.main_address(address);
            std::iter::once(address).chain(main).cloned()
        }));
        lookup_request
            .addresses
            .extend(context.mailboxes.address(&pending.key.grant_id).cloned());
        let keys = std::iter::once(message.activity_id()).chain(*by_content);
        lookup_request
            .emails
            .push((keys.collect(), message.internet_message_id.clone()));
        regarding_hints.ask(message, mailbox_policy, &mut lookup_request);
    }
    lookup_request
}
