//! Resolves the participants of a message to activity parties. Pure.
//!
//! Each address becomes one party for each role (mask) that it has: sender 1, To 2, Cc 3, Bcc 4. If
//! the organisation knows the address, the party is bound to that row. If it does not, or if
//! several rows have the address, the party holds only the address. So distribution lists and
//! unknown people remain plain addresses.
//!
//! How the rows of an address are found ([`Match`]; addresses are compared in the normalised form
//! of [`crate::model::address::EmailAddress`]):
//!
//! | An address that | has the rows of |
//! | --- | --- |
//! | is a connected mailbox's, an alias of one, or either with a tag | the mailbox's main address, if that has any |
//! | has rows | itself |
//! | has none and has a tag (`ada+kites@…`) | the address without the tag |
//!
//! Which of these rows is chosen ([`Choice`]):
//!
//! | An address that is found on | resolves to |
//! | --- | --- |
//! | one active row of the first table that has any: user, queue, contact, lead, account | that row |
//! | several active rows of that table | what the setting `ambiguous` says |
//! | inactive rows only | the same, among these |
//! | nothing | unresolved |
//!
//! | `ambiguous` | The address resolves to |
//! | --- | --- |
//! | `unresolved`, the default | no row, since it is unknown which one is meant |
//! | `most_recent` | the row that was changed last (`modifiedon`, else `createdon`; of two with the same time the one with the lower key) |
//! | `all` | all of them, with one party for each; but an email has one sender (0x80040B01, *inferred*), who is then the most recent one |
//!
//! That several parties of one role may have the same `addressused` is *inferred*.

use std::cmp::Reverse;

use crate::clients::dataverse::records::{PartyReference, Person};
use crate::lookup::result::LookupResult;
use crate::model::address::EmailAddress;
use crate::model::message::Message;
use crate::policy::InternalAddresses;
use crate::policy::document::Ambiguous;

/// The role of a party, by its participation type mask (Dataverse facts §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Mask 1.
    Sender,
    /// Mask 2.
    To,
    /// Mask 3.
    Cc,
    /// Mask 4.
    Bcc,
}

impl Role {
    /// Returns the value of `participationtypemask`.
    #[must_use]
    pub const fn mask(self) -> u8 {
        match self {
            Self::Sender => 1,
            Self::To => 2,
            Self::Cc => 3,
            Self::Bcc => 4,
        }
    }
}

/// One activity party.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// The party's role.
    pub role: Role,
    /// The party's `addressused`.
    pub address: EmailAddress,
    /// The row that the party is bound to; `None` if the address is unresolved.
    pub record: Option<PartyReference>,
    /// How the row was found and chosen.
    pub resolution: Resolution,
}

/// Why an address resolves to a row, or to no row. Holds no address, so that it can be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// How its rows were found.
    pub matched: Match,
    /// How one of them was chosen.
    pub choice: Choice,
    /// All rows that were found, in order of precedence: by table, active before inactive.
    pub candidates: Vec<PartyReference>,
}

/// How the rows of an address were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// By the address as written.
    Exact,
    /// By the address without its tag.
    WithoutTag,
    /// By the main address of the mailbox that the address belongs to.
    Mailbox,
    /// The row was created for this message, or for another message of the same batch.
    Made,
}

impl Match {
    /// Returns the name in the decision record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::WithoutTag => "without_tag",
            Self::Mailbox => "mailbox",
            Self::Made => "made",
        }
    }
}

/// How a row was chosen from the rows that have an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// No row has the address.
    Unknown,
    /// There is one row in the deciding table.
    Only,
    /// There are several rows, and none was chosen, since it is unknown which one is meant.
    Ambiguous,
    /// There are several rows, and the one that was changed last was chosen.
    MostRecent,
    /// There are several rows, and all of them were chosen.
    All,
}

impl Choice {
    /// Returns the name in the decision record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Only => "only",
            Self::Ambiguous => "ambiguous",
            Self::MostRecent => "most_recent",
            Self::All => "all",
        }
    }
}

/// Returns the parties of a message: sender, To, Cc, Bcc, each in the order of the message.
#[must_use]
pub fn of_message(
    message: &Message,
    internal: &InternalAddresses<'_>,
    ambiguous: Ambiguous,
) -> Vec<Party> {
    let roles = [
        (Role::Sender, message.from.as_slice()),
        (Role::To, message.to.as_slice()),
        (Role::Cc, message.cc.as_slice()),
        (Role::Bcc, message.bcc.as_slice()),
    ];
    let parties = |(role, addresses): (Role, &[EmailAddress])| -> Vec<Party> {
        let ambiguous = match (role, ambiguous) {
            (Role::Sender, Ambiguous::All) => Ambiguous::MostRecent,
            _ => ambiguous,
        };
        addresses
            .iter()
            .flat_map(|address| of_address(role, address, internal, ambiguous))
            .collect()
    };
    roles.into_iter().flat_map(parties).collect()
}

fn of_address(
    role: Role,
    address: &EmailAddress,
    internal: &InternalAddresses<'_>,
    ambiguous: Ambiguous,
) -> Vec<Party> {
    let (matched, people) = people_of(address, internal);
    let (choice, chosen) = choose(people, ambiguous);
    let party = |record| Party {
        role,
        address: address.clone(),
        record,
        resolution: Resolution {
            matched,
            choice,
            candidates: people.iter().map(|person| person.record).collect(),
        },
    };
    if chosen.is_empty() {
        return vec![party(None)];
    }
    let records = chosen.iter().map(|person| Some(person.record));
    records.map(party).collect()
}

/// Returns the rows that have an address, and how they were found.
#[must_use]
pub(crate) fn people_of<'a>(
    address: &EmailAddress,
    internal: &InternalAddresses<'a>,
) -> (Match, &'a [Person]) {
    let found: &'a LookupResult = internal.found;
    if let Some(main) = internal.mailboxes.main_address(address)
        && main != address
    {
        let people = found.people(main);
        if !people.is_empty() {
            return (Match::Mailbox, people);
        }
    }
    let people = found.people(address);
    let matched = match people.first() {
        Some(person) if found.was_made(person.record) => Match::Made,
        Some(_) if !found.knows_exactly(address) => Match::WithoutTag,
        _ => Match::Exact,
    };
    (matched, people)
}

/// Chooses from the rows that have an address, which are given in order of precedence.
#[must_use]
pub fn choose(people: &[Person], ambiguous: Ambiguous) -> (Choice, Vec<&Person>) {
    let Some(first) = people
        .iter()
        .find(|person| person.active)
        .or_else(|| people.first())
    else {
        return (Choice::Unknown, Vec::new());
    };
    let alike: Vec<&Person> = people
        .iter()
        .filter(|person| person.record.table == first.record.table && person.active == first.active)
        .collect();
    if alike.len() == 1 {
        return (Choice::Only, alike);
    }
    match ambiguous {
        Ambiguous::Unresolved => (Choice::Ambiguous, Vec::new()),
        Ambiguous::All => (Choice::All, alike),
        Ambiguous::MostRecent => {
            let latest = alike
                .into_iter()
                .max_by_key(|person| (person.changed, Reverse(person.record.id)));
            (Choice::MostRecent, latest.into_iter().collect())
        }
    }
}

/// Returns the only row that an address resolves to, given its rows in order of precedence; `None`
/// if there are none, or if the choice is ambiguous.
#[must_use]
pub fn resolve(people: &[Person]) -> Option<&Person> {
    choose(people, Ambiguous::Unresolved).1.first().copied()
}

#[cfg(test)]
mod tests;
