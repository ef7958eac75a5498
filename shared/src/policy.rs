//! What is tracked, and why a message was not. Pure: values in, a decision out.
//!
//! The policy is one document ([`document`]) for the organisation; a mailbox may have a part of its own, which only ever narrows it ([`effective`]).
//! Without a document, its defaults hold. The rules are asked in this order; the first that applies decides:
//!
//! | Rule | Skips | Needs the look-up |
//! | --- | --- | --- |
//! | `draft` | what lies in a drafts folder | |
//! | `spam` | what lies in a spam folder | |
//! | `trash` | what lies in the waste basket | |
//! | `folder` | what does not lie in a folder that is tracked | |
//! | `track_none` | everything of a direction that is not tracked | to tell the direction, at times |
//! | `blocked` | mail that names somebody who is blocked | |
//! | `bulk` | newsletters, automatic answers and other bulk mail | |
//! | `later_in_thread` | mail that answers another | |
//! | `nobody` | mail that names no usable address at all, so that nobody could find it again | |
//! | `internal_only` | mail whose sender and recipients are all known, and all inside | to know the users |
//! | `not_allowed` | mail with people outside none of whom is in a listed domain | to know the users |
//! | `not_a_reply` | mail that answers none, where only answers are tracked | |
//! | `answers_untracked` | mail that answers mail which is not in Dynamics 365 | yes |
//! | `nobody_known` | mail with nobody outside whom Dynamics 365 knows | yes |
//!
//! A message that Nylas cannot find five times is skipped as `gone`: somebody deleted it before it
//! was read. Before any rule is asked, and before the message is fetched, its mailbox is looked at:
//! one that does not take part has its mail skipped as `mailbox_excluded`, one that Nylas does not
//! list five times as `mailbox_unknown` (`shared/src/mailboxes/allow_list.rs`). Everything else is
//! tracked.
//!
//! The rules are asked twice: before the look-up, when a rule may leave its answer open, and after it, when none does. A message that some rule skips
//! whatever the look-up would find is skipped at once, and nobody on it is looked up.

pub mod bulk;
mod check;
pub mod document;
pub mod effective;
mod inside;
mod rules;
pub mod source;

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

pub use self::check::Problem;
use self::document::{Document, Override};
use self::effective::Effective;
pub use self::inside::Inside;
pub use self::rules::{Case, Rule};
use crate::ids::EmailAddress;

/// What the policy says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs in Dynamics 365.
    Track,
    /// It does not, by this rule.
    Skip(Rule),
    /// Only the look-up can tell.
    Open,
}

/// What one rule says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It does not apply.
    Passes,
    /// It leaves the message out.
    Skips,
    /// Only the look-up can tell.
    Open,
}

/// A rule that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub rule: Rule,
    /// What it said.
    pub answer: Answer,
}

/// What the policy says of a message, and how it came to that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The outcome.
    pub verdict: Verdict,
    /// The rules that were asked, in order. The last of them decided, if any did.
    pub path: Vec<Step>,
    /// [`Policy::version`]
    pub policy: String,
    /// [`Policy::revision`]
    pub revision: u64,
}

/// The rules, in the order in which they are asked.
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

/// The organisation's policy: a document that has been checked.
#[derive(Debug, Clone)]
pub struct Policy {
    document: Document,
    version: String,
    revision: u64,
    internal_domains: HashSet<String>,
    organisation: Effective,
    parts: HashMap<EmailAddress, Override>,
}

impl Default for Policy {
    /// What holds where there is no document.
    fn default() -> Self {
        Self::of(Document::default(), "default".to_owned())
    }
}

impl Policy {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// Every [`Problem`] that could be found, in the document's order: use no part of it. A text that is no such document has one.
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
            internal_domains: domains.filter_map(|text| effective::domain(text)).collect(),
            organisation: Effective::organisation(&document.defaults),
            parts: parts.collect(),
            version,
            revision: 0,
            document,
        }
    }

    /// What it says, with the defaults filled in.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Twelve hexadecimal digits that tell this document from others; `default` where there is none.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Counts the pushes of the stored document; 0 for one that was not pushed, or was by an earlier build.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The same, as the document of this push.
    #[must_use]
    pub fn of_revision(mut self, revision: u64) -> Self {
        self.revision = revision;
        self
    }

    /// The domains, in lower case, whose addresses are inside although no mailbox or user has them.
    #[must_use]
    pub fn internal_domains(&self) -> &HashSet<String> {
        &self.internal_domains
    }

    /// Whether any mailbox has a part of its own. Until it is known which mailbox a message lies in, nothing can be decided then.
    #[must_use]
    pub fn differs_by_mailbox(&self) -> bool {
        !self.parts.is_empty()
    }

    /// What holds for the mailbox with this address of its own.
    #[must_use]
    pub fn for_mailbox(&self, address: Option<&EmailAddress>) -> Effective {
        match address.and_then(|address| self.parts.get(address)) {
            Some(part) => self.organisation.narrowed(part),
            None => self.organisation.clone(),
        }
    }

    /// Asks the rules about a message.
    #[must_use]
    pub fn decide(&self, case: &Case<'_>) -> Decision {
        let mut path = Vec::new();
        let mut verdict = Verdict::Track;
        for rule in RULES {
            let answer = rule.ask(case);
            path.push(Step { rule, answer });
            match answer {
                Answer::Passes => {}
                Answer::Open => verdict = Verdict::Open,
                Answer::Skips => {
                    verdict = Verdict::Skip(rule);
                    break;
                }
            }
        }
        Decision {
            verdict,
            path,
            policy: self.version.clone(),
            revision: self.revision,
        }
    }
}

/// The version of a document: the beginning of its text's SHA-256.
#[must_use]
pub fn version_of(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    hex::encode(digest.iter().take(6).copied().collect::<Vec<u8>>())
}

#[cfg(test)]
mod narrowing;
#[cfg(test)]
mod tests;
