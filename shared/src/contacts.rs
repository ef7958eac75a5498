//! Who becomes a contact, and of which company. Pure: a mail and what the look-up found in, rows out.
//!
//! Nobody does unless the setting `create_contacts` says so. The first line that applies decides ([`NoContact`]):
//!
//! | An address | becomes no contact because |
//! | --- | --- |
//! | of anybody, with `never`, the default | the setting says so |
//! | with `sent`: of the sender, or on a mail from outside | nobody inside wrote to it |
//! | that is inside | contacts are people outside |
//! | that any row has, active or not, with or without its tag | it is known |
//! | on bulk mail | nobody wrote to anybody |
//! | of a role ([`crate::role_address`]) | there is no one person behind it |
//! | displayed as `Jane Doe via Kites` | it speaks for many, and their mail would land on one of them |
//! | longer than 100 UTF-16 code units | the column does not hold it |
//!
//! Everybody else does, once, whatever tags the address carries:
//!
//! | Column of `contact` | Is |
//! | --- | --- |
//! | `contactid` | UUIDv5 of the normal form of the address without its tag |
//! | `firstname`, `lastname` | [`name`] |
//! | `emailaddress1` | the address without its tag, spelt as the mail has it |
//! | `parentcustomerid_account@odata.bind` | the company, when there is one |
//!
//! | Column of `account`, where a company's domain has none ([`company`]) | Is |
//! | --- | --- |
//! | `accountid` | UUIDv5 of the registrable domain |
//! | `name` | the registrable domain, as people write it |
//! | `websiteurl` | `https://` and the registrable domain |
//!
//! Ids are derived, so two workers that meet the same new person make one row: the second is told that the key is there (412, 0x80040237), and, once
//! it has read the row by its id, means that one: the code may stand for another key of the organisation as well. The tag is left out of a contact's address because the next mail may carry another; a tagged address finds the plain one ([`crate::parties`]).
//! Owner is the application user. That a row which somebody deleted can be made again under the same key is *inferred*.

pub mod card;
pub mod company;
pub mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use self::company::{Companies, Company};
use self::name::Name;
use crate::dataverse::rows::{Person, Record, Table};
use crate::ids::{EmailAddress, readable_domain};
use crate::mapping::{cut, length};
use crate::message::Message;
use crate::policy::Inside;
use crate::policy::document::{Ambiguous, CreateContacts};
use crate::role_address::is_role_address;

/// The namespace of contacts' ids. Changing it would make everybody a second contact.
const CONTACTS: Uuid = Uuid::from_u128(0x6d61_696c_7665_5273_8000_636f_6e74_6163);

/// The namespace of accounts' ids.
const ACCOUNTS: Uuid = Uuid::from_u128(0x6d61_696c_7665_5273_8000_6163_636f_756e);

/// `emailaddress1`, in UTF-16 code units (Dataverse facts §15.1).
const LONGEST_ADDRESS: usize = 100;

/// `account.name` and `account.websiteurl`, in UTF-16 code units (Dataverse facts §15.1).
const LONGEST_COMPANY_NAME: usize = 160;
const LONGEST_WEBSITE: usize = 200;

/// The key of the contact of an address; its tag, if it has one, does not matter.
#[must_use]
pub fn contact_id(address: &EmailAddress) -> Uuid {
    let plain = address.without_tag();
    let plain = plain.as_ref().unwrap_or(address);
    Uuid::new_v5(&CONTACTS, plain.normal().as_bytes())
}

/// The key of the account of a registrable domain in A-labels.
#[must_use]
pub fn account_id(domain: &str) -> Uuid {
    Uuid::new_v5(&ACCOUNTS, domain.as_bytes())
}

/// Why an address becomes no contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoContact {
    /// The setting makes none.
    Never,
    /// The setting makes one of those that somebody inside wrote to only.
    NotWrittenTo,
    /// It is inside.
    Inside,
    /// A row has it.
    Known,
    /// The mail is bulk mail.
    Bulk,
    /// It is that of a role.
    Role,
    /// It speaks for others.
    OnBehalf,
    /// No contact can hold it.
    TooLong,
}

impl fmt::Display for NoContact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::NotWrittenTo => "not_written_to",
            Self::Inside => "inside",
            Self::Known => "known",
            Self::Bulk => "bulk",
            Self::Role => "role_address",
            Self::OnBehalf => "on_behalf",
            Self::TooLong => "too_long",
        })
    }
}

/// Somebody who is to become a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newcomer {
    /// Without a tag.
    pub address: EmailAddress,
    /// As the mail displays it; may be empty.
    pub name: String,
}

/// Those on a mail who are to become contacts, each once. `bulk`: whether it is bulk mail.
#[must_use]
pub fn newcomers(
    message: &Message,
    inside: &Inside<'_>,
    create: CreateContacts,
    bulk: bool,
) -> Vec<Newcomer> {
    let mut seen = BTreeSet::new();
    let becomes =
        |address: &&EmailAddress| why_not(address, message, inside, create, bulk).is_none();
    let people = message.participants().filter(becomes);
    people
        .map(|address| Newcomer {
            address: address.without_tag().unwrap_or_else(|| address.clone()),
            name: message.names.get(address).cloned().unwrap_or_default(),
        })
        .filter(|newcomer| seen.insert(newcomer.address.clone()))
        .collect()
}

/// Why an address on a mail becomes no contact; `None` when it does.
#[must_use]
pub fn why_not(
    address: &EmailAddress,
    message: &Message,
    inside: &Inside<'_>,
    create: CreateContacts,
    bulk: bool,
) -> Option<NoContact> {
    let was_written_to = || {
        let by_us = message
            .author()
            .is_some_and(|sender| inside.contains(sender));
        let mut recipients = message.to.iter().chain(&message.cc).chain(&message.bcc);
        by_us && recipients.any(|recipient| recipient == address)
    };
    let name = message.names.get(address).map_or("", String::as_str);
    let plain = address.without_tag();
    let plain = plain.as_ref().unwrap_or(address);
    if create == CreateContacts::Never {
        Some(NoContact::Never)
    } else if create == CreateContacts::Sent && !was_written_to() {
        Some(NoContact::NotWrittenTo)
    } else if inside.contains(address) {
        Some(NoContact::Inside)
    } else if !inside.found.people(address).is_empty() {
        Some(NoContact::Known)
    } else if bulk {
        Some(NoContact::Bulk)
    } else if is_role_address(address) {
        Some(NoContact::Role)
    } else if name::is_on_behalf(name) {
        Some(NoContact::OnBehalf)
    } else if length(plain.as_str()) > LONGEST_ADDRESS {
        Some(NoContact::TooLong)
    } else {
        None
    }
}

/// A row to make, if it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRow {
    /// Which.
    pub record: Record,
    /// The body of the POST.
    pub row: Map<String, Value>,
}

/// A contact to make, if it is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewContact {
    /// Whom the row is for.
    pub address: EmailAddress,
    /// The row.
    pub row: NewRow,
    /// The account that the row names.
    pub company: Option<Uuid>,
}

/// The name that binds a contact's company (Dataverse facts §15.1).
const COMPANY: &str = "parentcustomerid_account@odata.bind";

impl NewContact {
    /// Leaves the company out. Says whether there was one to leave out.
    pub fn without_company(&mut self) -> bool {
        self.row.row.remove(COMPANY);
        self.company.take().is_some()
    }

    /// The contact, once it is there, as a look-up would find it.
    #[must_use]
    pub fn person(&self) -> Person {
        Person {
            record: self.row.record,
            active: true,
            account: self.company,
            changed: None,
        }
    }
}

/// What is to be made for some mails: accounts first, since contacts name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each once.
    pub accounts: Vec<NewRow>,
    /// Each once.
    pub contacts: Vec<NewContact>,
}

/// The registrable domains whose companies have to be known before [`plan`].
#[must_use]
pub fn domains<'a>(newcomers: impl IntoIterator<Item = &'a Newcomer>) -> BTreeSet<String> {
    let newcomers = newcomers.into_iter();
    newcomers
        .filter_map(|newcomer| company::domain(&newcomer.address))
        .collect()
}

/// The rows to make for these people. Somebody who is named more than once has the first name that tells anything.
#[must_use]
pub fn plan<'a>(
    newcomers: impl IntoIterator<Item = &'a Newcomer>,
    companies: &Companies,
    ambiguous: Ambiguous,
) -> Plan {
    let mut people: BTreeMap<&EmailAddress, Name> = BTreeMap::new();
    for newcomer in newcomers {
        let name = Name::of(&newcomer.name, &newcomer.address);
        let known = people
            .entry(&newcomer.address)
            .or_insert_with(|| name.clone());
        if !known.is_known() {
            *known = name;
        }
    }
    let mut accounts = BTreeMap::new();
    let mut contacts = Vec::new();
    for (address, name) in people {
        let company = company::domain(address).and_then(|domain| {
            match companies.company(&domain, ambiguous) {
                Company::There(id) => Some(id),
                Company::New => {
                    let account = account(&domain)?;
                    let id = account.record.id;
                    accounts.insert(domain, account);
                    Some(id)
                }
                Company::Ambiguous | Company::Unknown => None,
            }
        });
        contacts.push(contact(address, &name, company));
    }
    Plan {
        accounts: accounts.into_values().collect(),
        contacts,
    }
}

fn contact(address: &EmailAddress, name: &Name, company: Option<Uuid>) -> NewContact {
    let id = contact_id(address);
    let mut row = Map::new();
    row.insert("contactid".to_owned(), json!(id));
    if let Some(first) = &name.first {
        row.insert("firstname".to_owned(), json!(first));
    }
    row.insert("lastname".to_owned(), json!(name.last));
    row.insert("emailaddress1".to_owned(), json!(address.as_str()));
    if let Some(id) = company {
        let table = Table::Account;
        row.insert(COMPANY.to_owned(), json!(Record { table, id }.binding()));
    }
    NewContact {
        address: address.clone(),
        row: NewRow {
            record: Record {
                table: Table::Contact,
                id,
            },
            row,
        },
        company,
    }
}

/// The row of a new company; `None` when no column holds its domain.
fn account(domain: &str) -> Option<NewRow> {
    account_of(domain, &readable_domain(domain))
}

/// The row of a new company that people call so; `None` when no column holds its domain.
fn account_of(domain: &str, name: &str) -> Option<NewRow> {
    let id = account_id(domain);
    let website = format!("https://{domain}");
    if length(&website) > LONGEST_WEBSITE {
        return None;
    }
    let row = [
        ("accountid", json!(id)),
        ("name", json!(cut(name, LONGEST_COMPANY_NAME))),
        ("websiteurl", json!(website)),
    ];
    Some(NewRow {
        record: Record {
            table: Table::Account,
            id,
        },
        row: row
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    })
}

#[cfg(test)]
mod tests;
