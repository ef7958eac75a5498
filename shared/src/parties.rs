//! Who the people on a mail are: the activity parties. Pure.
//!
//! Each address becomes one party for each role (mask) that it has: sender 1, To 2, Cc 3, Bcc 4. Where the organisation knows the address,
//! the party is bound to that row; where it does not, or where several rows claim it, the party is the address alone.
//!
//! | An address that is found on | is |
//! | --- | --- |
//! | one active row of the first table that has any (user, contact, account, lead) | that row |
//! | several active rows of that table | unresolved: nobody can tell which |
//! | inactive rows only | the first of them, by the same rule |
//! | nothing | unresolved |

use crate::dataverse::look_up::Found;
use crate::dataverse::rows::{Person, Record};
use crate::ids::EmailAddress;
use crate::message::Message;

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
}

/// The parties of a mail: sender, To, Cc, Bcc, each in the mail's order.
#[must_use]
pub fn of_message(message: &Message, found: &Found) -> Vec<Party> {
    let roles = [
        (Role::Sender, message.from.as_slice()),
        (Role::To, message.to.as_slice()),
        (Role::Cc, message.cc.as_slice()),
        (Role::Bcc, message.bcc.as_slice()),
    ];
    let party = |role, address: &EmailAddress| Party {
        role,
        address: address.clone(),
        record: resolve(found.people(address)).map(|person| person.record),
    };
    roles
        .into_iter()
        .flat_map(|(role, addresses)| addresses.iter().map(move |address| party(role, address)))
        .collect()
}

/// The one row that an address belongs to, of those that have it in order of precedence.
#[must_use]
pub fn resolve(people: &[Person]) -> Option<&Person> {
    let first = people
        .iter()
        .find(|person| person.active)
        .or_else(|| people.first())?;
    let same = |person: &&Person| {
        person.record.table == first.record.table && person.active == first.active
    };
    (people.iter().filter(same).count() == 1).then_some(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::dataverse::rows::Table;
    use crate::nylas::wire;

    fn person(table: Table, id: u128, active: bool) -> Person {
        Person {
            record: Record {
                table,
                id: Uuid::from_u128(id),
            },
            active,
            account: None,
        }
    }

    fn resolved(people: &[Person]) -> Option<u128> {
        let mut found = Found::default();
        let address = EmailAddress::parse("x@example.com").unwrap();
        for person in people {
            found.add_person(address.clone(), person.clone());
        }
        resolve(found.people(&address)).map(|person| person.record.id.as_u128())
    }

    #[test]
    fn the_first_table_that_knows_an_address_has_it() {
        let everywhere = [
            person(Table::Lead, 4, true),
            person(Table::Account, 3, true),
            person(Table::Contact, 2, true),
            person(Table::SystemUser, 1, true),
        ];
        for from in 0..4 {
            let expected = everywhere[..=from]
                .iter()
                .map(|p| p.record.id.as_u128())
                .min();
            assert_eq!(resolved(&everywhere[..=from]), expected);
        }
        assert_eq!(resolved(&[]), None);
    }

    #[test]
    fn an_active_row_comes_before_an_inactive_one_of_any_table() {
        assert_eq!(
            resolved(&[
                person(Table::SystemUser, 1, false),
                person(Table::Contact, 2, true)
            ]),
            Some(2)
        );
        assert_eq!(
            resolved(&[
                person(Table::Contact, 1, false),
                person(Table::Contact, 2, true)
            ]),
            Some(2)
        );
        assert_eq!(
            resolved(&[
                person(Table::Contact, 1, false),
                person(Table::Lead, 2, false)
            ]),
            Some(1)
        );
    }

    #[test]
    fn two_rows_of_one_table_leave_the_address_unresolved() {
        assert_eq!(
            resolved(&[
                person(Table::Contact, 1, true),
                person(Table::Contact, 2, true),
                person(Table::Lead, 3, true)
            ]),
            None
        );
    }

    #[test]
    fn every_recipient_is_there_once_for_each_role() {
        let message = wire::message(
            &"g".parse().unwrap(),
            &json!({
                "id": "m", "from": [{"email": "a@x.example"}], "to": [{"email": "b@x.example"}, {"email": "B@x.example"}, {"email": "a@x.example"}],
                "cc": [{"email": "b@x.example"}], "bcc": [{"email": "c@x.example"}],
            }),
        );
        let parties = of_message(
            &message.unwrap_or_else(|e| panic!("{e}")),
            &Found::default(),
        );
        let shown: Vec<(u8, &str)> = parties
            .iter()
            .map(|party| (party.role.mask(), party.address.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                (1, "a@x.example"),
                (2, "b@x.example"),
                (2, "a@x.example"),
                (3, "b@x.example"),
                (4, "c@x.example")
            ]
        );
    }
}
