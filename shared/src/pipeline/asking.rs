//! **Look up**: what has to be known about some messages, and asking for it.

use super::fate::Run;
use super::ground::Ground;
use super::job::{Candidate, Ended};
use super::{Pipeline, all_failed};
use crate::dataverse::error::DataverseError;
use crate::dataverse::look_up::{Found, Questions};
use crate::dataverse::session::Session;

impl Pipeline {
    /// One `$batch` of queries for all. Where Dataverse refuses it, one for each message, so that one odd address does not cost its neighbours.
    pub(super) async fn look_up(
        &self,
        session: &Session,
        candidates: Vec<Candidate>,
        ground: &Ground,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<(Vec<Candidate>, Found)> {
        let mut groups = vec![candidates];
        let mut found = Vec::new();
        while let Some(group) = groups.pop() {
            match self
                .dataverse
                .look_up(session, &questions(&group, ground))
                .await
            {
                Ok(answer) => found.push((group, answer)),
                // One by one, they would meet the same refusal of the caller.
                Err(error @ (DataverseError::Rejected { .. } | DataverseError::TooLarge))
                    if group.len() > 1 && !error.may_concern_caller() =>
                {
                    groups.extend(group.into_iter().map(|one| vec![one]));
                }
                Err(error) => {
                    let jobs = group.into_iter().map(|candidate| candidate.job);
                    ended.extend(all_failed(jobs, &error.into(), run));
                }
            }
        }
        found
    }
}

/// What has to be known about these. Nobody whom the policy takes out of a mail is asked for but its author, by whom its direction is told.
fn questions(group: &[Candidate], ground: &Ground) -> Questions {
    let mut questions = Questions::default();
    for Candidate {
        job,
        message,
        effective,
        clues,
        by_content,
        ..
    } in group
    {
        let people = message
            .participants()
            .filter(|address| !effective.strips(address))
            .chain(message.author());
        questions.addresses.extend(people.flat_map(|address| {
            let main = ground.mailboxes.main_address(address);
            std::iter::once(address).chain(main).cloned()
        }));
        questions
            .addresses
            .extend(ground.mailboxes.address(&job.key.grant_id).cloned());
        let keys = std::iter::once(message.activity_id()).chain(*by_content);
        questions
            .emails
            .push((keys.collect(), message.internet_message_id.clone()));
        clues.ask(message, effective, &mut questions);
    }
    questions
}
