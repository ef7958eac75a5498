//! Maps a card of an address book to a contact. Pure.
//!
//! A new contact gets all of these columns. An existing contact gets only those that are empty, so
//! that nothing that people wrote is ever changed.
//!
//! | Column of `contact` | From | Rule |
//! | --- | --- | --- |
//! | `contactid` | the first address | the same id as for contacts created from messages ([`super::contact_id`]), so both use one row |
//! | `firstname`, `lastname` | given name, surname | cut at 50. A new contact without a surname is `Unknown`. If an existing contact has only one of the two, the other is added only if the card agrees with the existing one |
//! | `emailaddress1` to `3` | the first three usable addresses | each without its tag, in the first column that is free; one that the contact has is not written again |
//! | `mobilephone`, `telephone1`, `telephone2` | the first three numbers | by type: mobile, work, home; any other type, or a second number of a type, in the first that is free of `telephone1`, `mobilephone`, `telephone2`, `telephone3` |
//! | `fax` | a number among these whose type contains `fax` | |
//! | `jobtitle` | job title | cut at 100 |
//! | `parentcustomerid` | company name | [`company()`] |
//!
//! An address is usable if it is not a role address and fits its column; a number, if it fits its
//! column. Lengths and columns: Dataverse facts §15.1.
//!
//! A card without a company name has no company. Otherwise the company is, in this order:
//!
//! 1. the only active account with exactly this name, ignoring case; no company if there are
//!    several;
//! 2. the account of the address's registrable domain, if there is one ([`super::company`]);
//! 3. a new account with the key of that domain and the name on the card; never for a domain of a
//!    free mail provider.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::company::{self, Company};
use super::name::{Name, tidy};
use super::{
    COMPANY, LONGEST_ADDRESS, LONGEST_COMPANY_NAME, NewContact, contact, named_account_row,
};
use crate::clients::dataverse::records::{NewRow, PartyReference, Table};
use crate::lookup::companies::Companies;
use crate::model::address::EmailAddress;
use crate::model::contact_card::Card;
use crate::model::role_address::is_role_address;
use crate::model::text::{cut, length};
use crate::policy::document::Ambiguous;

/// The maximum number of addresses, and of numbers, that a contact takes from a card.
const MOST: usize = 3;

const LONGEST_NUMBER: usize = 50;
const LONGEST_JOB_TITLE: usize = 100;

/// The columns that hold addresses.
const ADDRESSES: [&str; 3] = ["emailaddress1", "emailaddress2", "emailaddress3"];

/// The columns that hold numbers, in the order in which they are filled.
const NUMBERS: [&str; 4] = ["telephone1", "mobilephone", "telephone2", "telephone3"];

/// Returns whether a contact belongs to no company and to no other contact.
#[must_use]
pub(crate) fn lacks_company(there: &Map<String, Value>) -> bool {
    is_empty(there, "_parentcustomerid_value")
}

/// Adds a company to the columns that will be written to a contact.
pub(crate) fn add_company(added: &mut Map<String, Value>, company: Uuid) {
    let table = Table::Account;
    let company = PartyReference { table, id: company };
    set(added, COMPANY, &company.binding());
}

/// Why a card has no address that can identify a contact. If the addresses were removed for
/// different reasons, the reason of the last one is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAddress {
    /// The card has no address.
    None,
    /// An address is a role address.
    Role,
    /// An address does not fit the column.
    TooLong,
}

impl Card {
    /// Keeps only the addresses that a contact may have, each once and without its tag.
    ///
    /// # Errors
    /// [`NoAddress`]: no usable address is left. Skip the card, since the same person could not be
    /// recognised the next time.
    pub fn keep_usable(&mut self) -> Result<(), NoAddress> {
        let mut why = NoAddress::None;
        let mut kept: Vec<EmailAddress> = Vec::new();
        for address in &self.addresses {
            let plain = address.without_tag().unwrap_or_else(|| address.clone());
            if is_role_address(&plain) {
                why = NoAddress::Role;
            } else if length(plain.as_str()) > LONGEST_ADDRESS {
                why = NoAddress::TooLong;
            } else if !kept.contains(&plain) {
                kept.push(plain);
            }
        }
        self.addresses = kept;
        if self.addresses.is_empty() {
            return Err(why);
        }
        Ok(())
    }

    /// Returns the name of the card's company; `None` if it has none.
    #[must_use]
    pub fn company(&self) -> Option<String> {
        let name = tidy(&self.company_name);
        let name = cut(&name, LONGEST_COMPANY_NAME).trim_end();
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Returns the registrable domain of the card's company: that of the first address that has
    /// one.
    #[must_use]
    pub fn domain(&self) -> Option<String> {
        self.addresses.iter().find_map(company::domain)
    }

    /// Adds what this card lacks from another card of the same person.
    fn absorb(&mut self, other: Self) {
        if self.given_name.is_empty() && self.surname.is_empty() {
            (self.given_name, self.surname) = (other.given_name, other.surname);
        }
        for address in other.addresses {
            if !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
        self.numbers.extend(other.numbers);
        for (mine, external_row) in [
            (&mut self.job_title, other.job_title),
            (&mut self.company_name, other.company_name),
        ] {
            if mine.is_empty() {
                *mine = external_row;
            }
        }
    }
}

/// The person that a card of an address book belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The person at this index in the list of people.
    Person(usize),
    /// The card has addresses of several people, so it is unknown whose card it is.
    Several,
}

/// Merges the cards of an address book into people: cards that share an address belong to one
/// person. Returns the people and, for each card in order, its person.
///
/// The caller has applied [`Card::keep_usable`] to the cards.
#[must_use]
pub fn people(cards: Vec<Card>) -> (Vec<Card>, Vec<Place>) {
    let mut people: Vec<Card> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut places = Vec::with_capacity(cards.len());
    for card in cards {
        let of: BTreeSet<usize> = card
            .addresses
            .iter()
            .filter_map(|address| known.get(address.normal()).copied())
            .collect();
        let place = match (of.first().copied(), of.len()) {
            (None, _) => people.len(),
            (Some(one), 1) => one,
            (Some(_), _) => {
                places.push(Place::Several);
                continue;
            }
        };
        for address in &card.addresses {
            known.insert(address.normal().to_owned(), place);
        }
        match people.get_mut(place) {
            Some(person) => person.absorb(card),
            None => people.push(card),
        }
        places.push(Place::Person(place));
    }
    (people, places)
}

/// The company that a contact will have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CardCompany {
    /// The account exists.
    There(Uuid),
    /// The account has to be created.
    New(NewRow),
    /// No company, or it is unknown which one is meant.
    None,
}

/// Returns the company of a card. `named`: the active accounts with exactly the name on the card.
#[must_use]
pub fn company(
    card: &Card,
    named: &BTreeSet<Uuid>,
    companies: &Companies,
    ambiguous: Ambiguous,
) -> CardCompany {
    let Some(name) = card.company() else {
        return CardCompany::None;
    };
    match (named.first(), named.len()) {
        (Some(one), 1) => return CardCompany::There(*one),
        (Some(_), _) => return CardCompany::None,
        (None, _) => {}
    }
    let Some(domain) = card.domain() else {
        return CardCompany::None;
    };
    match company::of_domain(companies, &domain, ambiguous) {
        Company::There(id) => CardCompany::There(id),
        Company::New => {
            named_account_row(&domain, &name).map_or(CardCompany::None, CardCompany::New)
        }
        Company::Ambiguous | Company::Unknown => CardCompany::None,
    }
}

/// Returns the contact to create from a card; `None` if the card has no usable address.
#[must_use]
pub fn new_contact(card: &Card, company: Option<Uuid>) -> Option<NewContact> {
    let address = card.addresses.first()?;
    let name = Name::of_parts(&card.given_name, &card.surname);
    let mut made = contact(address, &name, company);
    for (column, value) in missing(card, &Map::new()) {
        made.row.row.entry(column).or_insert(value);
    }
    Some(made)
}

/// Returns the columns that a card can add to an existing contact, except its company. `there`: the
/// contact's values of [`COLUMNS`](crate::lookup::contact_rows::COLUMNS).
#[must_use]
pub fn missing(card: &Card, there: &Map<String, Value>) -> Map<String, Value> {
    let mut added = Map::new();
    add_names(card, there, &mut added);
    add_addresses(card, there, &mut added);
    add_numbers(card, there, &mut added);
    let job_title = tidy(&card.job_title);
    if is_empty(there, "jobtitle") && !job_title.is_empty() {
        set(&mut added, "jobtitle", cut(&job_title, LONGEST_JOB_TITLE));
    }
    added
}

fn add_names(card: &Card, there: &Map<String, Value>, added: &mut Map<String, Value>) {
    let name = Name::of_parts(&card.given_name, &card.surname);
    let first = name.first.clone().unwrap_or_default();
    let last = if tidy(&card.surname).is_empty() {
        String::new()
    } else {
        name.last
    };
    let same =
        |column: &str, text: &str| value(there, column).to_lowercase() == text.to_lowercase();
    let (no_first, no_last) = (is_empty(there, "firstname"), is_empty(there, "lastname"));
    if no_first && !first.is_empty() && (no_last || same("lastname", &last)) {
        set(added, "firstname", &first);
    }
    if no_last && !last.is_empty() && (no_first || same("firstname", &first)) {
        set(added, "lastname", &last);
    }
}

fn add_addresses(card: &Card, there: &Map<String, Value>, added: &mut Map<String, Value>) {
    let has = |address: &EmailAddress| {
        ADDRESSES
            .iter()
            .filter_map(|column| EmailAddress::parse(value(there, column)))
            .any(|known| known == *address)
    };
    let mut free = ADDRESSES.iter().filter(|column| is_empty(there, column));
    for address in card.addresses.iter().take(MOST).filter(|one| !has(one)) {
        let Some(column) = free.next() else { return };
        set(added, column, address.as_str());
    }
}

fn add_numbers(card: &Card, there: &Map<String, Value>, added: &mut Map<String, Value>) {
    let mut known: Vec<String> = NUMBERS
        .iter()
        .chain(&["fax"])
        .map(|column| digits(value(there, column)))
        .filter(|number| !number.is_empty())
        .collect();
    let numbers = card
        .numbers
        .iter()
        .map(|one| (tidy(&one.number), &one.kind));
    let usable = numbers.filter(|(number, _)| {
        number.chars().any(|c| c.is_ascii_digit()) && length(number) <= LONGEST_NUMBER
    });
    for (number, kind) in usable.take(MOST) {
        let same = digits(&number);
        if known.contains(&same) {
            continue;
        }
        let is_free = |column: &&&str| is_empty(there, column) && !added.contains_key(**column);
        let preferred = preferred(kind);
        let column = preferred.iter().find(is_free).or_else(|| {
            let is_fax = preferred.contains(&"fax");
            NUMBERS.iter().filter(|_| !is_fax).find(is_free)
        });
        if let Some(column) = column.copied() {
            set(added, column, &number);
            known.push(same);
        }
    }
}

/// Returns the column for a type of number. The types are those that address books use; Nylas
/// documents none (Nylas facts §12).
fn preferred(kind: &str) -> &'static [&'static str] {
    let kind = kind.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| kind.contains(word));
    if says(&["fax"]) {
        &["fax"]
    } else if says(&["mobile", "cell"]) {
        &["mobilephone"]
    } else if says(&["work", "business", "company"]) {
        &["telephone1"]
    } else if says(&["home"]) {
        &["telephone2"]
    } else {
        &[]
    }
}

fn digits(number: &str) -> String {
    number.chars().filter(char::is_ascii_digit).collect()
}

fn value<'a>(row: &'a Map<String, Value>, column: &str) -> &'a str {
    row.get(column).and_then(Value::as_str).unwrap_or_default()
}

/// Returns whether a column is empty. A value that is not a text counts as present, since this
/// module cannot judge it.
fn is_empty(row: &Map<String, Value>, column: &str) -> bool {
    match row.get(column) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.trim().is_empty(),
        Some(_) => false,
    }
}

fn set(row: &mut Map<String, Value>, column: &str, text: &str) {
    row.insert(column.to_owned(), Value::from(text));
}

#[cfg(test)]
mod tests;
