//! Who stands at a place of a mail: from the mail itself, for the operator's own terminal.

use std::collections::HashMap;

use mailverse::decision::{DecisionRecord, role_name};
use mailverse::dedupe::kept::Kept;
use mailverse::ids::EmailAddress;
use mailverse::message::Message;
use mailverse::nylas::{Fetched, Headers};
use mailverse::parties::Role;
use mailverse::policy::Policy;

use super::find::Finder;

/// The addresses of a mail's people, or why there are none.
pub(super) enum Names {
    /// By role, in the order in which the decision saw them.
    Known(HashMap<&'static str, Vec<EmailAddress>>),
    /// They cannot be told, and why.
    Unknown(&'static str),
}

impl Names {
    /// Reads them from the mail that the mailbox has now.
    pub(super) async fn read(finder: &Finder, kept: &Kept) -> Self {
        let record = kept
            .decision
            .as_deref()
            .and_then(|text| DecisionRecord::parse(text).ok());
        let Some(record) = record.filter(|record| !record.people.is_empty()) else {
            return Self::Unknown("");
        };
        let Some(nylas) = &finder.nylas else {
            return Self::Unknown("addresses are shown with NYLAS_API_KEY_SECRET_ID set");
        };
        match finder.may_read(nylas, &kept.key.grant_id).await {
            Ok(true) => {}
            Ok(false) => return Self::Unknown("the mailbox takes no part now: no addresses"),
            Err(_) => return Self::Unknown("the mail cannot be fetched now: no addresses"),
        }
        let mut message = match nylas.message(&kept.key, Headers::Basic).await {
            Ok(Fetched::Message(message)) => *message,
            Ok(Fetched::Gone) => {
                return Self::Unknown("the mailbox no longer has it: no addresses");
            }
            Err(_) => return Self::Unknown("the mail cannot be fetched now: no addresses"),
        };
        // Places count those whom the policy left on the mail.
        let Some(policy) = policy_of(finder, &record).await else {
            return Self::Unknown("another policy holds now: no addresses");
        };
        let Ok(grants) = nylas.grants().await else {
            return Self::Unknown("the mailboxes cannot be listed now: no addresses");
        };
        let grant = grants.iter().find(|grant| grant.id == kept.key.grant_id);
        let effective = policy.for_mailbox(grant.and_then(|grant| grant.address.as_ref()));
        message.strip(|address| effective.strips(address));
        let lists = lists(message);
        let fits = record.people.iter().all(|person| {
            lists
                .get(person.role.as_str())
                .is_some_and(|list| person.place < list.len())
        });
        if fits {
            Self::Known(lists)
        } else {
            Self::Unknown("the mail names other people now: no addresses")
        }
    }

    /// The address at a place.
    pub(super) fn at(&self, role: &str, place: usize) -> Option<&str> {
        match self {
            Self::Known(lists) => Some(lists.get(role)?.get(place)?.as_str()),
            Self::Unknown(_) => None,
        }
    }

    /// Why there are no addresses; empty where none are missed.
    pub(super) fn missing(&self) -> &'static str {
        match self {
            Self::Known(_) => "",
            Self::Unknown(why) => why,
        }
    }
}

/// The policy that a decision was made by, if it still holds.
async fn policy_of(finder: &Finder, record: &DecisionRecord) -> Option<Policy> {
    let policy = match finder.ledger.stored_policy().await.ok()? {
        None => Policy::default(),
        Some(stored) => Policy::parse(&stored.document).ok()?,
    };
    (policy.version() == record.policy.version).then_some(policy)
}

fn lists(message: Message) -> HashMap<&'static str, Vec<EmailAddress>> {
    HashMap::from([
        (role_name(Role::Sender), message.from.into_iter().collect()),
        (role_name(Role::To), message.to),
        (role_name(Role::Cc), message.cc),
        (role_name(Role::Bcc), message.bcc),
    ])
}
