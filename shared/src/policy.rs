//! Decides whether a message is tracked, and records why not. Pure: values in, a decision out.
//!
//! The policy is one document ([`document`]) for the organisation. A mailbox may have an override,
//! which can only restrict it ([`mailbox_policy`]). Without a document, the defaults apply. The
//! rules are evaluated in this order, and the first rule that applies decides:
//!
//! | Rule | Skips | Needs the lookup |
//! | --- | --- | --- |
//! | `draft` | messages in a drafts folder | |
//! | `spam` | messages in a spam folder | |
//! | `trash` | messages in the trash folder | |
//! | `folder` | messages that are in no tracked folder | |
//! | `track_none` | every message of a direction that is not tracked | sometimes, to determine the direction |
//! | `blocked` | messages with a blocked participant | |
//! | `bulk` | newsletters, automatic replies and other bulk mail | |
//! | `later_in_thread` | messages that reply to another message | |
//! | `nobody` | messages without a usable address, since no participant could find them again | |
//! | `internal_only` | messages whose sender and recipients are all known and internal | to know the users |
//! | `not_allowed` | messages with external participants, none of them in a listed domain | to know the users |
//! | `not_a_reply` | messages that are not replies, if only replies are tracked | |
//! | `answers_untracked` | replies to messages that are not in Dynamics 365 | yes |
//! | `nobody_known` | messages without an external participant that Dynamics 365 knows | yes |
//!
//! A message that Nylas cannot find five times is skipped as `gone`: it was deleted before it was
//! read. The mailbox is checked before any rule is evaluated and before the message is fetched. A
//! message of a mailbox that does not take part is skipped as `mailbox_excluded`; one of a mailbox
//! that Nylas does not list five times is skipped as `mailbox_unknown`
//! (`shared/src/mailboxes/allow_list.rs`). Everything else is tracked.
//!
//! The rules are evaluated twice: before the lookup, when a rule may leave its answer open, and
//! after it, when every rule has an answer. A message that a rule skips whatever the lookup would
//! find is skipped at once, and its participants are not looked up.

pub mod bulk;
pub mod cache;
mod check;
pub mod document;
mod internal;
pub mod mailbox_policy;
mod rules;
pub mod token_pattern;

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

pub use self::check::Problem;
use self::document::{Document, Override};
pub use self::internal::InternalAddresses;
use self::mailbox_policy::MailboxPolicy;
pub use self::rules::{Case, Rule};
use crate::model::address::EmailAddress;

/// The policy's verdict on a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyVerdict {
    /// The message belongs in Dynamics 365.
    Track,
    /// The message is skipped by this rule.
    Skip(Rule),
    /// Cannot be determined before the lookup.
    Open,
}

/// One rule's answer for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAnswer {
    /// The rule does not apply.
    Passes,
    /// The rule skips the message.
    Skips,
    /// Cannot be determined before the lookup.
    Open,
}

/// A rule that was evaluated, and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluatedRule {
    /// The rule.
    pub rule: Rule,
    /// Its answer.
    pub answer: RuleAnswer,
}

/// The policy's decision on a message, with the rules that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyDecision {
    /// The verdict.
    pub verdict: PolicyVerdict,
    /// The rules that were evaluated, in order. If a rule skipped the message, it is the last one.
    pub path: Vec<EvaluatedRule>,
    /// The policy's [`Policy::version`].
    pub policy: String,
    /// The policy's [`Policy::revision`].
    pub revision: u64,
}

/// The rules in the order in which they are evaluated.
pub const RULES: [Rule; 14] = [
    Rule::Draft,
    Rule::Spam,
    Rule::Trash,
    Rule::Folder,
    Rule::TrackNone,
    Rule::Blocked,
    Rule::Bulk,
    Rule::LaterInThread,
    Rule::Nobody,
    Rule::InternalOnly,
    Rule::NotAllowed,
    Rule::NotAReply,
    Rule::AnswersUntracked,
    Rule::NobodyKnown,
];

/// The organisation's policy: a document that passed all checks.
#[derive(Debug, Clone)]
pub struct Policy {
    document: Document,
    version: String,
    revision: u64,
    internal_domains: HashSet<String>,
    organisation: MailboxPolicy,
    parts: HashMap<EmailAddress, Override>,
}

impl Default for Policy {
    /// Returns the policy that applies without a document.
    fn default() -> Self {
        Self::of(Document::default(), "default".to_owned())
    }
}

impl Policy {
    /// Parses and checks a document.
    ///
    /// # Errors
    /// Every [`Problem`] that was found, in the order of the document: do not use any part of it. A
    /// text that cannot be parsed as a policy document has exactly one problem.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let document = check::read(text).map_err(|problem| vec![problem])?;
        let problems = check::problems(&document);
        if problems.is_empty() {
            Ok(Self::of(document, version_of(text)))
        } else {
            Err(problems)
        }
    }

    fn of(document: Document, version: String) -> Self {
        let domains = document.defaults.internal_domains.iter();
        let parts = document
            .mailboxes
            .iter()
            .filter_map(|(address, part)| Some((EmailAddress::parse(address)?, part.clone())));
        Self {
            internal_domains: domains
                .filter_map(|text| mailbox_policy::domain(text))
                .collect(),
            organisation: MailboxPolicy::organisation(&document.defaults),
            parts: parts.collect(),
            version,
            revision: 0,
            document,
        }
    }

    /// Returns the document, with the defaults filled in.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Returns the version: twelve hexadecimal digits computed from the document's text, or
    /// `default` if there is no document.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns how many times the stored document had been pushed; 0 for a document that was not
    /// pushed, or was pushed by an earlier build.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns the same policy with this revision.
    #[must_use]
    pub(crate) fn of_revision(mut self, revision: u64) -> Self {
        self.revision = revision;
        self
    }

    /// Returns the domains, in lower case, whose addresses are internal even if no mailbox or user
    /// has them.
    #[must_use]
    pub fn internal_domains(&self) -> &HashSet<String> {
        &self.internal_domains
    }

    /// Returns whether any mailbox has an override. If so, nothing can be decided about a message
    /// until its mailbox is known.
    #[must_use]
    pub(crate) fn differs_by_mailbox(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Returns the policy of the mailbox with this address. `None`, or an address without an
    /// override, returns the organisation's.
    #[must_use]
    pub fn for_mailbox(&self, address: Option<&EmailAddress>) -> MailboxPolicy {
        match address.and_then(|address| self.parts.get(address)) {
            Some(part) => self.organisation.narrowed(part),
            None => self.organisation.clone(),
        }
    }

    /// Evaluates the rules for a message.
    #[must_use]
    pub fn decide(&self, case: &Case<'_>) -> PolicyDecision {
        let mut path = Vec::new();
        let mut verdict = PolicyVerdict::Track;
        for rule in RULES {
            let answer = rule.ask(case);
            path.push(EvaluatedRule { rule, answer });
            match answer {
                RuleAnswer::Passes => {}
                RuleAnswer::Open => verdict = PolicyVerdict::Open,
                RuleAnswer::Skips => {
                    verdict = PolicyVerdict::Skip(rule);
                    break;
                }
            }
        }
        PolicyDecision {
            verdict,
            path,
            policy: self.version.clone(),
            revision: self.revision,
        }
    }
}

/// Returns the version of a document: the first six bytes of its text's SHA-256, in hexadecimal.
#[must_use]
pub fn version_of(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    hex::encode(digest.iter().take(6).copied().collect::<Vec<u8>>())
}

#[cfg(test)]
mod narrowing;
#[cfg(test)]
mod tests;
