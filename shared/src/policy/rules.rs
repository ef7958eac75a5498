//! The rules, one function each. Pure.

use super::document::{Folders, TrackWhat};
use super::effective::Effective;
use super::{Answer, Inside, bulk};
use crate::dataverse::rows::Table;
use crate::ids::EmailAddress;
use crate::mailboxes::{self, Place};
use crate::message::{Message, Omission};

/// A rule that leaves a message out. Its name stands in the ledger, so it does not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// A draft.
    Draft,
    /// Spam.
    Spam,
    /// In the waste basket.
    Trash,
    /// Not in a folder that is tracked.
    Folder,
    /// Nothing of this direction is tracked.
    TrackNone,
    /// Somebody on it is blocked.
    Blocked,
    /// Bulk mail, or an automatic answer.
    Bulk,
    /// It answers another mail.
    LaterInThread,
    /// No usable address.
    Nobody,
    /// Nobody outside takes part.
    InternalOnly,
    /// Nobody outside takes part who counts.
    NotAllowed,
    /// It answers no mail.
    NotAReply,
    /// It answers mail that is not in Dynamics 365.
    AnswersUntracked,
    /// Nobody outside takes part whom Dynamics 365 knows.
    NobodyKnown,
    /// The mailbox no longer has it.
    Gone,
    /// Its mailbox does not take part.
    MailboxExcluded,
    /// Nylas does not list its mailbox.
    MailboxUnknown,
}

impl Rule {
    /// Its name in the ledger.
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

    /// Asks the rule about a message.
    pub(super) fn ask(self, case: &Case<'_>) -> Answer {
        match self {
            Self::Draft => skips_if(case.folders.place(case.message) == Place::Drafts),
            Self::Spam => skips_if(case.folders.place(case.message) == Place::Junk),
            Self::Trash => skips_if(case.folders.place(case.message) == Place::Trash),
            Self::Folder => skips_if(!case.lies_in_a_tracked_folder()),
            Self::TrackNone => case.answer_if_asked(TrackWhat::None, || Answer::Skips),
            Self::Blocked => skips_if(
                case.message
                    .participants()
                    .any(|address| case.effective.drops(address)),
            ),
            Self::Bulk => skips_if(case.effective.skip_bulk && bulk::is_bulk(case.message)),
            Self::LaterInThread => {
                skips_if(case.effective.first_of_thread_only && !case.message.ancestors.is_empty())
            }
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
            // Found out by the fetch, or before it.
            Self::Gone | Self::MailboxExcluded | Self::MailboxUnknown => Answer::Passes,
        }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A message and what is known about it.
pub struct Case<'a> {
    /// The message, with everybody on it.
    pub message: &'a Message,
    /// What holds for its mailbox.
    pub effective: &'a Effective,
    /// The folders of its mailbox.
    pub folders: &'a mailboxes::Folders,
    /// Who is inside, as far as it is known.
    pub inside: &'a Inside<'a>,
    /// Whether Dataverse has been asked. Until then, whoever is not known to be inside may be a user.
    pub looked_up: bool,
}

impl Case<'_> {
    /// Everybody on the mail but those who are stripped.
    fn people(&self) -> impl Iterator<Item = &EmailAddress> {
        self.message
            .participants()
            .filter(|address| !self.effective.strips(address))
    }

    /// `None`: only the look-up can tell.
    fn is_inside(&self, address: &EmailAddress) -> Option<bool> {
        if self.inside.contains(address) {
            Some(true)
        } else {
            self.looked_up.then_some(false)
        }
    }

    /// The sender and every recipient can be read, so that nobody else takes part.
    fn everybody_is_named(&self) -> bool {
        self.message.author().is_some() && !self.message.omissions.contains(&Omission::Address)
    }

    fn lies_in_a_tracked_folder(&self) -> bool {
        let lies_in_any = |names: &[String]| {
            names
                .iter()
                .any(|name| self.folders.holds(name, self.message))
        };
        self.effective.folders.iter().all(|folders| match folders {
            Folders::All => true,
            Folders::Only(names) => lies_in_any(names),
            Folders::Except(names) => !lies_in_any(names),
        })
    }

    /// The answer of a rule that holds for one direction, where `what` is asked of it.
    fn answer_if_asked(&self, what: TrackWhat, answer: impl Fn() -> Answer) -> Answer {
        let of_sent = self.effective.sent.contains(&what);
        let of_received = self.effective.received.contains(&what);
        let is_sent = match self.message.author() {
            Some(author) => self.is_inside(author),
            None => Some(false),
        };
        match is_sent {
            _ if of_sent == of_received && !of_sent => Answer::Passes,
            Some(true) if !of_sent => Answer::Passes,
            Some(false) if !of_received => Answer::Passes,
            None if of_sent != of_received => match answer() {
                Answer::Passes => Answer::Passes,
                Answer::Skips | Answer::Open => Answer::Open,
            },
            Some(_) | None => answer(),
        }
    }

    fn internal_only(&self) -> Answer {
        if !self.effective.skip_internal || !self.everybody_is_named() {
            return Answer::Passes;
        }
        let mut answer = Answer::Skips;
        for address in self.people() {
            match self.is_inside(address) {
                Some(true) => {}
                Some(false) => return Answer::Passes,
                None => answer = Answer::Open,
            }
        }
        answer
    }

    /// Those outside who count; `true` beside whom only the look-up can tell to be outside.
    fn outside(&self) -> impl Iterator<Item = (&EmailAddress, bool)> {
        self.people()
            .filter(|address| self.effective.allows(address))
            .filter_map(|address| match self.is_inside(address) {
                Some(true) => None,
                Some(false) => Some((address, false)),
                None => Some((address, true)),
            })
    }

    fn not_allowed(&self) -> Answer {
        if self.effective.allow.is_empty() {
            return Answer::Passes;
        }
        if let Some((_, open)) = self.outside().min_by_key(|(_, open)| *open) {
            return if open { Answer::Open } else { Answer::Passes };
        }
        // Nobody counts, then. What concerns us alone is not for this rule; whoever is stripped is somebody still.
        let among_us = self.everybody_is_named()
            && self
                .message
                .participants()
                .all(|address| self.is_inside(address) == Some(true));
        let may_be_among_us = !self.looked_up && !self.effective.skip_internal;
        match (among_us, may_be_among_us) {
            (true, _) => Answer::Passes,
            (false, true) => Answer::Open,
            (false, false) => Answer::Skips,
        }
    }

    fn answers_untracked(&self) -> Answer {
        if self.message.ancestors.is_empty() || !self.looked_up {
            return Answer::Open;
        }
        skips_if(!self.inside.found.answers_tracked_mail(self.message))
    }

    fn nobody_known(&self) -> Answer {
        let is_known = |address: &EmailAddress| {
            let people = self.inside.found.people(address).iter();
            people
                .map(|person| person.record.table)
                .any(|table| matches!(table, Table::Contact | Table::Account | Table::Lead))
        };
        let mut outside = self.outside().peekable();
        if !self.looked_up && outside.peek().is_some() {
            return Answer::Open;
        }
        skips_if(!outside.any(|(address, _)| is_known(address)))
    }
}

fn skips_if(condition: bool) -> Answer {
    if condition {
        Answer::Skips
    } else {
        Answer::Passes
    }
}
