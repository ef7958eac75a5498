//! Which record a mail concerns. Pure.
//!
//! Of the people outside, in the order sender, To, Cc, Bcc, the first hit of:
//!
//! 1. a contact that the address belongs to;
//! 2. the company that several contacts of one address share;
//! 3. an account that the address belongs to.
//!
//! Nothing of these: empty, never a guess. The order is that of the mail, so the answer is the same for every mailbox's copy. One thing can differ:
//! Bcc stands in the sender's copy only, so it is asked last.

use uuid::Uuid;

use crate::dataverse::look_up::Found;
use crate::dataverse::rows::{Person, Record, Table};
use crate::message::Message;
use crate::parties;
use crate::policy::Inside;

/// The record that a mail concerns, if one is known.
#[must_use]
pub fn of_message(message: &Message, found: &Found, inside: &Inside<'_>) -> Option<Record> {
    let outside: Vec<&[Person]> = message
        .participants()
        .filter(|address| !inside.contains(address))
        .map(|address| found.people(address))
        .collect();
    let belongs_to = |table| {
        let resolved = outside
            .iter()
            .filter_map(|people| parties::resolve(people))
            .map(|person| person.record);
        resolved.filter(move |record| record.table == table)
    };
    let shared_company = || {
        outside
            .iter()
            .find_map(|people| company_of_namesakes(people))
    };
    belongs_to(Table::Contact)
        .next()
        .or_else(|| {
            shared_company().map(|id| Record {
                table: Table::Account,
                id,
            })
        })
        .or_else(|| belongs_to(Table::Account).next())
}

/// The one company of several active contacts that share an address.
fn company_of_namesakes(people: &[Person]) -> Option<Uuid> {
    let mut companies = people
        .iter()
        .filter(|p| p.active && p.record.table == Table::Contact)
        .map(|contact| contact.account);
    let first = companies.next()??;
    companies
        .all(|company| company == Some(first))
        .then_some(first)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;
    use crate::ids::EmailAddress;
    use crate::mailboxes::Mailboxes;
    use crate::nylas::wire;

    fn person(table: Table, id: u128, account: Option<u128>) -> Person {
        Person {
            record: Record {
                table,
                id: Uuid::from_u128(id),
            },
            active: true,
            account: account.map(Uuid::from_u128),
            changed: None,
        }
    }

    /// The regarding of a mail from `from` to `to`, where `ours.example` is inside.
    fn regarding(from: &str, to: &[&str], known: &[(&str, Person)]) -> Option<(Table, u128)> {
        let to: Vec<_> = to.iter().map(|email| json!({"email": email})).collect();
        let message = wire::message(
            &"g".parse().unwrap(),
            &json!({"id": "m", "from": [{"email": from}], "to": to}),
        );
        let mut found = Found::default();
        for (email, person) in known {
            found.add_person(EmailAddress::parse(email).unwrap(), person.clone());
        }
        let domains = HashSet::from(["ours.example".to_owned()]);
        let inside = Inside {
            mailboxes: &Mailboxes::default(),
            found: &found,
            domains: &domains,
        };
        let record = of_message(&message.unwrap_or_else(|e| panic!("{e}")), &found, &inside)?;
        Some((record.table, record.id.as_u128()))
    }

    #[test]
    fn a_contact_outside_is_the_regarding_whoever_wrote() {
        let known = [("eve@out.example", person(Table::Contact, 1, Some(9)))];
        assert_eq!(
            regarding("eve@out.example", &["ada@ours.example"], &known),
            Some((Table::Contact, 1))
        );
        assert_eq!(
            regarding(
                "ada@ours.example",
                &["x@out.example", "eve@out.example"],
                &known
            ),
            Some((Table::Contact, 1))
        );
    }

    #[test]
    fn the_sender_comes_before_the_recipients_and_a_contact_before_an_account() {
        let known = [
            ("info@out.example", person(Table::Account, 5, None)),
            ("a@out.example", person(Table::Contact, 1, None)),
            ("b@out.example", person(Table::Contact, 2, None)),
        ];
        assert_eq!(
            regarding(
                "b@out.example",
                &["a@out.example", "ada@ours.example"],
                &known
            ),
            Some((Table::Contact, 2))
        );
        assert_eq!(
            regarding("info@out.example", &["a@out.example"], &known),
            Some((Table::Contact, 1))
        );
        assert_eq!(
            regarding("info@out.example", &["ada@ours.example"], &known),
            Some((Table::Account, 5))
        );
    }

    #[test]
    fn contacts_that_share_an_address_and_a_company_stand_for_the_company() {
        let one = [
            ("eve@out.example", person(Table::Contact, 1, Some(9))),
            ("eve@out.example", person(Table::Contact, 2, Some(9))),
        ];
        assert_eq!(
            regarding("eve@out.example", &["ada@ours.example"], &one),
            Some((Table::Account, 9))
        );
        let two = [
            ("eve@out.example", person(Table::Contact, 1, Some(9))),
            ("eve@out.example", person(Table::Contact, 2, Some(8))),
        ];
        assert_eq!(
            regarding("eve@out.example", &["ada@ours.example"], &two),
            None
        );
    }

    #[test]
    fn people_inside_leads_and_strangers_are_no_regarding() {
        let known = [
            ("ada@ours.example", person(Table::Contact, 1, None)),
            ("lead@out.example", person(Table::Lead, 2, None)),
        ];
        assert_eq!(
            regarding(
                "ada@ours.example",
                &["lead@out.example", "x@out.example"],
                &known
            ),
            None
        );
    }
}
