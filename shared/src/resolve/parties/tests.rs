//! Tests each line of the tables in the module's documentation.

use std::collections::HashSet;

use chrono::DateTime;
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::clients::dataverse::records::Table;
use crate::clients::nylas::wire;
use crate::mailboxes::Mailboxes;

fn person(table: Table, id: u128, active: bool) -> Person {
    Person {
        record: PartyReference {
            table,
            id: Uuid::from_u128(id),
        },
        active,
        account: None,
        changed: None,
    }
}

/// Returns the parties of a message from `from` to `to`, in an organisation where Ada's mailbox has
/// an alias.
fn parties(from: &str, to: &[&str], known: &[(&str, Person)], ambiguous: Ambiguous) -> Vec<Party> {
    let to: Vec<_> = to.iter().map(|email| json!({"email": email})).collect();
    let message = wire::message(
        &"g".parse().unwrap(),
        &json!({"id": "m", "from": [{"email": from}], "to": to}),
    );
    let grant =
        json!({"id": "g", "email": "ada@ours.example", "email_aliases": ["sales@ours.example"]});
    let mut found = LookupResult::default();
    for (email, person) in known {
        found.add_person(EmailAddress::parse(email).unwrap(), person.clone());
    }
    let internal = InternalAddresses {
        mailboxes: &Mailboxes::new(&[wire::grant(&grant).unwrap()]),
        found: &found,
        domains: &HashSet::new(),
    };
    of_message(
        &message.unwrap_or_else(|e| panic!("{e}")),
        &internal,
        ambiguous,
    )
}

fn ids(parties: &[Party]) -> Vec<(u8, Option<u128>)> {
    let id = |party: &Party| party.record.map(|record| record.id.as_u128());
    parties
        .iter()
        .map(|party| (party.role.mask(), id(party)))
        .collect()
}

fn dated(id: u128, active: bool, seconds: i64) -> Person {
    Person {
        changed: DateTime::from_timestamp(seconds, 0),
        ..person(Table::Contact, id, active)
    }
}

#[test]
fn the_setting_decides_which_of_several_rows_are_chosen() {
    let known = [
        ("eve@out.example", dated(1, true, 10)),
        ("eve@out.example", dated(2, true, 20)),
        ("eve@out.example", dated(3, false, 30)),
        ("eve@out.example", person(Table::Account, 4, true)),
    ];
    let to = |ambiguous| {
        let parties = parties("x@out.example", &["eve@out.example"], &known, ambiguous);
        let resolution = parties[1].resolution.clone();
        let candidates = resolution
            .candidates
            .iter()
            .map(|record| record.id.as_u128());
        assert_eq!(
            candidates.collect::<Vec<_>>(),
            [1, 2, 3, 4],
            "all rows are recorded as candidates"
        );
        (ids(&parties[1..]), resolution.choice)
    };
    assert_eq!(
        to(Ambiguous::Unresolved),
        (vec![(2, None)], Choice::Ambiguous)
    );
    assert_eq!(
        to(Ambiguous::MostRecent),
        (vec![(2, Some(2))], Choice::MostRecent)
    );
    assert_eq!(
        to(Ambiguous::All),
        (vec![(2, Some(1)), (2, Some(2))], Choice::All)
    );
}

#[test]
fn a_single_active_row_is_chosen_with_every_setting() {
    let known = [
        ("eve@out.example", person(Table::Contact, 1, true)),
        ("eve@out.example", person(Table::Contact, 2, false)),
    ];
    for ambiguous in [Ambiguous::Unresolved, Ambiguous::MostRecent, Ambiguous::All] {
        let parties = parties("eve@out.example", &["x@out.example"], &known, ambiguous);
        assert_eq!(ids(&parties), [(1, Some(1)), (2, None)]);
        assert_eq!(parties[0].resolution.choice, Choice::Only);
        assert_eq!(parties[1].resolution.choice, Choice::Unknown);
    }
}

#[test]
fn a_message_has_one_sender_even_if_several_rows_share_the_address() {
    let known = [
        ("eve@out.example", dated(1, true, 20)),
        ("eve@out.example", dated(2, true, 10)),
    ];
    let parties = parties(
        "eve@out.example",
        &["eve@out.example"],
        &known,
        Ambiguous::All,
    );
    assert_eq!(ids(&parties), [(1, Some(1)), (2, Some(1)), (2, Some(2))]);
    assert_eq!(parties[0].resolution.choice, Choice::MostRecent);
}

#[test]
fn rows_without_a_change_date_are_ordered_by_their_key() {
    let known = [
        ("eve@out.example", person(Table::Contact, 7, true)),
        ("eve@out.example", person(Table::Contact, 5, true)),
        ("eve@out.example", person(Table::Contact, 6, true)),
    ];
    let parties = parties(
        "x@out.example",
        &["eve@out.example"],
        &known,
        Ambiguous::MostRecent,
    );
    assert_eq!(ids(&parties[1..]), [(2, Some(5))]);
}

#[test]
fn an_alias_resolves_to_the_user_of_its_mailbox_with_or_without_a_tag() {
    let known = [
        ("ada@ours.example", person(Table::SystemUser, 1, true)),
        ("sales@ours.example", person(Table::Contact, 2, true)),
    ];
    let to = [
        "ada+news@ours.example",
        "sales+x@ours.example",
        "sale@ours.example",
    ];
    let parties = parties("sales@ours.example", &to, &known, Ambiguous::Unresolved);
    assert_eq!(
        ids(&parties),
        [(1, Some(1)), (2, Some(1)), (2, Some(1)), (2, None)]
    );
    assert_eq!(parties[0].resolution.matched, Match::Mailbox);
    assert_eq!(
        parties[0].address.as_str(),
        "sales@ours.example",
        "the party has the address as written"
    );
}

#[test]
fn an_alias_of_an_unknown_mailbox_resolves_to_the_row_with_the_alias() {
    let known = [("sales@ours.example", person(Table::Queue, 2, true))];
    let parties = parties(
        "eve@out.example",
        &["sales@ours.example"],
        &known,
        Ambiguous::Unresolved,
    );
    assert_eq!(ids(&parties[1..]), [(2, Some(2))]);
    assert_eq!(parties[1].resolution.matched, Match::Exact);
}

#[test]
fn a_tag_is_ignored_only_if_no_row_has_the_tagged_address() {
    let known = [
        ("eve@out.example", person(Table::Contact, 1, true)),
        ("eve+kites@out.example", person(Table::Contact, 2, true)),
    ];
    let to = ["eve+other@out.example", "eve+kites@out.example"];
    let parties = parties("x@out.example", &to, &known, Ambiguous::Unresolved);
    assert_eq!(ids(&parties[1..]), [(2, Some(1)), (2, Some(2))]);
    let matched: Vec<_> = parties
        .iter()
        .map(|party| party.resolution.matched)
        .collect();
    assert_eq!(matched, [Match::Exact, Match::WithoutTag, Match::Exact]);
}

fn resolved(people: &[Person]) -> Option<u128> {
    let mut found = LookupResult::default();
    let address = EmailAddress::parse("x@example.com").unwrap();
    for person in people {
        found.add_person(address.clone(), person.clone());
    }
    resolve(found.people(&address)).map(|person| person.record.id.as_u128())
}

#[test]
fn an_address_resolves_to_the_first_table_that_has_it() {
    let everywhere = [
        person(Table::Account, 5, true),
        person(Table::Lead, 4, true),
        person(Table::Contact, 3, true),
        person(Table::Queue, 2, true),
        person(Table::SystemUser, 1, true),
    ];
    for from in 0..5 {
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
fn every_recipient_is_listed_once_for_each_role() {
    let message = wire::message(
        &"g".parse().unwrap(),
        &json!({
            "id": "m", "from": [{"email": "a@x.example"}], "to": [{"email": "b@x.example"}, {"email": "B@x.example"}, {"email": "a@x.example"}],
            "cc": [{"email": "b@x.example"}], "bcc": [{"email": "c@x.example"}],
        }),
    );
    let internal = InternalAddresses {
        mailboxes: &Mailboxes::default(),
        found: &LookupResult::default(),
        domains: &HashSet::new(),
    };
    let message = message.unwrap_or_else(|e| panic!("{e}"));
    let parties = of_message(&message, &internal, Ambiguous::Unresolved);
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
