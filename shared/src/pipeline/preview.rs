//! What would become of messages, had they just come: the same steps as in a run, without its claim, its writes and its settlement.
//!
//! Services are read and nothing is changed. A row that carries a message already is not looked at, because it was written under the policy that held then;
//! contacts are counted and not made, so whoever would be one stays an address here.

use std::collections::BTreeSet;

use super::fate::Tries;
use super::ground::Ground;
use super::job::{Candidate, Job};
use super::newcomers::newcomers;
use super::{Fate, Looks, Pipeline, Prepared, Run, all_failed, findings};
use crate::dataverse::look_up::Found;
use crate::decision::DecisionRecord;
use crate::dedupe::kept::DecidedRow;
use crate::ids::MessageKey;
use crate::mapping::Findings;
use crate::message::Message;
use crate::policy::document::Content;

/// What would become of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Which.
    pub key: MessageKey,
    /// What.
    pub outcome: Foreseen,
    /// How that was decided. Without content.
    pub record: Option<DecisionRecord>,
}

/// What would become of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Foreseen {
    /// It would be written.
    Tracked {
        /// What of it.
        content: Content,
        /// For how many people a contact would be created.
        contacts: usize,
    },
    /// This rule would leave it out.
    Skipped {
        /// Its name.
        rule: String,
    },
    /// A call failed, so nobody can tell.
    Unknown {
        /// The failure.
        reason: String,
    },
}

impl Pipeline {
    /// What would become of these messages, each of which is named once. While Dataverse wants a pause it is not asked, and nobody can tell.
    pub async fn preview(&self, messages: Vec<Message>, run: &Run) -> Vec<Preview> {
        let jobs = messages.into_iter().map(|message| Job {
            key: message.key.clone(),
            tries: Tries::first(run.now),
            message: Some(message),
            decision: None,
            made: BTreeSet::new(),
        });
        let mut ended = Vec::new();
        let prepared = if let Some(failure) = self.not_now(run).await {
            ended.extend(all_failed(jobs, &failure, run));
            None
        } else {
            // Boxed, because nested this deep the future's type is more than the compiler lays out.
            Box::pin(self.prepare(jobs.collect(), Looks::Only, run, &mut ended)).await
        };
        let mut previews: Vec<Preview> = Vec::new();
        if let Some(mut prepared) = prepared {
            for (tracked, mut found) in std::mem::take(&mut prepared.groups) {
                found.forget_rows();
                let Prepared {
                    session, ground, ..
                } = &prepared;
                let regarded = self.regard(session, tracked, &mut found, ground, run, &mut ended);
                for (candidate, regarding) in regarded.await {
                    let findings = findings(&candidate, regarding, &found, ground);
                    previews.push(foreseen(candidate, &findings, &found, ground));
                }
            }
            self.forget_refused(&prepared.session, run).await;
        }
        previews.extend(ended.into_iter().map(|ended| Preview {
            outcome: match ended.fate {
                Fate::Skipped { rule } => Foreseen::Skipped { rule },
                Fate::Waiting { reason, .. } | Fate::Dead { reason, .. } => {
                    Foreseen::Unknown { reason }
                }
                // Only what was tracked above is written, and none of it was ended.
                Fate::Written { .. } => Foreseen::Unknown {
                    reason: "it was settled".to_owned(),
                },
            },
            key: ended.key,
            record: ended.record,
        }));
        previews.sort_by(|one, other| one.key.cmp(&other.key));
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
