//! The policy rules, one function each. Pure.

use super::document::{Folders, TrackWhat};
use super::mailbox_policy::MailboxPolicy;
use super::{InternalAddresses, RuleAnswer, bulk};
use crate::clients::dataverse::records::Table;
use crate::mailboxes::{self, Place};
use crate::model::address::EmailAddress;
use crate::model::message::{Message, Omission};

/// A rule that skips a message. Its name is stored in the ledger, so it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The message is a draft.
    Draft,
    /// The message is in a spam folder.
    Spam,
    /// The message is in the trash.
    Trash,
    /// The message is in no tracked folder.
    Folder,
    /// No message of this direction is tracked.
    TrackNone,
    /// A participant is blocked.
    Blocked,
    /// The message is bulk mail or an automatic reply.
    Bulk,
    /// The message replies to another one.
    LaterInThread,
    /// The message has no usable address.
    Nobody,
    /// All participants are internal.
    InternalOnly,
    /// No external participant is in an allowed domain.
    NotAllowed,
    /// The message is not a reply.
    NotAReply,
    /// The message replies to messages that are not in Dynamics 365.
    AnswersUntracked,
    /// Dynamics 365 knows none of the external participants.
    NobodyKnown,
    /// The mailbox no longer has the message.
    Gone,
    /// The message's mailbox does not take part.
    MailboxExcluded,
    /// Nylas does not list the message's mailbox.
    MailboxUnknown,
}

impl Rule {
    /// Returns the rule's name in the ledger.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Spam => "spam",
            Self::Trash => "trash",
            Self::Folder => "folder",
            Self::TrackNone => "track_none",
            Self::Blocked => "blocked",
            Self::Bulk => "bulk",
            Self::LaterInThread => "later_in_thread",
            Self::Nobody => "nobody",
            Self::InternalOnly => "internal_only",
            Self::NotAllowed => "not_allowed",
            Self::NotAReply => "not_a_reply",
            Self::AnswersUntracked => "answers_untracked",
            Self::NobodyKnown => "nobody_known",
            Self::Gone => "gone",
            Self::MailboxExcluded => "mailbox_excluded",
            Self::MailboxUnknown => "mailbox_unknown",
        }
    }

    /// Evaluates the rule for a message.
    pub(super) fn ask(self, case: &Case<'_>) -> RuleAnswer {
        match self {
            Self::Draft => skips_if(case.folders.place(case.message) == Place::Drafts),
            Self::Spam => skips_if(case.folders.place(case.message) == Place::Junk),
            Self::Trash => skips_if(case.folders.place(case.message) == Place::Trash),
            Self::Folder => skips_if(!case.lies_in_a_tracked_folder()),
            Self::TrackNone => case.answer_if_asked(TrackWhat::None, || RuleAnswer::Skips),
            Self::Blocked => skips_if(
                case.message
                    .participants()
                    .any(|address| case.mailbox_policy.drops(address)),
            ),
            Self::Bulk => skips_if(case.mailbox_policy.skip_bulk && bulk::is_bulk(case.message)),
            Self::LaterInThread => skips_if(
                case.mailbox_policy.first_of_thread_only && !case.message.ancestors.is_empty(),
            ),
            Self::Nobody => skips_if(case.people().next().is_none()),
            Self::InternalOnly => case.internal_only(),
            Self::NotAllowed => case.not_allowed(),
            Self::NotAReply => case.answer_if_asked(TrackWhat::Replies, || {
                skips_if(case.message.ancestors.is_empty())
            }),
            Self::AnswersUntracked => {
                case.answer_if_asked(TrackWhat::Replies, || case.answers_untracked())
            }
            Self::NobodyKnown => case.answer_if_asked(TrackWhat::Known, || case.nobody_known()),
            // Determined by the fetch, or before it.
            Self::Gone | Self::MailboxExcluded | Self::MailboxUnknown => RuleAnswer::Passes,
        }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A message, and what is known about it.
pub struct Case<'a> {
    /// The message, with all its participants.
    pub message: &'a Message,
    /// The policy of its mailbox.
    pub mailbox_policy: &'a MailboxPolicy,
    /// The folders of its mailbox.
    pub folders: &'a mailboxes::Folders,
    /// The internal addresses that are known so far.
    pub internal: &'a InternalAddresses<'a>,
    /// Whether Dataverse was queried. Until then, an address that is not known to be internal may
    /// belong to a user.
    pub looked_up: bool,
}

impl Case<'_> {
    /// Returns all participants that the policy does not strip.
    fn people(&self) -> impl Iterator<Item = &EmailAddress> {
        self.message
            .participants()
            .filter(|address| !self.mailbox_policy.strips(address))
    }

    /// Returns whether an address is internal. `None`: cannot be determined before the lookup.
    fn is_internal(&self, address: &EmailAddress) -> Option<bool> {
        if self.internal.contains(address) {
            Some(true)
        } else {
            self.looked_up.then_some(false)
        }
    }

    /// Returns whether the sender and every recipient could be parsed, so that there are no unknown
    /// participants.
    fn everybody_is_named(&self) -> bool {
        self.message.author().is_some() && !self.message.omissions.contains(&Omission::Address)
    }

    fn lies_in_a_tracked_folder(&self) -> bool {
        let lies_in_any = |names: &[String]| {
            names
                .iter()
                .any(|name| self.folders.holds(name, self.message))
        };
        self.mailbox_policy
            .folders
            .iter()
            .all(|folders| match folders {
                Folders::All => true,
                Folders::Only(names) => lies_in_any(names),
                Folders::Except(names) => !lies_in_any(names),
            })
    }

    /// Returns the answer of a rule that applies to one direction, if the mailbox policy has the
    /// condition `what` for that direction.
    fn answer_if_asked(&self, what: TrackWhat, answer: impl Fn() -> RuleAnswer) -> RuleAnswer {
        let of_sent = self.mailbox_policy.sent.contains(&what);
        let of_received = self.mailbox_policy.received.contains(&what);
        let is_sent = match self.message.author() {
            Some(author) => self.is_internal(author),
            None => Some(false),
        };
        match is_sent {
            _ if of_sent == of_received && !of_sent => RuleAnswer::Passes,
            Some(true) if !of_sent => RuleAnswer::Passes,
            Some(false) if !of_received => RuleAnswer::Passes,
            None if of_sent != of_received => match answer() {
                RuleAnswer::Passes => RuleAnswer::Passes,
                RuleAnswer::Skips | RuleAnswer::Open => RuleAnswer::Open,
            },
            Some(_) | None => answer(),
        }
    }

    fn internal_only(&self) -> RuleAnswer {
        if !self.mailbox_policy.skip_internal || !self.everybody_is_named() {
            return RuleAnswer::Passes;
        }
        let mut answer = RuleAnswer::Skips;
        for address in self.people() {
            match self.is_internal(address) {
                Some(true) => {}
                Some(false) => return RuleAnswer::Passes,
                None => answer = RuleAnswer::Open,
            }
        }
        answer
    }

    /// Returns the external participants that count. The flag is `true` if only the lookup can
    /// determine whether the address is external.
    fn external(&self) -> impl Iterator<Item = (&EmailAddress, bool)> {
        self.people()
            .filter(|address| self.mailbox_policy.allows(address))
            .filter_map(|address| match self.is_internal(address) {
                Some(true) => None,
                Some(false) => Some((address, false)),
                None => Some((address, true)),
            })
    }

    fn not_allowed(&self) -> RuleAnswer {
        if self.mailbox_policy.allow.is_empty() {
            return RuleAnswer::Passes;
        }
        if let Some((_, open)) = self.external().min_by_key(|(_, open)| *open) {
            return if open {
                RuleAnswer::Open
            } else {
                RuleAnswer::Passes
            };
        }
        // No external participant counts. A message among internal participants only is not for
        // this rule, and a stripped participant still counts as a participant here.
        let among_us = self.everybody_is_named()
            && self
                .message
                .participants()
                .all(|address| self.is_internal(address) == Some(true));
        let may_be_among_us = !self.looked_up && !self.mailbox_policy.skip_internal;
        match (among_us, may_be_among_us) {
            (true, _) => RuleAnswer::Passes,
            (false, true) => RuleAnswer::Open,
            (false, false) => RuleAnswer::Skips,
        }
    }

    fn answers_untracked(&self) -> RuleAnswer {
        if self.message.ancestors.is_empty() || !self.looked_up {
            return RuleAnswer::Open;
        }
        skips_if(!self.internal.found.answers_tracked_mail(self.message))
    }

    fn nobody_known(&self) -> RuleAnswer {
        let is_known = |address: &EmailAddress| {
            let people = self.internal.found.people(address).iter();
            people
                .map(|person| person.record.table)
                .any(|table| matches!(table, Table::Contact | Table::Account | Table::Lead))
        };
        let mut external = self.external().peekable();
        if !self.looked_up && external.peek().is_some() {
            return RuleAnswer::Open;
        }
        skips_if(!external.any(|(address, _)| is_known(address)))
    }
}

fn skips_if(condition: bool) -> RuleAnswer {
    if condition {
        RuleAnswer::Skips
    } else {
        RuleAnswer::Passes
    }
}
