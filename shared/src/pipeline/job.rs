//! A message that we hold the claim of, and how its story ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::fate::{Failure, Fate, Run, Tries};
use super::handled::Summary;
use super::people_limit::PeopleLookedUp;
use super::regard::Clues;
use crate::dataverse::rows::Record;
use crate::decision::DecisionRecord;
use crate::dedupe::kept::DecidedRow;
use crate::ids::{ActivityId, MessageKey};
use crate::mailboxes::Folders;
use crate::mapping::Findings;
use crate::message::Message;
use crate::policy::effective::Effective;
use crate::policy::{Decision, Rule};
use crate::refusal::Refusal;

/// Tries, over three quarters of an hour, after which a message that cannot be found counts as gone,
/// and a mailbox that is not listed as unknown.
const GONE_AFTER: u32 = 5;

/// A message that we hold the claim of.
pub(super) struct Job {
    pub(super) key: MessageKey,
    pub(super) tries: Tries,
    pub(super) message: Option<Message>,
    /// What the policy said last.
    pub(super) decision: Option<Decision>,
    /// The contacts and accounts that were made for it.
    pub(super) made: BTreeSet<Record>,
}

/// A message that the policy may track, with what it was judged by.
pub(super) struct Candidate {
    pub(super) job: Job,
    pub(super) message: Message,
    /// What holds for its mailbox.
    pub(super) effective: Effective,
    /// The folders of its mailbox.
    pub(super) folders: Arc<Folders>,
    /// What it says of its regarding by itself.
    pub(super) clues: Clues,
    /// The key of its row where another mail has its Message-ID ([`Message::key_by_content`]).
    pub(super) by_content: Option<ActivityId>,
    /// Who of its people is looked up.
    pub(super) people: PeopleLookedUp,
}

/// A message whose story is over, before it is settled.
pub(super) struct Ended {
    pub(super) key: MessageKey,
    pub(super) tries: Tries,
    pub(super) fate: Fate,
    /// The refusal that it met, until it is known whom that concerns.
    pub(super) refusal: Option<Refusal>,
    /// This run wrote its row.
    pub(super) wrote: bool,
    pub(super) decision: Option<Decision>,
    /// What the ledger keeps of the decision; `None` when nothing was decided.
    pub(super) record: Option<DecisionRecord>,
    pub(super) summary: Option<Summary>,
}

impl Ended {
    /// The row that carries it.
    pub(super) fn row(&self) -> Option<ActivityId> {
        match &self.fate {
            Fate::Written { activity_id, .. } => Some(*activity_id),
            Fate::Skipped { .. } | Fate::Waiting { .. } | Fate::Dead { .. } => None,
        }
    }
}

impl Job {
    /// The same message, to be fetched and decided once more.
    pub(super) fn at_the_start(&self) -> Self {
        Self {
            key: self.key.clone(),
            message: None,
            decision: None,
            made: BTreeSet::new(),
            ..*self
        }
    }

    /// What the policy said, to be kept, and what was made.
    pub(super) fn record(&self) -> Option<DecisionRecord> {
        let decision = self.decision.as_ref()?;
        Some(DecisionRecord::of_policy(decision).with_made(&self.made))
    }

    pub(super) fn failed(self, failure: Failure, run: &Run) -> Ended {
        let refusal = failure.refusal.clone();
        let fate = Fate::of_failure(&self.key, failure, self.tries, run);
        Ended {
            record: self.record(),
            key: self.key,
            tries: self.tries,
            wrote: false,
            refusal,
            fate,
            decision: self.decision,
            summary: None,
        }
    }

    /// Nylas has no such message. That may pass (its servers cannot always find a valid id, Nylas facts §16), so it is not
    /// believed at once; should a list show the message later, it is taken up again.
    pub(super) fn gone(self, run: &Run) -> Ended {
        if self.tries.failures + 1 < GONE_AFTER {
            return self.failed(Failure::soon("nylas does not find the message"), run);
        }
        self.left_out(Rule::Gone)
    }

    /// Its mailbox does not take part: nothing was read, and nothing is decided.
    pub(super) fn excluded(self) -> Ended {
        self.left_out(Rule::MailboxExcluded)
    }

    /// Nylas does not list its mailbox. One that was connected a moment ago is not believed to be
    /// missing at once; should a list of it show the message later, it is taken up again. One that
    /// was deleted, or is another application's, must not come back for ever.
    pub(super) fn unlisted(self, run: &Run) -> Ended {
        if self.tries.failures + 1 < GONE_AFTER {
            return self.failed(Failure::soon("nylas does not list the mailbox"), run);
        }
        self.left_out(Rule::MailboxUnknown)
    }

    fn left_out(self, rule: Rule) -> Ended {
        Ended {
            key: self.key,
            tries: self.tries,
            wrote: false,
            refusal: None,
            fate: Fate::skipped(rule),
            decision: None,
            record: None,
            summary: None,
        }
    }

    pub(super) fn skipped(self, rule: Rule, message: &Message) -> Ended {
        let summary = Summary {
            subject: message.subject.clone(),
            direction: None,
            parties: Vec::new(),
            regarding: None,
        };
        Ended {
            record: self.record(),
            key: self.key,
            tries: self.tries,
            wrote: false,
            refusal: None,
            fate: Fate::skipped(rule),
            decision: self.decision,
            summary: Some(summary),
        }
    }

    pub(super) fn was_there(
        self,
        activity_id: ActivityId,
        message: &Message,
        findings: Findings,
    ) -> Ended {
        self.found(activity_id, "was there already", message, findings)
    }

    /// The row that carries the message was there before this run.
    pub(super) fn found(
        self,
        activity_id: ActivityId,
        note: &str,
        message: &Message,
        findings: Findings,
    ) -> Ended {
        let fate = Fate::Written {
            activity_id,
            note: Some(note.to_owned()),
        };
        let record = self
            .record()
            .map(|record| record.with_findings(&findings, DecidedRow::Found, &message.omissions));
        Ended {
            record,
            key: self.key,
            tries: self.tries,
            wrote: false,
            refusal: None,
            fate,
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
