//! The step **regard**: which record each mail concerns. Deciding is [`crate::regarding`]'s; this asks what it has to know.

use super::Pipeline;
use super::fate::{Failure, Run};
use super::job::{Ended, Job};
use crate::dataverse::further::Further;
use crate::dataverse::look_up::{Found, Questions};
use crate::dataverse::rows::{RowState, Target};
use crate::dataverse::session::Session;
use crate::mailboxes::Mailboxes;
use crate::message::Message;
use crate::policy::document::{Regarding, RegardingSource};
use crate::policy::{self, Inside, Verdict};
use crate::regarding::token::TokenPattern;
use crate::regarding::{self, Decision, Step};

/// Rounds of questions: the names of a custom table, whether a row of it is there, and one in hand.
const MOST_ROUNDS: usize = 3;

/// What the message and its folders alone say of its regarding, kept with it until it is decided.
#[derive(Default)]
pub(super) struct Clues {
    /// The record of the folder rule.
    pub(super) folder: Option<Target>,
    /// The tracking tokens of the subject.
    pub(super) tokens: Vec<String>,
}

impl Clues {
    pub(super) fn of(message: &Message, folder: Option<Target>, settings: &Regarding) -> Self {
        let asked = |source| settings.order.contains(&source);
        Self {
            folder: folder.filter(|_| asked(RegardingSource::Folder)),
            tokens: if asked(RegardingSource::TrackingToken) {
                TokenPattern::new(&settings.tracking_token).in_subject(&message.subject)
            } else {
                Vec::new()
            },
        }
    }

    /// What the look-up has to ask for the decision.
    pub(super) fn ask(&self, message: &Message, settings: &Regarding, questions: &mut Questions) {
        questions.tokens.extend(self.tokens.iter().cloned());
        questions.records.extend(self.folder.clone());
        if settings.order.contains(&RegardingSource::Thread) {
            questions
                .ancestors
                .extend(message.ancestors.iter().cloned());
        }
    }
}

impl Pipeline {
    /// Decides for each message of a group. What only some of them need is asked in one `$batch`, and if that fails, only those fail.
    pub(super) async fn regard(
        &self,
        session: &Session,
        group: Vec<(Job, Message)>,
        found: &mut Found,
        mailboxes: &Mailboxes,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<(Job, Message, Decision)> {
        let mut decided = Vec::new();
        let mut open = group;
        for round in 0..=MOST_ROUNDS {
            let mut further = Further::default();
            let mut waiting = Vec::new();
            for (job, message) in open {
                match self.decide_regarding(&job, &message, found, mailboxes) {
                    Step::Decided(decision) => decided.push((job, message, decision)),
                    Step::Ask(asked) => {
                        further.add(asked);
                        waiting.push((job, message));
                    }
                }
            }
            if waiting.is_empty() {
                break;
            }
            let app = &self.regarding.app;
            let failure = if round == MOST_ROUNDS {
                Some(Failure::soon("what the mail concerns cannot be found out"))
            } else {
                let asked = self
                    .dataverse
                    .look_up_further(session, &further, app, found);
                match asked.await {
                    Ok(()) => None,
                    Err(error) => {
                        self.forget_refused(&error).await;
                        Some(Failure::from(error))
                    }
                }
            };
            if let Some(failure) = failure {
                let failed = waiting.into_iter();
                ended.extend(failed.map(|(job, _)| job.failed(failure.clone(), run)));
                break;
            }
            open = waiting;
        }
        decided
    }

    /// Nothing is asked, and nothing decided, for a mail that will not be written: one that the policy leaves out, or whose row is complete.
    fn decide_regarding(
        &self,
        job: &Job,
        message: &Message,
        found: &Found,
        mailboxes: &Mailboxes,
    ) -> Step {
        let inside = Inside {
            mailboxes,
            found,
            domains: &self.internal_domains,
        };
        let complete = found
            .by_key(message.activity_id())
            .is_some_and(|ours| ours.state != RowState::Open);
        if complete || policy::by_participants(message, &inside) != Verdict::Track {
            return Step::Decided(Decision::default());
        }
        regarding::decide(&regarding::Mail {
            message,
            found,
            inside: &inside,
            folder: job.clues.folder.as_ref(),
            settings: &self.regarding,
            tokens: &job.clues.tokens,
        })
    }
}
