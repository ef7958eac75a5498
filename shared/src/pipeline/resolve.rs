//! The step **resolve**: chooses the regarding record, the parties, the direction and the owner of
//! each message.
//!
//! [`crate::resolve`] makes the decisions; this file runs the queries that they need.

use super::failure::Failure;
use super::invocation::Invocation;
use super::run_context::RunContext;
use super::stages::{CandidateMessage, Finished};
use super::{Pipeline, all_failed};
use crate::clients::dataverse::records::{RecordReference, RowState, Table};
use crate::clients::dataverse::session::Session;
use crate::lookup::follow_up::FollowUpRequest;
use crate::lookup::request::LookupRequest;
use crate::lookup::result::LookupResult;
use crate::mailboxes::Folders;
use crate::mapping::{Direction, Findings};
use crate::model::message::Message;
use crate::policy::document::RegardingSource;
use crate::policy::mailbox_policy::MailboxPolicy;
use crate::policy::token_pattern::TokenPattern;
use crate::resolve::regarding::{RegardingDecision, RegardingStep};
use crate::resolve::{parties, regarding};

/// The most rounds of queries: the names of a custom table, whether its row exists, and one spare
/// round.
const MOST_ROUNDS: usize = 3;

/// The regarding hints in the message and its folders, kept with the message until the decision.
#[derive(Default)]
pub(super) struct RegardingHints {
    /// The record that the folder rule names.
    pub(super) folder: Option<RecordReference>,
    /// The tracking tokens of the subject.
    pub(super) tokens: Vec<String>,
}

impl RegardingHints {
    pub(super) fn of(message: &Message, mailbox_policy: &MailboxPolicy, folders: &Folders) -> Self {
        let settings = &mailbox_policy.regarding;
        let asked = |source| settings.order.contains(&source);
        let lies_in = |name: &str| folders.holds(name, message);
        Self {
            folder: asked(RegardingSource::Folder)
                .then(|| regarding::by_folder(&mailbox_policy.folder_regarding, lies_in))
                .flatten(),
            tokens: if asked(RegardingSource::TrackingToken) {
                TokenPattern::new(&settings.tracking_token).in_subject(&message.subject)
            } else {
                Vec::new()
            },
        }
    }

    /// Adds the queries that the decision needs to the lookup. The messages that this one replies
    /// to are also looked up for the policy, if it tracks only replies.
    pub(super) fn ask(
        &self,
        message: &Message,
        mailbox_policy: &MailboxPolicy,
        lookup_request: &mut LookupRequest,
    ) {
        lookup_request.tokens.extend(self.tokens.iter().cloned());
        lookup_request.records.extend(self.folder.clone());
        let by_thread = mailbox_policy
            .regarding
            .order
            .contains(&RegardingSource::Thread);
        if by_thread || mailbox_policy.asks_for_ancestors() {
            lookup_request
                .ancestors
                .extend(message.ancestors.iter().cloned());
        }
    }
}

impl Pipeline {
    /// Decides the regarding for each message of a group. Queries that only some messages need go
    /// into one `$batch`; if it fails, only those messages fail.
    pub(super) async fn resolve_regarding(
        &self,
        session: &Session,
        group: Vec<CandidateMessage>,
        found: &mut LookupResult,
        context: &RunContext,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) -> Vec<(CandidateMessage, RegardingDecision)> {
        let mut decided = Vec::new();
        let mut open = group;
        for round in 0..=MOST_ROUNDS {
            let mut further = FollowUpRequest::default();
            let mut waiting = Vec::new();
            for candidate in open {
                match decide(&candidate, found, context) {
                    RegardingStep::Decided(decision) => decided.push((candidate, decision)),
                    RegardingStep::Ask(asked) => {
                        further.add(asked);
                        waiting.push(candidate);
                    }
                }
            }
            if waiting.is_empty() {
                break;
            }
            let failure = if round == MOST_ROUNDS {
                Some(Failure::soon(
                    "the regarding record could not be determined",
                ))
            } else {
                // A mailbox override cannot set its own app.
                let app = &context.policy.document().defaults.regarding.app;
                let open_rows = regarding::app::open_rows_query(app);
                let asked =
                    self.dataverse
                        .look_up_further(session, &further, open_rows.as_ref(), found);
                asked.await.err().map(Failure::from)
            };
            if let Some(failure) = failure {
                let failed = waiting.into_iter().map(|candidate| candidate.pending);
                finished.extend(all_failed(failed, &failure, invocation));
                break;
            }
            open = waiting;
        }
        decided
    }
}

/// Decides nothing and asks for nothing if the row of the message is complete, because the message
/// will not be written.
fn decide(
    candidate: &CandidateMessage,
    found: &LookupResult,
    context: &RunContext,
) -> RegardingStep {
    let CandidateMessage {
        message,
        mailbox_policy,
        regarding_hints,
        ..
    } = candidate;
    let complete = found
        .by_key(message.activity_id())
        .is_some_and(|own_row| own_row.state != RowState::Open);
    if complete {
        return RegardingStep::Decided(RegardingDecision::default());
    }
    regarding::decide(&regarding::RegardingInput {
        message,
        found,
        internal: &context.internal(found),
        folder: regarding_hints.folder.as_ref(),
        settings: &mailbox_policy.regarding,
        ambiguous: mailbox_policy.ambiguous,
        tokens: &regarding_hints.tokens,
    })
}

/// Resolves the direction, the activity parties, the regarding and the owner of a message.
pub(super) fn findings(
    candidate: &CandidateMessage,
    regarding: RegardingDecision,
    found: &LookupResult,
    context: &RunContext,
) -> Findings {
    let CandidateMessage {
        pending,
        message,
        mailbox_policy,
        people,
        ..
    } = candidate;
    let internal = context.internal(found);
    let mailbox = context.mailboxes.address(&pending.key.grant_id);
    let owner = mailbox.and_then(|address| {
        let user = found.people(address).iter().find(|person| person.active)?;
        (user.record.table == Table::SystemUser).then_some(user.record.id)
    });
    let outgoing = message
        .author()
        .is_some_and(|sender| internal.contains(sender));
    Findings {
        direction: if outgoing {
            Direction::Outgoing
        } else {
            Direction::Incoming
        },
        parties: people.limit(parties::of_message(
            message,
            &internal,
            mailbox_policy.ambiguous,
        )),
        regarding,
        owner,
    }
}
