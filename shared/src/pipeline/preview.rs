//! Previews what would happen to messages if they arrived now: the steps of a run without claims,
//! writes and settlement.
//!
//! Services are only read, and nothing is changed. Existing rows of a message are ignored, because
//! they were written under an earlier policy. Contacts are counted but not created, so a person who
//! would become a contact is only an address here.

use std::collections::BTreeSet;

use super::context::Ground;
use super::create_contacts::newcomers;
use super::failure::Tries;
use super::lookup;
use super::lookup::LookedUp;
use super::select;
use super::stages::{Candidate, Ended, Job};
use super::{Begun, Fate, Looks, Pipeline, Run, all_failed, findings};
use crate::decision_record::DecisionRecord;
use crate::ledger::decisions::DecidedRow;
use crate::lookup::request::Found;
use crate::mapping::Findings;
use crate::model::ids::MessageKey;
use crate::model::message::Message;
use crate::policy::document::Content;

/// The preview of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// The message.
    pub key: MessageKey,
    /// The outcome it would have.
    pub outcome: Foreseen,
    /// The decision record, without content; `None` if nothing was decided.
    pub record: Option<DecisionRecord>,
}

/// The outcome that a message would have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreseen {
    /// It would be written.
    Tracked {
        /// Which content would be stored.
        content: Content,
        /// For how many people a contact would be created.
        contacts: usize,
    },
    /// A policy rule would skip it.
    Skipped {
        /// The name of the rule.
        rule: String,
    },
    /// A call failed, so the outcome cannot be determined.
    Unknown {
        /// The failure.
        reason: String,
    },
}

impl Pipeline {
    /// Previews these messages, each of which is named once. While Dataverse is paused it is not
    /// called, and the outcome of all messages is unknown.
    pub async fn preview(&self, messages: Vec<Message>, run: &Run) -> Vec<Preview> {
        let jobs = messages.into_iter().map(|message| Job {
            key: message.key.clone(),
            tries: Tries::first(run.now),
            message: Some(message),
            decision: None,
            made: BTreeSet::new(),
        });
        let jobs: Vec<Job> = jobs.collect();
        let mut ended = Vec::new();
        let mut previews: Vec<Preview> = Vec::new();
        if let Some(failure) = self.not_now(run).await {
            ended.extend(all_failed(jobs, &failure, run));
        } else {
            // Boxed, because this deeply nested, the type of the future is too large for the
            // compiler to lay out.
            let begun = Box::pin(self.begin(jobs, Looks::Only, run, &mut ended)).await;
            if let Some((begun, jobs)) = begun {
                let looking = self.foresee(&begun, jobs, run, &mut ended);
                previews.extend(Box::pin(looking).await);
                self.forget_refused(&begun.session, run).await;
            }
        }
        previews.extend(ended.into_iter().map(|ended| Preview {
            outcome: match ended.fate {
                Fate::Skipped { rule } => Foreseen::Skipped { rule },
                Fate::Waiting { reason, .. } | Fate::Dead { reason, .. } => {
                    Foreseen::Unknown { reason }
                }
                // Unreachable: no step of a preview ends a message as written.
                Fate::Written { .. } => Foreseen::Unknown {
                    reason: "a preview reported the message as written, which is a bug".to_owned(),
                },
            },
            key: ended.key,
            record: ended.record,
        }));
        previews.sort_by(|one, other| one.key.cmp(&other.key));
        previews
    }

    /// Runs the read-only steps.
    async fn foresee(
        &self,
        begun: &Begun,
        mut jobs: Vec<Job>,
        run: &Run,
        ended: &mut Vec<Ended>,
    ) -> Vec<Preview> {
        let Begun {
            ground, session, ..
        } = begun;
        let mut previews = Vec::new();
        while !jobs.is_empty() {
            let candidates = self
                .prepare(&mut jobs, begun, Looks::Only, run, ended)
                .await;
            let mut groups = lookup::groups(candidates, self.dataverse.queries_a_batch());
            while !groups.is_empty() {
                let looked_up = self.look_up(session, &mut groups, ground, run, ended);
                let LookedUp::Found(group, mut found) = looked_up.await else {
                    continue;
                };
                let tracked = select::finally(group, &found, ground, ended);
                found.forget_rows();
                let regarded = self.regard(session, tracked, &mut found, ground, run, ended);
                for (candidate, regarding) in regarded.await {
                    let findings = findings(&candidate, regarding, &found, ground);
                    previews.push(foreseen(candidate, &findings, &found, ground));
                }
            }
        }
        previews
    }
}

fn foreseen(candidate: Candidate, findings: &Findings, found: &Found, ground: &Ground) -> Preview {
    let omissions = &candidate.message.omissions;
    let record = candidate.job.record();
    Preview {
        record: record.map(|record| record.with_findings(findings, DecidedRow::None, omissions)),
        outcome: Foreseen::Tracked {
            content: candidate.effective.content,
            contacts: newcomers(&candidate, found, ground).len(),
        },
        key: candidate.job.key,
    }
}
