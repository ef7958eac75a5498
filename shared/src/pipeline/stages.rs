//! The types of a message between claim and settlement.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::failure::Failure;
use super::invocation::Invocation;
use super::outcome::{Attempts, Outcome};
use super::people_limit::PeopleLookedUp;
use super::processed::Summary;
use super::resolve::RegardingHints;
use crate::clients::dataverse::records::PartyReference;
use crate::clients::refusal::Refusal;
use crate::decision_record::DecisionRecord;
use crate::ledger::decisions::DecidedRow;
use crate::mailboxes::Folders;
use crate::mapping::Findings;
use crate::model::ids::{ActivityId, MessageKey};
use crate::model::message::Message;
use crate::policy::mailbox_policy::MailboxPolicy;
use crate::policy::{PolicyDecision, Rule};

/// The number of attempts, over three quarters of an hour, after which a message that Nylas does
/// not find counts as gone, and a mailbox that Nylas does not list counts as unknown.
const GONE_AFTER: u32 = 5;

/// A message whose claim this run holds.
pub(super) struct PendingMessage {
    pub(super) key: MessageKey,
    pub(super) attempts: Attempts,
    pub(super) message: Option<Message>,
    /// The latest policy decision.
    pub(super) decision: Option<PolicyDecision>,
    /// The contacts and accounts that were created for it.
    pub(super) made: BTreeSet<PartyReference>,
}

/// A message that the policy may track, with the data of the decision.
pub(super) struct CandidateMessage {
    pub(super) pending: PendingMessage,
    pub(super) message: Message,
    /// The policy of its mailbox.
    pub(super) mailbox_policy: MailboxPolicy,
    /// The folders of its mailbox.
    pub(super) folders: Arc<Folders>,
    /// The regarding hints in the message and its folders.
    pub(super) regarding_hints: RegardingHints,
    /// The key of its row if another message has the same Message-ID
    /// ([`key_by_content`](crate::lookup::same_message::key_by_content)).
    pub(super) by_content: Option<ActivityId>,
    /// Which of its people are looked up.
    pub(super) people: PeopleLookedUp,
}

/// A message with an outcome that is not settled yet.
pub(super) struct Finished {
    pub(super) key: MessageKey,
    pub(super) attempts: Attempts,
    pub(super) outcome: Outcome,
    /// The refusal that the message met, until it is decided whether the refusal concerns the
    /// message or the caller.
    pub(super) refusal: Option<Refusal>,
    /// This run wrote its row.
    pub(super) wrote: bool,
    pub(super) decision: Option<PolicyDecision>,
    /// The decision record for the ledger; `None` if nothing was decided.
    pub(super) record: Option<DecisionRecord>,
    pub(super) summary: Option<Summary>,
}

impl Finished {
    /// Returns the row that holds the message; `None` if it was not written.
    pub(super) fn row(&self) -> Option<ActivityId> {
        match &self.outcome {
            Outcome::Written { activity_id, .. } => Some(*activity_id),
            Outcome::Skipped { .. } | Outcome::Waiting { .. } | Outcome::Dead { .. } => None,
        }
    }
}

impl PendingMessage {
    /// Returns the same message without message data and decision, to be fetched and decided again.
    pub(super) fn restarted(&self) -> Self {
        Self {
            key: self.key.clone(),
            message: None,
            decision: None,
            made: BTreeSet::new(),
            ..*self
        }
    }

    /// Returns the decision record, with the policy decision and the created rows; `None` if the
    /// policy did not decide yet.
    pub(super) fn record(&self) -> Option<DecisionRecord> {
        let decision = self.decision.as_ref()?;
        Some(DecisionRecord::of_policy(decision).with_made(&self.made))
    }

    pub(super) fn failed(self, failure: Failure, invocation: &Invocation) -> Finished {
        let refusal = failure.refusal.clone();
        let outcome = Outcome::of_failure(&self.key, failure, self.attempts, invocation);
        Finished {
            record: self.record(),
            key: self.key,
            attempts: self.attempts,
            wrote: false,
            refusal,
            outcome,
            decision: self.decision,
            summary: None,
        }
    }

    /// Nylas does not find the message. This may be temporary (its servers cannot always find a
    /// valid id, Nylas facts §16), so the message is retried before it counts as gone. If a list
    /// shows the message later, it is processed again.
    pub(super) fn gone(self, invocation: &Invocation) -> Finished {
        if self.attempts.failures + 1 < GONE_AFTER {
            return self.failed(Failure::soon("nylas does not find the message"), invocation);
        }
        self.left_out(Rule::Gone)
    }

    /// Its mailbox does not take part: nothing was read, and nothing is decided.
    pub(super) fn excluded(self) -> Finished {
        self.left_out(Rule::MailboxExcluded)
    }

    /// Nylas does not list its mailbox. The mailbox may have been connected just now, so the
    /// message is retried before the mailbox counts as unknown; if a list of the mailbox shows the
    /// message later, it is processed again. A mailbox that was deleted, or that belongs to another
    /// application, must not be retried for ever.
    pub(super) fn unlisted(self, invocation: &Invocation) -> Finished {
        if self.attempts.failures + 1 < GONE_AFTER {
            return self.failed(Failure::soon("nylas does not list the mailbox"), invocation);
        }
        self.left_out(Rule::MailboxUnknown)
    }

    fn left_out(self, rule: Rule) -> Finished {
        Finished {
            key: self.key,
            attempts: self.attempts,
            wrote: false,
            refusal: None,
            outcome: Outcome::skipped(rule),
            decision: None,
            record: None,
            summary: None,
        }
    }

    pub(super) fn skipped(self, rule: Rule, message: &Message) -> Finished {
        let summary = Summary {
            subject: message.subject.clone(),
            direction: None,
            parties: Vec::new(),
            regarding: None,
        };
        Finished {
            record: self.record(),
            key: self.key,
            attempts: self.attempts,
            wrote: false,
            refusal: None,
            outcome: Outcome::skipped(rule),
            decision: self.decision,
            summary: Some(summary),
        }
    }

    pub(super) fn already_existed(
        self,
        activity_id: ActivityId,
        message: &Message,
        findings: Findings,
    ) -> Finished {
        self.found(activity_id, "already existed", message, findings)
    }

    /// The row that holds the message existed before this run.
    pub(super) fn found(
        self,
        activity_id: ActivityId,
        note: &str,
        message: &Message,
        findings: Findings,
    ) -> Finished {
        let outcome = Outcome::Written {
            activity_id,
            note: Some(note.to_owned()),
        };
        let record = self
            .record()
            .map(|record| record.with_findings(&findings, DecidedRow::Found, &message.omissions));
        Finished {
            record,
            key: self.key,
            attempts: self.attempts,
            wrote: false,
            refusal: None,
            outcome,
            decision: self.decision,
            summary: Some(summary(message, findings)),
        }
    }
}

pub(super) fn summary(message: &Message, findings: Findings) -> Summary {
    let Findings {
        direction,
        parties,
        regarding,
        owner: _,
    } = findings;
    Summary {
        subject: message.subject.clone(),
        direction: Some(direction),
        parties,
        regarding: regarding.choice.map(|choice| choice.target),
    }
}
