//! Processes a batch of messages, from the claim to the settlement.
//!
//! The steps, in order:
//!
//! 1. **claim**: claim each message in the ledger.
//! 2. **begin**: read policy, mailboxes, pauses and token; drop messages of mailboxes that do not
//!    take part.
//! 3. **fetch**: fetch the messages that are not loaded yet, as many as memory allows at a time.
//! 4. **select**: apply the policy rules that need no data from Dataverse.
//! 5. **look up**: look up all people and emails of the batch, normally in one `$batch` of queries.
//! 6. **select** again: apply the policy rules that need the lookup result.
//! 7. **shared Message-IDs**: find different messages that share a Message-ID.
//! 8. **create contacts**: create contacts where the policy asks for it.
//! 9. **resolve**: choose the regarding record, then the parties, the direction and the owner.
//! 10. **reconcile**: adopt the row of another client, or merge two rows of one message.
//! 11. **map**: map the message to rows.
//! 12. **write**: send one change set for each message, normally all in one `$batch`.
//! 13. **settle**: end each claim with its outcome.
//!
//! Decisions are pure ([`crate::policy`], [`crate::resolve::parties`],
//! [`crate::resolve::regarding`], [`crate::mapping`]); this file makes the calls between them. A
//! message that leaves the pipeline early keeps its outcome ([`Outcome`]) and is settled with the
//! others at the end. It never stops the other messages.
//!
//! # What if the process dies here?
//!
//! | Between | Then |
//! | --- | --- |
//! | claim and settle | the queue delivers again after the visibility timeout; by then the lease has run out and the message can be claimed again |
//! | create contacts and write | the lookup of the next run finds the contacts |
//! | write and settle | the lookup of the next run finds the row by its key: `written` |
//! | the requests of a message that is written request by request | the next run finds the Open row, adds what is missing and completes it |
//! | settle and the queue's acknowledgement | the next delivery finds the final state and is acknowledged |

pub mod application_users;
mod attachments;
pub mod backfill_batches;
mod claim;
pub mod config;
pub mod contact_import;
mod create_contacts;
pub mod created_on;
mod failure;
mod fetch;
mod invocation;
mod lookup;
mod mailbox_pauses;
mod outcome;
pub mod people_limit;
mod portions;
pub mod preview;
mod processed;
pub mod reconcile;
mod refusals;
mod resolve;
mod run_context;
mod select;
mod shared_message_ids;
mod stages;
mod write;

use self::application_users::{ApplicationUsers, BatchUsage, Probe, ReservedBatch};
use self::created_on::Backdating;
use self::failure::Failure;
pub use self::invocation::{Delivery, Invocation};
use self::lookup::LookedUp;
use self::mailbox_pauses::Pauses;
pub use self::outcome::Outcome;
use self::people_limit::ResolvedPeopleLimit;
use self::portions::Portions;
pub use self::processed::{Processed, Summary};
use self::refusals::Consequence;
use self::run_context::RunContext;
use self::stages::{CandidateMessage, Finished, PendingMessage};
use self::write::{ActingUser, EmailDraft};
use crate::clients::dataverse::DataverseClient;
use crate::clients::dataverse::emails::WriteMode;
use crate::clients::dataverse::records::RowState;
use crate::clients::dataverse::session::Session;
use crate::clients::nylas::NylasClient;
use crate::clients::retry::FIRST_STEP;
use crate::ledger::messages::Ledger;
use crate::lookup::result::LookupResult;
use crate::mailboxes::MailboxDirectory;
use crate::mapping;
use crate::model::ids::GrantId;
use crate::policy::cache::PolicySource;
use crate::resolve::regarding::RegardingDecision;

/// The services and settings that the pipeline needs.
pub struct Pipeline {
    /// The store of claims and outcomes.
    pub ledger: Ledger,
    /// The client that fetches messages.
    pub nylas: NylasClient,
    /// The list of connected mailboxes.
    pub mailboxes: MailboxDirectory,
    /// The client that looks up and writes rows.
    pub dataverse: DataverseClient,
    /// The application users that requests are sent as, each with its rate limit.
    pub application_users: ApplicationUsers,
    /// Whether a message is written as one change set or request by request.
    pub write_mode: WriteMode,
    /// Whether the row of an old message gets its original date as `createdon`.
    pub created_on: Backdating,
    /// The source of the policy, which says what is tracked.
    pub policy: PolicySource,
    /// The most people of one message that are looked up.
    pub people_limit: ResolvedPeopleLimit,
}

impl Pipeline {
    /// Processes a batch of live messages at once. Returns each message once, even if the batch
    /// names it several times.
    ///
    /// While Dataverse is paused, or if the invocation is nearly over, no message is claimed and
    /// all return to the queue.
    pub async fn run(&self, deliveries: Vec<Delivery>, invocation: Invocation) -> Vec<Processed> {
        let (deliveries, mut processed) = self.hold_back(deliveries, &invocation).await;
        if deliveries.is_empty() {
            return processed;
        }
        processed.extend(
            match self
                .reserve(deliveries.len(), &invocation, Probe::MayBe)
                .await
            {
                // Boxed, because it is rare and large.
                Ok(reserved) if reserved.is_probe => {
                    Box::pin(self.probe(deliveries, &invocation, &reserved)).await
                }
                Ok(reserved) => {
                    self.process_reserved(deliveries, &invocation, &reserved)
                        .await
                        .processed
                }
                Err(failure) => untouched(deliveries, &failure, &invocation),
            },
        );
        processed
    }

    /// Processes the first message alone as a probe, and the others only if it was written.
    async fn probe(
        &self,
        deliveries: Vec<Delivery>,
        invocation: &Invocation,
        reserved: &ReservedBatch,
    ) -> Vec<Processed> {
        let mut deliveries = claim::once_each(deliveries);
        let rest = deliveries.split_off(deliveries.len().min(1));
        let BatchReport {
            mut processed,
            consequence,
            passed,
            ..
        } = self
            .process_reserved(deliveries, invocation, reserved)
            .await;
        if rest.is_empty() {
            return processed;
        }
        processed.extend(match consequence {
            Consequence::Pause(until) => {
                let cause = reserved.refused.cause.as_deref();
                untouched(
                    rest,
                    &application_users::paused(until, cause, invocation),
                    invocation,
                )
            }
            Consequence::GoOn if passed && !invocation.is_nearly_over() => {
                self.process_reserved(rest, invocation, &ReservedBatch::default())
                    .await
                    .processed
            }
            // The probe proved nothing, or no time is left. If it proved nothing, another message
            // is the next probe.
            Consequence::GoOn => untouched(
                rest,
                &Failure::postponed(FIRST_STEP, "held back while a probe message was sent"),
                invocation,
            ),
        });
        processed
    }

    /// Processes a batch whose capacity is reserved, from claim to settlement.
    async fn process_reserved(
        &self,
        deliveries: Vec<Delivery>,
        invocation: &Invocation,
        reserved: &ReservedBatch,
    ) -> BatchReport {
        let (pending_messages, mut processed) = self.claim(deliveries, invocation).await;
        let mut finished = Vec::new();
        let mut usage = BatchUsage::default();
        if !pending_messages.is_empty() {
            // Boxed, because this deeply nested, the type of the future is too large for the
            // compiler to lay out.
            usage = Box::pin(self.process(pending_messages, invocation, &mut finished)).await;
        }
        self.settle_reservation(&reserved.reservation, usage, invocation);
        // Boxed, because there is seldom a refusal to judge.
        let consequence = Box::pin(self.judge_refusals(&mut finished, reserved, invocation)).await;
        let passed = finished.iter().any(|end| end.wrote);
        processed.extend(self.settle(finished, invocation).await);
        processed.iter().for_each(Processed::report);
        BatchReport {
            processed,
            usage,
            consequence,
            passed,
        }
    }

    /// Runs every step between claiming and settling, portion by portion ([`portions`]).
    async fn process(
        &self,
        pending_messages: Vec<PendingMessage>,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) -> BatchUsage {
        let Some((mut begun, pending_messages)) = self
            .begin(
                pending_messages,
                PauseAccess::ReadWrite,
                invocation,
                finished,
            )
            .await
        else {
            return BatchUsage::default();
        };
        let mut messages = 0;
        let mut portions = Portions::of(pending_messages);
        let mut is_first = true;
        while let Some(portion) = portions.next() {
            if !std::mem::take(&mut is_first) {
                // Earlier portions may have started or ended a pause.
                begun.pauses = self.mailbox_pauses(&grants_of(&portion)).await;
            }
            let steps = self.portion(portion, &begun, invocation, &mut messages, finished);
            match portions::caught(Box::pin(steps)).await {
                Some(rest) => portions.put_back(rest),
                None => portions.panicked(finished, invocation),
            }
        }
        if messages > 0 {
            self.publish_limits(&begun.session, invocation).await;
        }
        BatchUsage::of(&begun.session, messages)
    }

    /// Reads what all messages of a run need: pauses, policy, mailboxes and token.
    ///
    /// Returns `None` if no message can be processed; the outcomes are in `finished`.
    async fn begin(
        &self,
        pending_messages: Vec<PendingMessage>,
        pause_access: PauseAccess,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) -> Option<(BatchContext, Vec<PendingMessage>)> {
        let grants = grants_of(&pending_messages);
        let pauses = self.mailbox_pauses(&grants).await;
        if let Some(failure) = pauses.of_nylas(invocation) {
            finished.extend(all_failed(pending_messages, &failure, invocation));
            return None;
        }
        let context = match self.context(&grants, invocation.now).await {
            Ok(context) => context,
            Err(failure) => {
                let failed: Vec<Finished> =
                    all_failed(pending_messages, &failure, invocation).collect();
                finished.extend(
                    self.without_mailboxes(failed, &pauses, pause_access, invocation)
                        .await,
                );
                return None;
            }
        };
        let pending_messages = context.take_part(pending_messages, invocation, finished);
        if pending_messages.is_empty() {
            return None;
        }
        let token = self
            .application_users
            .of(invocation)
            .tokens
            .token(invocation.now);
        let session = match token.await {
            Ok(token) => Session::timed_by(token, invocation.clock),
            Err(error) => {
                finished.extend(all_failed(pending_messages, &error.into(), invocation));
                return None;
            }
        };
        let begun = BatchContext {
            context,
            session,
            pauses,
        };
        Some((begun, pending_messages))
    }

    /// Runs all steps for as many messages of a portion as fit in memory. Returns the others.
    async fn portion(
        &self,
        mut portion: Vec<PendingMessage>,
        begun: &BatchContext,
        invocation: &Invocation,
        looked_up: &mut usize,
        finished: &mut Vec<Finished>,
    ) -> Vec<PendingMessage> {
        let stopped = begun.session.ended_by().map(|error| error.clone().into());
        if let Some(failure) = refusals::failure_of_rest(finished).or(stopped) {
            // Fetching them would be wasted: they could not be written.
            finished.extend(all_failed(portion, &failure, invocation));
            return Vec::new();
        }
        let candidates = self
            .prepare(
                &mut portion,
                begun,
                PauseAccess::ReadWrite,
                invocation,
                finished,
            )
            .await;
        *looked_up += candidates.len();
        self.track(candidates, begun, invocation, finished).await;
        portion
    }

    /// Fetches as many messages from `pending_messages` as fit in memory, and applies the policy
    /// rules that need no lookup.
    async fn prepare(
        &self,
        pending_messages: &mut Vec<PendingMessage>,
        begun: &BatchContext,
        pause_access: PauseAccess,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) -> Vec<CandidateMessage> {
        let BatchContext {
            context, pauses, ..
        } = begun;
        let fetched = self
            .fetch(
                pending_messages,
                pauses,
                pause_access,
                context,
                invocation,
                finished,
            )
            .await;
        self.decide(fetched, context, invocation, finished).await
    }

    /// Runs the steps from lookup to write, group by group ([`lookup`]).
    async fn track(
        &self,
        candidates: Vec<CandidateMessage>,
        begun: &BatchContext,
        invocation: &Invocation,
        finished: &mut Vec<Finished>,
    ) {
        let BatchContext {
            context, session, ..
        } = begun;
        let mut groups = lookup::groups(candidates, self.dataverse.queries_a_batch());
        while !groups.is_empty() {
            let looked_up = self.look_up(session, &mut groups, context, invocation, finished);
            let LookedUp::Found(group, mut found) = looked_up.await else {
                continue;
            };
            let mut tracked = select::decide_after_lookup(group, &found, context, finished);
            self.separate_shared_ids(session, &mut tracked, &mut found, invocation, finished)
                .await;
            let peopled =
                self.create_contacts(session, tracked, &mut found, context, invocation, finished);
            let peopled = peopled.await;
            let regarded =
                self.resolve_regarding(session, peopled, &mut found, context, invocation, finished);
            let mut drafts = Vec::new();
            for regarded in regarded.await {
                match self
                    .map(session, regarded, &found, context, invocation)
                    .await
                {
                    Mapped::EmailDraft(draft) => drafts.push(*draft),
                    Mapped::Finished(end) => finished.push(*end),
                }
            }
            self.write(session, drafts, invocation, finished).await;
        }
    }

    /// Compares the message with existing rows and maps it to the rows to write.
    async fn map(
        &self,
        session: &Session,
        (candidate, regarding): (CandidateMessage, RegardingDecision),
        found: &LookupResult,
        context: &RunContext,
        invocation: &Invocation,
    ) -> Mapped {
        let mut findings = resolve::findings(&candidate, regarding, found, context);
        let CandidateMessage {
            mut pending,
            mut message,
            mailbox_policy,
            by_content,
            ..
        } = candidate;
        mapping::limit(&mut message, mailbox_policy.content);
        let left_out = people_limit::left_out(&message, &findings.parties);
        message.omissions.extend(left_out);
        let activity_id = message.activity_id();
        let own_row = found.by_key(activity_id);
        let external_row = found.by_mail(&message);
        if let (None, Some(external_row)) = (own_row, external_row) {
            return Mapped::finished(
                self.adopt(
                    session,
                    pending,
                    &message,
                    findings,
                    external_row,
                    invocation,
                )
                .await,
            );
        }
        if let Some((own_row, external_row)) = own_row.zip(external_row) {
            let rows = (own_row, external_row);
            let one = if own_row.state == RowState::Canceled {
                Ok(self
                    .adopt(
                        session,
                        pending,
                        &message,
                        findings,
                        external_row,
                        invocation,
                    )
                    .await)
            } else {
                self.merge_rows(session, pending, &message, findings, rows, invocation)
                    .await
            };
            match one {
                Ok(finished) => return Mapped::finished(finished),
                Err(back) => (pending, findings) = *back,
            }
        }
        if own_row.is_some_and(|own_row| own_row.state != RowState::Open) {
            return Mapped::finished(pending.already_existed(activity_id, &message, findings));
        }
        let begun = own_row.is_some();
        let created_on = self.created_on.date(&message, invocation.now);
        let acting_user = ActingUser::new(mailbox_policy.impersonate, findings.owner, found);
        let mut draft = EmailDraft::new(pending, message, findings, acting_user, created_on, begun);
        draft.set_key_by_content(by_content);
        Mapped::EmailDraft(Box::new(draft))
    }
}

/// Whether pauses of mailboxes are written or only read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PauseAccess {
    /// For a preview, which writes nothing.
    Read,
    ReadWrite,
}

/// The result of a batch.
struct BatchReport {
    processed: Vec<Processed>,
    usage: BatchUsage,
    consequence: Consequence,
    /// At least one message of the batch was written.
    passed: bool,
}

fn untouched(
    deliveries: Vec<Delivery>,
    failure: &Failure,
    invocation: &Invocation,
) -> Vec<Processed> {
    let processed = claim::untouched(deliveries, failure, invocation);
    processed.iter().for_each(Processed::report);
    processed
}

/// What all messages of a run share: policy, mailboxes, Dataverse session and pauses.
struct BatchContext {
    context: RunContext,
    session: Session,
    /// The pauses of the mailboxes, as last read.
    pauses: Pauses,
}

/// The result of mapping a message: an email to write, or an outcome without a write.
enum Mapped {
    EmailDraft(Box<EmailDraft>),
    Finished(Box<Finished>),
}

impl Mapped {
    fn finished(finished: Finished) -> Self {
        Self::Finished(Box::new(finished))
    }
}

fn grants_of(pending_messages: &[PendingMessage]) -> Vec<&GrantId> {
    pending_messages
        .iter()
        .map(|pending| &pending.key.grant_id)
        .collect()
}

fn all_failed(
    pending_messages: impl IntoIterator<Item = PendingMessage>,
    failure: &Failure,
    invocation: &Invocation,
) -> impl Iterator<Item = Finished> {
    pending_messages
        .into_iter()
        .map(|pending| pending.failed(failure.clone(), invocation))
}
