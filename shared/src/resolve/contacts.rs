//! Decides which participants become contacts, and of which company. Pure: a message and the lookup
//! result in, rows out.
//!
//! No contact is created unless the setting `create_contacts` allows it. The first line that
//! applies decides ([`NoContact`]):
//!
//! | An address | becomes no contact because |
//! | --- | --- |
//! | of anyone, with `never`, the default | the setting does not allow it |
//! | with `sent`: of the sender, or on a message from an external sender | no internal sender wrote to it |
//! | that is internal | contacts are external people |
//! | that any row has, active or not, with or without its tag | it is known |
//! | on bulk mail | bulk mail is not personal correspondence |
//! | of a role ([`crate::model::role_address`]) | it does not belong to one person |
//! | displayed as `Jane Doe via Kites` | it sends for many people, whose email would all be assigned to one contact |
//! | longer than 100 UTF-16 code units | the column does not hold it |
//!
//! Every other address becomes one contact, whatever tags it has:
//!
//! | Column of `contact` | Value |
//! | --- | --- |
//! | `contactid` | UUIDv5 of the normalised address without its tag |
//! | `firstname`, `lastname` | [`name`] |
//! | `emailaddress1` | the address without its tag, spelt as in the message |
//! | `parentcustomerid_account@odata.bind` | the company, if there is one |
//!
//! | Column of `account`, if no account has the company's domain ([`company`]) | Value |
//! | --- | --- |
//! | `accountid` | UUIDv5 of the registrable domain |
//! | `name` | the registrable domain, as people write it |
//! | `websiteurl` | `https://` and the registrable domain |
//!
//! Ids are derived, so two workers that process the same new person create one row. The second gets
//! 412 with 0x80040237: the key exists. It then reads the row by its id to make sure, because the
//! code may also refer to another key of the organisation. A contact's address has no tag, because
//! the next message may have another tag; a tagged address finds the row of the plain one
//! ([`crate::resolve::parties`]). The owner is the application user. That a deleted row can be
//! created again under the same key is *inferred*.

pub mod card;
pub mod company;
pub mod name;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, json};
use uuid::Uuid;

use self::company::Company;
use self::name::Name;
use crate::clients::dataverse::records::{NewRow, PartyReference, Person, Table};
use crate::lookup::companies::Companies;
use crate::model::address::{EmailAddress, readable_domain};
use crate::model::message::Message;
use crate::model::role_address::is_role_address;
use crate::model::text::{cut, length};
use crate::policy::InternalAddresses;
use crate::policy::document::{Ambiguous, CreateContacts};

/// The namespace of contact ids. Changing it would create a second contact for every person.
const CONTACTS: Uuid = Uuid::from_u128(0x6d61_696c_7665_5273_8000_636f_6e74_6163);

/// The namespace of account ids.
const ACCOUNTS: Uuid = Uuid::from_u128(0x6d61_696c_7665_5273_8000_6163_636f_756e);

/// Maximum length of `emailaddress1`, in UTF-16 code units (Dataverse facts §15.1).
const LONGEST_ADDRESS: usize = 100;

/// Maximum lengths of `account.name` and `account.websiteurl`, in UTF-16 code units (Dataverse
/// facts §15.1).
const LONGEST_COMPANY_NAME: usize = 160;
const LONGEST_WEBSITE: usize = 200;

/// Returns the key of the contact with an address. The address's tag, if any, is ignored.
#[must_use]
pub fn contact_id(address: &EmailAddress) -> Uuid {
    let plain = address.without_tag();
    let plain = plain.as_ref().unwrap_or(address);
    Uuid::new_v5(&CONTACTS, plain.normal().as_bytes())
}

/// Returns the key of the account of a registrable domain in A-labels.
#[must_use]
pub fn account_id(domain: &str) -> Uuid {
    Uuid::new_v5(&ACCOUNTS, domain.as_bytes())
}

/// Why an address becomes no contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoContact {
    /// The setting creates no contacts.
    Never,
    /// The setting only creates contacts for addresses that an internal sender wrote to.
    NotWrittenTo,
    /// The address is internal.
    Internal,
    /// A row has the address.
    Known,
    /// The message is bulk mail.
    Bulk,
    /// The address is a role address.
    Role,
    /// The address sends on behalf of others.
    OnBehalf,
    /// The address does not fit the column.
    TooLong,
}

impl fmt::Display for NoContact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::NotWrittenTo => "not_written_to",
            Self::Internal => "inside",
            Self::Known => "known",
            Self::Bulk => "bulk",
            Self::Role => "role_address",
            Self::OnBehalf => "on_behalf",
            Self::TooLong => "too_long",
        })
    }
}

/// A participant for whom a contact will be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPerson {
    /// The address without a tag.
    pub address: EmailAddress,
    /// The display name in the message; may be empty.
    pub name: String,
}

/// Returns the participants of a message for whom contacts will be created, each once. `bulk`:
/// whether it is bulk mail.
#[must_use]
pub fn new_people(
    message: &Message,
    internal: &InternalAddresses<'_>,
    create: CreateContacts,
    bulk: bool,
) -> Vec<NewPerson> {
    let mut seen = BTreeSet::new();
    let becomes =
        |address: &&EmailAddress| why_not(address, message, internal, create, bulk).is_none();
    let people = message.participants().filter(becomes);
    people
        .map(|address| NewPerson {
            address: address.without_tag().unwrap_or_else(|| address.clone()),
            name: message.names.get(address).cloned().unwrap_or_default(),
        })
        .filter(|new_person| seen.insert(new_person.address.clone()))
        .collect()
}

/// Returns why an address on a message becomes no contact; `None` if it becomes one.
#[must_use]
pub(crate) fn why_not(
    address: &EmailAddress,
    message: &Message,
    internal: &InternalAddresses<'_>,
    create: CreateContacts,
    bulk: bool,
) -> Option<NoContact> {
    let was_written_to = || {
        let by_us = message
            .author()
            .is_some_and(|sender| internal.contains(sender));
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
    } else if internal.contains(address) {
        Some(NoContact::Internal)
    } else if !internal.found.people(address).is_empty() {
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

/// A contact to create, unless it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewContact {
    /// The address that the contact is created for.
    pub address: EmailAddress,
    /// The row to create.
    pub row: NewRow,
    /// The account that the row is bound to; `None` if it is bound to none.
    pub company: Option<Uuid>,
}

/// The property that binds a contact's company (Dataverse facts §15.1).
const COMPANY: &str = "parentcustomerid_account@odata.bind";

impl NewContact {
    /// Removes the company from the row. Returns whether there was one.
    pub fn without_company(&mut self) -> bool {
        self.row.row.remove(COMPANY);
        self.company.take().is_some()
    }

    /// Returns the created contact as a lookup would find it.
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

/// The rows to create for a batch of messages. Accounts are created first, since contacts are bound
/// to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Each account once.
    pub accounts: Vec<NewRow>,
    /// Each contact once.
    pub contacts: Vec<NewContact>,
}

/// Returns the registrable domains whose companies have to be looked up before [`plan`].
#[must_use]
pub fn domains<'a>(new_people: impl IntoIterator<Item = &'a NewPerson>) -> BTreeSet<String> {
    let new_people = new_people.into_iter();
    new_people
        .filter_map(|new_person| company::domain(&new_person.address))
        .collect()
}

/// Returns the rows to create for these participants. If an address occurs several times, its first
/// usable name is taken.
#[must_use]
pub fn plan<'a>(
    new_people: impl IntoIterator<Item = &'a NewPerson>,
    companies: &Companies,
    ambiguous: Ambiguous,
) -> Plan {
    let mut people: BTreeMap<&EmailAddress, Name> = BTreeMap::new();
    for new_person in new_people {
        let name = Name::of(&new_person.name, &new_person.address);
        let known = people
            .entry(&new_person.address)
            .or_insert_with(|| name.clone());
        if !known.is_known() {
            *known = name;
        }
    }
    let mut accounts = BTreeMap::new();
    let mut contacts = Vec::new();
    for (address, name) in people {
        let company = company::domain(address).and_then(|domain| {
            match company::of_domain(companies, &domain, ambiguous) {
                Company::There(id) => Some(id),
                Company::New => {
                    let account = new_account_row(&domain)?;
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
        row.insert(
            COMPANY.to_owned(),
            json!(PartyReference { table, id }.binding()),
        );
    }
    NewContact {
        address: address.clone(),
        row: NewRow {
            record: PartyReference {
                table: Table::Contact,
                id,
            },
            row,
        },
        company,
    }
}

/// Returns the row of a new company; `None` if its domain does not fit the column.
fn new_account_row(domain: &str) -> Option<NewRow> {
    named_account_row(domain, &readable_domain(domain))
}

/// Returns the row of a new company with this name; `None` if its domain does not fit the column.
fn named_account_row(domain: &str, name: &str) -> Option<NewRow> {
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
        record: PartyReference {
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
