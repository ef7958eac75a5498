//! Reads the addresses of a message's people from its mailbox, to show them in the operator's
//! terminal. The ledger has only roles and positions.

use std::collections::HashMap;

use mailverse::clients::nylas::{Fetched, Headers};
use mailverse::decision_record::{DecisionRecord, role_name};
use mailverse::ledger::decisions::StoredMessage;
use mailverse::model::address::EmailAddress;
use mailverse::model::message::Message;
use mailverse::policy::Policy;
use mailverse::resolve::parties::Role;

use super::search::Finder;

/// The addresses of a message's people, or why they are unknown.
pub(super) enum Names {
    /// The addresses by role, in the order of the decision record.
    Known(HashMap<&'static str, Vec<EmailAddress>>),
    /// The reason why they are unknown; empty if there are no people to show.
    Unknown(&'static str),
}

impl Names {
    /// Reads the addresses from the message as it is in the mailbox now.
    pub(super) async fn read(finder: &Finder, stored_message: &StoredMessage) -> Self {
        let record = stored_message
            .decision
            .as_deref()
            .and_then(|text| DecisionRecord::parse(text).ok());
        let Some(record) = record.filter(|record| !record.people.is_empty()) else {
            return Self::Unknown("");
        };
        let Some(nylas) = &finder.nylas else {
            return Self::Unknown("set NYLAS_API_KEY_SECRET_ID to see addresses");
        };
        match finder.may_read(nylas, &stored_message.key.grant_id).await {
            Ok(true) => {}
            Ok(false) => return Self::Unknown("no addresses: the mailbox does not take part"),
            Err(_) => return Self::Unknown("no addresses: failed to fetch the message"),
        }
        let mut message = match nylas.message(&stored_message.key, Headers::Basic).await {
            Ok(Fetched::Message(message)) => *message,
            Ok(Fetched::Gone) => {
                return Self::Unknown("no addresses: the mailbox no longer has the message");
            }
            Err(_) => return Self::Unknown("no addresses: failed to fetch the message"),
        };
        // Positions in the record do not count addresses that the policy removed, so the same
        // policy has to be applied here.
        let Some(policy) = policy_of(finder, &record).await else {
            return Self::Unknown("no addresses: another policy is in force now");
        };
        let Ok(grants) = nylas.grants().await else {
            return Self::Unknown("no addresses: failed to list the mailboxes");
        };
        let grant = grants
            .iter()
            .find(|grant| grant.id == stored_message.key.grant_id);
        let mailbox_policy = policy.for_mailbox(grant.and_then(|grant| grant.address.as_ref()));
        message.strip(|address| mailbox_policy.strips(address));
        let lists = lists(message);
        let fits = record.people.iter().all(|person| {
            lists
                .get(person.role.as_str())
                .is_some_and(|list| person.place < list.len())
        });
        if fits {
            Self::Known(lists)
        } else {
            Self::Unknown("no addresses: the people of the message have changed")
        }
    }

    /// Returns the address at a position, from 0; `None` if it is unknown.
    pub(super) fn at(&self, role: &str, place: usize) -> Option<&str> {
        match self {
            Self::Known(lists) => Some(lists.get(role)?.get(place)?.as_str()),
            Self::Unknown(_) => None,
        }
    }

    /// Returns why there are no addresses; empty if none are missing.
    pub(super) fn missing(&self) -> &'static str {
        match self {
            Self::Known(_) => "",
            Self::Unknown(why) => why,
        }
    }
}

/// Returns the policy of a decision if it is still in force; `None` if not, or if it cannot be
/// read.
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
