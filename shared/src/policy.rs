//! What is tracked, and why a message was not. Pure: values in, a verdict out.
//!
//! The default policy, in this order; the first rule that applies decides:
//!
//! | Rule | Skips |
//! | --- | --- |
//! | `draft` | what lies in a drafts folder |
//! | `spam` | what lies in a spam folder |
//! | `trash` | what lies in the waste basket |
//! | `internal_only` | mail whose sender and recipients are all known, and all inside |
//! | `nobody` | mail that names no usable address at all, so that nobody could find it again |
//!
//! A message that Nylas cannot find five times is skipped as `gone`: somebody deleted it before it was read. Everything else is tracked. The first three need the message only and are asked before any look-up; the last two need to know who is inside.

pub mod document;

use std::collections::HashSet;
use std::fmt;

use crate::dataverse::look_up::Found;
use crate::dataverse::rows::Table;
use crate::ids::EmailAddress;
use crate::mailboxes::{Mailboxes, Place};
use crate::message::{Message, Omission};

/// What the policy says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It belongs in Dynamics 365.
    Track,
    /// It does not, by this rule.
    Skip(Rule),
}

/// A rule that leaves a message out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A draft.
    Draft,
    /// Spam.
    Spam,
    /// In the waste basket.
    Trash,
    /// Nobody outside takes part.
    InternalOnly,
    /// No usable address.
    Nobody,
    /// The mailbox no longer has it.
    Gone,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draft => "draft",
            Self::Spam => "spam",
            Self::Trash => "trash",
            Self::InternalOnly => "internal_only",
            Self::Nobody => "nobody",
            Self::Gone => "gone",
        })
    }
}

/// The rules that need no look-up.
#[must_use]
pub fn by_place(place: Place) -> Verdict {
    match place {
        Place::Drafts => Verdict::Skip(Rule::Draft),
        Place::Junk => Verdict::Skip(Rule::Spam),
        Place::Trash => Verdict::Skip(Rule::Trash),
        Place::Elsewhere => Verdict::Track,
    }
}

/// The rules that need to know who is inside.
///
/// A mail is among insiders only when everybody on it is known to be one: a missing sender or an address that cannot be read may be anybody.
#[must_use]
pub fn by_participants(message: &Message, inside: &Inside<'_>) -> Verdict {
    let mut participants = message.participants().peekable();
    if participants.peek().is_none() {
        return Verdict::Skip(Rule::Nobody);
    }
    let everybody_is_known =
        message.from.is_some() && !message.omissions.contains(&Omission::Address);
    if everybody_is_known && participants.all(|address| inside.contains(address)) {
        Verdict::Skip(Rule::InternalOnly)
    } else {
        Verdict::Track
    }
}

/// Who is inside: the addresses and aliases of every connected mailbox, of every enabled user and every active queue, and of the configured domains.
///
/// It never depends on which mailbox's copy of a mail is looked at.
pub struct Inside<'a> {
    /// The connected mailboxes.
    pub mailboxes: &'a Mailboxes,
    /// What the look-up found of users.
    pub found: &'a Found,
    /// Lower case.
    pub domains: &'a HashSet<String>,
}

impl Inside<'_> {
    /// Whether this address is inside.
    #[must_use]
    pub fn contains(&self, address: &EmailAddress) -> bool {
        let is_user = || {
            self.found
                .people(address)
                .iter()
                .any(|p| p.active && matches!(p.record.table, Table::SystemUser | Table::Queue))
        };
        self.mailboxes.is_own(address) || self.domains.contains(address.domain()) || is_user()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::dataverse::rows::{Person, Record};
    use crate::nylas::wire;

    fn address(text: &str) -> EmailAddress {
        EmailAddress::parse(text).unwrap()
    }

    fn verdict(object: &Value) -> Verdict {
        let grant = json!({"id": "g", "email": "ada@ours.example", "provider": "google", "email_aliases": ["sales@alias.example"]});
        let mailboxes = Mailboxes::new(&[wire::grant(&grant).unwrap()]);
        let mut found = Found::default();
        for (email, active) in [("user@crm.example", true), ("former@crm.example", false)] {
            let record = Record {
                table: Table::SystemUser,
                id: Uuid::from_u128(u128::from(active)),
            };
            found.add_person(
                address(email),
                Person {
                    record,
                    active,
                    account: None,
                    changed: None,
                },
            );
        }
        let domains = HashSet::from(["domain.example".to_owned()]);
        let message =
            wire::message(&"g".parse().unwrap(), object).unwrap_or_else(|e| panic!("{e}"));
        by_participants(
            &message,
            &Inside {
                mailboxes: &mailboxes,
                found: &found,
                domains: &domains,
            },
        )
    }

    fn mail(from: &str, to: &[&str]) -> Value {
        let to: Vec<Value> = to.iter().map(|email| json!({"email": email})).collect();
        json!({"id": "m", "from": [{"email": from}], "to": to})
    }

    #[test]
    fn mail_among_mailboxes_aliases_users_and_internal_domains_is_internal() {
        let inside = mail(
            "ADA@ours.example",
            &[
                "sales@alias.example",
                "user@crm.example",
                "anyone@domain.example",
            ],
        );
        assert_eq!(verdict(&inside), Verdict::Skip(Rule::InternalOnly));
    }

    #[test]
    fn one_participant_outside_is_enough_to_track() {
        assert_eq!(
            verdict(&mail(
                "ada@ours.example",
                &["user@crm.example", "eve@outside.example"]
            )),
            Verdict::Track
        );
        assert_eq!(
            verdict(&mail("eve@outside.example", &["ada@ours.example"])),
            Verdict::Track
        );
        let bcc = json!({"id": "m", "from": [{"email": "ada@ours.example"}], "bcc": [{"email": "eve@outside.example"}]});
        assert_eq!(verdict(&bcc), Verdict::Track);
    }

    #[test]
    fn somebody_unknown_may_be_outside() {
        let to = json!([{"email": "ada@ours.example"}]);
        assert_eq!(
            verdict(&json!({"id": "m", "from": null, "to": to})),
            Verdict::Track
        );
        let unreadable = json!({"id": "m", "from": to, "to": [{"email": "user@crm.example"}, {"email": "the whole team"}]});
        assert_eq!(verdict(&unreadable), Verdict::Track);
    }

    #[test]
    fn a_disabled_user_or_a_subdomain_is_outside() {
        assert_eq!(
            verdict(&mail("ada@ours.example", &["former@crm.example"])),
            Verdict::Track
        );
        assert_eq!(
            verdict(&mail("ada@ours.example", &["x@sub.domain.example"])),
            Verdict::Track
        );
    }

    #[test]
    fn mail_without_any_usable_address_is_skipped_by_name() {
        assert_eq!(
            verdict(&json!({"id": "m", "to": [{"email": "undisclosed recipients"}]})),
            Verdict::Skip(Rule::Nobody)
        );
    }

    #[test]
    fn what_a_changed_message_undoes_are_the_rules_about_its_place() {
        let rules = [Rule::Draft, Rule::Spam, Rule::Trash, Rule::Gone].map(|rule| rule.to_string());
        assert_eq!(rules, crate::dedupe::SKIPPED_BY_PLACE);
    }

    #[test]
    fn drafts_spam_and_trash_are_skipped_and_nothing_else() {
        assert_eq!(by_place(Place::Drafts), Verdict::Skip(Rule::Draft));
        assert_eq!(by_place(Place::Junk), Verdict::Skip(Rule::Spam));
        assert_eq!(by_place(Place::Trash), Verdict::Skip(Rule::Trash));
        assert_eq!(by_place(Place::Elsewhere), Verdict::Track);
    }
}
