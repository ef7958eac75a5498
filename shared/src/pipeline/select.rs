//! The step **decide**: applies the policy to each message, before and after the lookup.

use super::Pipeline;
use super::context::RunContext;
use super::failure::{Failure, Run};
use super::people_limit::PeopleLookedUp;
use super::resolve::RegardingHints;
use super::stages::{CandidateMessage, Finished, PendingMessage};
use crate::lookup::request::Found;
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
        run: &Run,
        finished: &mut Vec<Finished>,
    ) -> Vec<CandidateMessage> {
        let mut candidates = Vec::new();
        for (mut pending, mut message) in fetched {
            let folders = self.mailboxes.folders(&message, run.now).await;
            if let Err(error) = &folders {
                self.note_throttled(&pending.key.grant_id, error, run).await;
            }
            let judged_by = folders
                .map_err(Failure::from)
                .and_then(|folders| Ok((folders, context.effective(&pending.key.grant_id)?)));
            let (folders, effective) = match judged_by {
                Ok(judged_by) => judged_by,
                Err(failure) => {
                    finished.push(pending.failed(failure, run));
                    continue;
                }
            };
            let decision = context.decide(&message, &effective, &folders, None);
            let verdict = decision.verdict;
            pending.decision = Some(decision);
            match verdict {
                PolicyVerdict::Skip(rule) => finished.push(pending.skipped(rule, &message)),
                PolicyVerdict::Track | PolicyVerdict::Open => {
                    let nothing = Found::default();
                    let inside = context.inside(&nothing);
                    let (people, unresolved) = PeopleLookedUp::of(
                        &message,
                        self.people_limit,
                        |address| inside.contains(address),
                        |address| effective.strips(address),
                    );
                    message
                        .omissions
                        .extend(std::iter::repeat_n(Omission::Resolution, unresolved));
                    candidates.push(CandidateMessage {
                        regarding_hints: RegardingHints::of(&message, &effective, &folders),
                        by_content: same_message::key_by_content(&message),
                        pending,
                        message,
                        effective,
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
pub(super) fn finally(
    group: Vec<CandidateMessage>,
    found: &Found,
    context: &RunContext,
    finished: &mut Vec<Finished>,
) -> Vec<CandidateMessage> {
    let mut tracked = Vec::new();
    for mut candidate in group {
        let CandidateMessage {
            message,
            effective,
            folders,
            ..
        } = &candidate;
        let decision = context.decide(message, effective, folders, Some(found));
        let verdict = decision.verdict;
        candidate.pending.decision = Some(decision);
        if let PolicyVerdict::Skip(rule) = verdict {
            finished.push(candidate.pending.skipped(rule, &candidate.message));
        } else {
            let CandidateMessage {
                message, effective, ..
            } = &mut candidate;
            message.strip(|address| effective.strips(address));
            tracked.push(candidate);
        }
    }
    tracked
}
