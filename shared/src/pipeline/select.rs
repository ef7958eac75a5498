//! The step **decide**: applies the policy to each message, before and after the lookup.

use super::Pipeline;
use super::context::Ground;
use super::failure::{Failure, Run};
use super::people_limit::PeopleLookedUp;
use super::resolve::Clues;
use super::stages::{Candidate, Ended, Job};
use crate::lookup::request::Found;
use crate::lookup::same_message;
use crate::model::message::{Message, Omission};
use crate::policy::PolicyVerdict;

impl Pipeline {
    /// Applies the rules that need no lookup. A message that they skip ends here, and its people
    /// are not looked up.
    pub(super) async fn decide(
        &self,
        fetched: Vec<(Job, Message)>,
        ground: &Ground,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (mut job, mut message) in fetched {
            let folders = self.mailboxes.folders(&message, run.now).await;
            if let Err(error) = &folders {
                self.note_throttled(&job.key.grant_id, error, run).await;
            }
            let judged_by = folders
                .map_err(Failure::from)
                .and_then(|folders| Ok((folders, ground.effective(&job.key.grant_id)?)));
            let (folders, effective) = match judged_by {
                Ok(judged_by) => judged_by,
                Err(failure) => {
                    ended.push(job.failed(failure, run));
                    continue;
                }
            };
            let decision = ground.decide(&message, &effective, &folders, None);
            let verdict = decision.verdict;
            job.decision = Some(decision);
            match verdict {
                PolicyVerdict::Skip(rule) => ended.push(job.skipped(rule, &message)),
                PolicyVerdict::Track | PolicyVerdict::Open => {
                    let nothing = Found::default();
                    let inside = ground.inside(&nothing);
                    let (people, unresolved) = PeopleLookedUp::of(
                        &message,
                        self.people_limit,
                        |address| inside.contains(address),
                        |address| effective.strips(address),
                    );
                    message
                        .omissions
                        .extend(std::iter::repeat_n(Omission::Resolution, unresolved));
                    candidates.push(Candidate {
                        clues: Clues::of(&message, &effective, &folders),
                        by_content: same_message::key_by_content(&message),
                        job,
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
    group: Vec<Candidate>,
    found: &Found,
    ground: &Ground,
    ended: &mut Vec<Ended>,
) -> Vec<Candidate> {
    let mut tracked = Vec::new();
    for mut candidate in group {
        let Candidate {
            message,
            effective,
            folders,
            ..
        } = &candidate;
        let decision = ground.decide(message, effective, folders, Some(found));
        let verdict = decision.verdict;
        candidate.job.decision = Some(decision);
        if let PolicyVerdict::Skip(rule) = verdict {
            ended.push(candidate.job.skipped(rule, &candidate.message));
        } else {
            let Candidate {
                message, effective, ..
            } = &mut candidate;
            message.strip(|address| effective.strips(address));
            tracked.push(candidate);
        }
    }
    tracked
}
