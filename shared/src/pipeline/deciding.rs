//! **Decide**: what the policy says of each message, before the look-up and after it.

use super::Pipeline;
use super::fate::{Failure, Run};
use super::ground::Ground;
use super::job::{Candidate, Ended, Job};
use super::regard::Clues;
use crate::dataverse::look_up::Found;
use crate::message::Message;
use crate::policy::Verdict;

impl Pipeline {
    /// What the policy refuses whatever Dataverse knows goes no further, and nobody on it is looked up.
    pub(super) async fn decide(
        &self,
        fetched: Vec<(Job, Message)>,
        ground: &Ground,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (mut job, message) in fetched {
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
                Verdict::Skip(rule) => ended.push(job.skipped(rule, &message)),
                Verdict::Track | Verdict::Open => candidates.push(Candidate {
                    clues: Clues::of(&message, &effective, &folders),
                    by_content: message.key_by_content(),
                    job,
                    message,
                    effective,
                    folders,
                }),
            }
        }
        candidates
    }
}

/// The rest of the policy, now that everything is known. What is tracked goes on without the people whom the policy takes out.
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
        if let Verdict::Skip(rule) = verdict {
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
