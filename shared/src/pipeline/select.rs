//! The step **select**: applies the policy to each message, before and after the lookup.

use super::Pipeline;
use super::failure::Failure;
use super::invocation::Invocation;
use super::people_limit::PeopleLookedUp;
use super::resolve::RegardingHints;
use super::run_context::RunContext;
use super::stages::{CandidateMessage, Finished, PendingMessage};
use crate::lookup::result::LookupResult;
use crate::lookup::same_message;
use crate::model::message::{Message, Omission};
use crate::policy::PolicyVerdict;

impl Pipeline {
    /// Applies the rules that need no lookup. A message that they skip ends here, and its people
    /// are not looked up.
    pub(super) async fn decide(
        &self,
        fetched: Vec<(PendingMessage, Message)>,
        context: &RunContext,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) -> Vec<CandidateMessage> {
        let mut candidates = Vec::new();
        for (mut pending, mut message) in fetched {
            let folders = self.mailboxes.folders(&message, invocation.now).await;
            if let Err(error) = &folders {
                self.note_throttled(&pending.key.grant_id, error, invocation)
                    .await;
            }
            let judged_by = folders
                .map_err(Failure::from)
                .and_then(|folders| Ok((folders, context.mailbox_policy(&pending.key.grant_id)?)));
            let (folders, mailbox_policy) = match judged_by {
                Ok(judged_by) => judged_by,
                Err(failure) => {
                    finished.push(pending.failed(failure, invocation));
                    continue;
                }
            };
            let decision = context.decide(&message, &mailbox_policy, &folders, None);
            let verdict = decision.verdict;
            pending.decision = Some(decision);
            match verdict {
                PolicyVerdict::Skip(rule) => finished.push(pending.skipped(rule, &message)),
                PolicyVerdict::Track | PolicyVerdict::Open => {
                    let nothing = LookupResult::default();
                    let internal = context.internal(&nothing);
                    let (people, unresolved) = PeopleLookedUp::of(
                        &message,
                        self.people_limit,
                        |address| internal.contains(address),
                        |address| mailbox_policy.strips(address),
                    );
                    message
                        .omissions
                        .extend(std::iter::repeat_n(Omission::Resolution, unresolved));
                    candidates.push(CandidateMessage {
                        regarding_hints: RegardingHints::of(&message, &mailbox_policy, &folders),
                        by_content: same_message::key_by_content(&message),
                        pending,
                        message,
                        mailbox_policy,
                        folders,
                        people,
                    });
                }
            }
        }
        candidates
    }
}

/// Applies the remaining rules with the lookup result. People whom the policy removes are stripped
/// from tracked messages.
pub(super) fn decide_after_lookup(
    group: Vec<CandidateMessage>,
    found: &LookupResult,
    context: &RunContext,
    finished: &mut Vec<Finished>,
) -> Vec<CandidateMessage> {
    let mut tracked = Vec::new();
    for mut candidate in group {
        let CandidateMessage {
            message,
            mailbox_policy,
            folders,
            ..
        } = &candidate;
        let decision = context.decide(message, mailbox_policy, folders, Some(found));
        let verdict = decision.verdict;
        candidate.pending.decision = Some(decision);
        if let PolicyVerdict::Skip(rule) = verdict {
            finished.push(candidate.pending.skipped(rule, &candidate.message));
        } else {
            let CandidateMessage {
                message,
                mailbox_policy,
                ..
            } = &mut candidate;
            message.strip(|address| mailbox_policy.strips(address));
            tracked.push(candidate);
        }
    }
    tracked
}
