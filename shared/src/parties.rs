//! Who the people on a mail are: the activity parties. Pure.
//!
//! Each address becomes one party for each role (mask) that it has: sender 1, To 2, Cc 3, Bcc 4. Where the organisation knows the address,
//! the party is bound to that row; where it does not, or where several rows claim it, the party is the address alone. So distribution lists and unknown
//! people stay what they are.
//!
//! How an address finds its rows ([`Match`]; the normal form in which addresses are compared is that of [`crate::ids::EmailAddress`]):
//!
//! | An address that | has the rows of |
//! | --- | --- |
//! | is a connected mailbox's, an alias of one, or either with a tag | the mailbox's main address, if that has any |
//! | has rows | itself |
//! | has none and carries a tag (`ada+kites@…`) | the address without the tag |
//!
//! Which of these rows it is ([`Choice`]):
//!
//! | An address that is found on | is |
//! | --- | --- |
//! | one active row of the first table that has any: user, queue, contact, lead, account | that row |
//! | several active rows of that table | what the setting `ambiguous` says |
//! | inactive rows only | the same, of these |
//! | nothing | unresolved |
//!
//! | `ambiguous` | The address is |
//! | --- | --- |
//! | `unresolved`, the default | itself alone: nobody can tell which |
//! | `most_recent` | the row that was changed last (`modifiedon`, else `createdon`; of two at the same moment the one with the lower key) |
//! | `all` | each of them, as a party of its own; but a mail has one sender (0x80040B01, *inferred*), who is then the most recent one |
//!
//! That several parties of one role may have the same `addressused` is *inferred*.

use std::cmp::Reverse;

use crate::dataverse::look_up::Found;
use crate::dataverse::rows::{Person, Record};
use crate::ids::EmailAddress;
use crate::message::Message;
use crate::policy::Inside;
use crate::policy::document::Ambiguous;

/// The role of a party, by its participation type mask (Dataverse facts §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// 1
    Sender,
    /// 2
    To,
    /// 3
    Cc,
    /// 4
    Bcc,
}

impl Role {
    /// `participationtypemask`
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
    /// Its role.
    pub role: Role,
    /// `addressused`
    pub address: EmailAddress,
    /// The row that it is; `None` when unresolved.
    pub record: Option<Record>,
    /// How that came about.
    pub resolution: Resolution,
}

/// Why an address is the row that it is, or none. Holds no address, so that it can be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// By what its rows were found.
    pub matched: Match,
    /// Which of them it is.
    pub choice: Choice,
    /// All rows that were found, in order of precedence: by table, active before inactive.
    pub candidates: Vec<Record>,
}

/// By what the rows of an address were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// By the address itself.
    Exact,
    /// By the address without its tag.
    WithoutTag,
    /// By the main address of the mailbox that the address belongs to.
    Mailbox,
    /// The row was made for this mail, or for another of the same run.
    Made,
}

impl Match {
    /// As the decision record names it.
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

/// Which row of several an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// None has it.
    Unknown,
    /// One row of the deciding table.
    Only,
    /// None of several: nobody can tell which.
    Ambiguous,
    /// Of several, the one that was changed last.
    MostRecent,
    /// Each of several.
    All,
}

impl Choice {
    /// As the decision record names it.
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

/// The parties of a mail: sender, To, Cc, Bcc, each in the mail's order.
#[must_use]
pub fn of_message(message: &Message, inside: &Inside<'_>, ambiguous: Ambiguous) -> Vec<Party> {
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
            .flat_map(|address| of_address(role, address, inside, ambiguous))
            .collect()
    };
    roles.into_iter().flat_map(parties).collect()
}

fn of_address(
    role: Role,
    address: &EmailAddress,
    inside: &Inside<'_>,
    ambiguous: Ambiguous,
) -> Vec<Party> {
    let (matched, people) = people_of(address, inside);
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

/// The rows that an address has, and by what.
#[must_use]
pub fn people_of<'a>(address: &EmailAddress, inside: &Inside<'a>) -> (Match, &'a [Person]) {
    let found: &'a Found = inside.found;
    if let Some(main) = inside.mailboxes.main_address(address)
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

/// Which of the rows that have an address, in order of precedence, it is.
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

/// The one row that an address belongs to, of those that have it in order of precedence; none when several do.
#[must_use]
pub fn resolve(people: &[Person]) -> Option<&Person> {
    choose(people, Ambiguous::Unresolved).1.first().copied()
}

#[cfg(test)]
mod tests;
