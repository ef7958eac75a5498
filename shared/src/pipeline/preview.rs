//! Previews what would happen to messages if they arrived now: the steps of a run without claims,
//! writes and settlement.
//!
//! Services are only read, and nothing is changed. Existing rows of a message are ignored, because
//! they were written under an earlier policy. Contacts are counted but not created, so a person who
//! would become a contact is only an address here.

use std::collections::BTreeSet;

use super::create_contacts::new_people;
use super::lookup;
use super::lookup::LookedUp;
use super::outcome::Attempts;
use super::resolve::findings;
use super::run_context::RunContext;
use super::select;
use super::stages::{CandidateMessage, Finished, PendingMessage};
use super::{BatchContext, Invocation, Outcome, PauseAccess, Pipeline, all_failed};
use crate::decision_record::DecisionRecord;
use crate::ledger::decisions::DecidedRow;
use crate::lookup::result::LookupResult;
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
    pub outcome: PreviewOutcome,
    /// The decision record, without content; `None` if nothing was decided.
    pub record: Option<DecisionRecord>,
}

/// The outcome that a message would have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreviewOutcome {
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
    pub async fn preview(&self, messages: Vec<Message>, invocation: &Invocation) -> Vec<Preview> {
        let pending_messages = messages.into_iter().map(|message| PendingMessage {
            key: message.key.clone(),
            attempts: Attempts::first(invocation.now),
            message: Some(message),
            decision: None,
            made: BTreeSet::new(),
        });
        let pending_messages: Vec<PendingMessage> = pending_messages.collect();
        let mut finished = Vec::new();
        let mut previews: Vec<Preview> = Vec::new();
        if let Some(failure) = self.check_may_begin(invocation).await {
            finished.extend(all_failed(pending_messages, &failure, invocation));
        } else {
            // Boxed, because this deeply nested, the type of the future is too large for the
            // compiler to lay out.
            let begun = Box::pin(self.begin(
                pending_messages,
                PauseAccess::Read,
                invocation,
                &mut finished,
            ))
            .await;
            if let Some((begun, pending_messages)) = begun {
                let looking =
                    self.preview_batch(&begun, pending_messages, invocation, &mut finished);
                previews.extend(Box::pin(looking).await);
                self.drop_refused_token(&begun.session, invocation).await;
            }
        }
        previews.extend(finished.into_iter().map(|finished| Preview {
            outcome: match finished.outcome {
                Outcome::Skipped { rule } => PreviewOutcome::Skipped { rule },
                Outcome::Waiting { reason, .. } | Outcome::Dead { reason, .. } => {
                    PreviewOutcome::Unknown { reason }
                }
                // Unreachable: no step of a preview ends a message as written.
                Outcome::Written { .. } => PreviewOutcome::Unknown {
                    reason: "a preview reported the message as written, which is a bug".to_owned(),
                },
            },
            key: finished.key,
            record: finished.record,
        }));
        previews.sort_by(|one, other| one.key.cmp(&other.key));
        previews
    }

    /// Runs the read-only steps.
    async fn preview_batch(
        &self,
        begun: &BatchContext,
        mut pending_messages: Vec<PendingMessage>,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) -> Vec<Preview> {
        let BatchContext {
            context, session, ..
        } = begun;
        let mut previews = Vec::new();
        while !pending_messages.is_empty() {
            let candidates = self
                .prepare(
                    &mut pending_messages,
                    begun,
                    PauseAccess::Read,
                    invocation,
                    finished,
                )
                .await;
            let mut groups = lookup::groups(candidates, self.dataverse.queries_a_batch());
            while !groups.is_empty() {
                let looked_up = self.look_up(session, &mut groups, context, invocation, finished);
                let LookedUp::Found(group, mut found) = looked_up.await else {
                    continue;
                };
                let tracked = select::decide_after_lookup(group, &found, context, finished);
                found.forget_rows();
                let regarded = self
                    .resolve_regarding(session, tracked, &mut found, context, invocation, finished);
                for (candidate, regarding) in regarded.await {
                    let findings = findings(&candidate, regarding, &found, context);
                    previews.push(previewed(candidate, &findings, &found, context));
                }
            }
        }
        previews
    }
}

fn previewed(
    candidate: CandidateMessage,
    findings: &Findings,
    found: &LookupResult,
    context: &RunContext,
) -> Preview {
    let omissions = &candidate.message.omissions;
    let record = candidate.pending.record();
    Preview {
        record: record.map(|record| record.with_findings(findings, DecidedRow::None, omissions)),
        outcome: PreviewOutcome::Tracked {
            content: candidate.mailbox_policy.content,
            contacts: new_people(&candidate, found, context).len(),
        },
        key: candidate.pending.key,
    }
}
