//! Tests each line of the tables in the module's documentation. Whole rows are tested by the golden
//! cases in `tests/fixtures/mapping`.

use std::collections::HashSet;

use serde_json::Value;

use super::*;
use crate::clients::nylas::wire;
use crate::lookup::companies::{Accounts, Companies};
use crate::lookup::result::LookupResult;
use crate::mailboxes::Mailboxes;

const OUTSIDE: &str = "jane@kites.example";

/// A message from `from` to `to` in an organisation that knows `known`, where `ours.example` is
/// internal.
struct Case<'a> {
    from: &'a str,
    to: &'a [&'a str],
    known: &'a [&'a str],
    create: CreateContacts,
    bulk: bool,
    name: &'a str,
}

/// A message from an internal sender to an external recipient.
const SENT: Case<'static> = Case {
    from: "ada@ours.example",
    to: &[OUTSIDE],
    known: &[],
    create: CreateContacts::All,
    bulk: false,
    name: "Jane Doe",
};

/// A message from an external sender.
const RECEIVED: Case<'static> = Case {
    from: OUTSIDE,
    to: &["ada@ours.example"],
    ..SENT
};

impl Case<'_> {
    fn look<T>(&self, look: impl FnOnce(&Message, &InternalAddresses<'_>) -> T) -> T {
        let person = |email: &&str| json!({"email": email, "name": self.name});
        let to: Vec<_> = self.to.iter().map(person).collect();
        let message = wire::message(
            &"g".parse().unwrap(),
            &json!({"id": "m", "from": [person(&self.from)], "to": to}),
        );
        let mut found = LookupResult::default();
        for email in self.known {
            found.add_person(EmailAddress::parse(email).unwrap(), inactive());
        }
        let internal = InternalAddresses {
            mailboxes: &Mailboxes::default(),
            found: &found,
            domains: &HashSet::from(["ours.example".to_owned()]),
        };
        look(&message.unwrap_or_else(|e| panic!("{e}")), &internal)
    }

    fn why_not(&self, address: &str) -> Option<NoContact> {
        let address = EmailAddress::parse(address).unwrap();
        self.look(|message, internal| why_not(&address, message, internal, self.create, self.bulk))
    }

    fn new_people(&self) -> Vec<NewPerson> {
        self.look(|message, internal| new_people(message, internal, self.create, self.bulk))
    }
}

fn inactive() -> Person {
    Person {
        record: PartyReference {
            table: Table::Lead,
            id: Uuid::from_u128(1),
        },
        active: false,
        account: None,
        changed: None,
    }
}

#[test]
fn no_contacts_are_created_by_default() {
    let never = Case {
        create: CreateContacts::default(),
        ..SENT
    };
    assert_eq!(never.why_not(OUTSIDE), Some(NoContact::Never));
    assert!(never.new_people().is_empty());
}

#[test]
fn a_recipient_becomes_a_contact_and_a_sender_does_only_with_all() {
    for create in [CreateContacts::Sent, CreateContacts::All] {
        assert_eq!(Case { create, ..SENT }.why_not(OUTSIDE), None);
    }
    let received = |create| Case { create, ..RECEIVED }.why_not(OUTSIDE);
    assert_eq!(received(CreateContacts::All), None);
    assert_eq!(
        received(CreateContacts::Sent),
        Some(NoContact::NotWrittenTo)
    );
}

#[test]
fn with_sent_other_recipients_of_received_mail_do_not_become_contacts() {
    let create = CreateContacts::Sent;
    let to = &["ada@ours.example", "eve@out.example"];
    let received = Case {
        to,
        create,
        ..RECEIVED
    };
    assert_eq!(
        received.why_not("eve@out.example"),
        Some(NoContact::NotWrittenTo)
    );
    let sent = Case { to, create, ..SENT };
    assert_eq!(sent.why_not("eve@out.example"), None);
}

#[test]
fn an_internal_address_does_not_become_a_contact() {
    assert_eq!(SENT.why_not("ada@ours.example"), Some(NoContact::Internal));
    assert_eq!(
        SENT.why_not("ben+x@ours.example"),
        Some(NoContact::Internal)
    );
    assert_eq!(SENT.why_not("ben@sub.ours.example"), None);
}

#[test]
fn an_address_that_any_row_has_does_not_become_a_contact() {
    let known = |known| Case { known, ..SENT }.why_not(OUTSIDE);
    assert_eq!(
        known(&[OUTSIDE]),
        Some(NoContact::Known),
        "an inactive lead is known too"
    );
    assert_eq!(known(&["\"Jane\"@KITES.example"]), Some(NoContact::Known));
    assert_eq!(known(&["jane+x@kites.example", "jan@kites.example"]), None);
    let plain = Case {
        known: &[OUTSIDE],
        ..SENT
    };
    assert_eq!(
        plain.why_not("jane+x@kites.example"),
        Some(NoContact::Known)
    );
}

#[test]
fn bulk_mail_creates_no_contacts() {
    assert_eq!(
        Case {
            bulk: true,
            ..RECEIVED
        }
        .why_not(OUTSIDE),
        Some(NoContact::Bulk)
    );
}

#[test]
fn a_role_address_does_not_become_a_contact() {
    for role in [
        "info@kites.example",
        "no-reply@kites.example",
        "support+42@kites.example",
    ] {
        assert_eq!(SENT.why_not(role), Some(NoContact::Role), "{role}");
    }
    assert_eq!(SENT.why_not("information.jane@kites.example"), None);
}

#[test]
fn a_sender_on_behalf_of_others_does_not_become_a_contact() {
    let via = Case {
        name: "'Jane Doe' via Kites",
        ..RECEIVED
    };
    assert_eq!(via.why_not(OUTSIDE), Some(NoContact::OnBehalf));
    let octavia = Case {
        name: "Octavia Doe",
        ..RECEIVED
    };
    assert_eq!(octavia.why_not(OUTSIDE), None);
}

#[test]
fn an_address_that_is_too_long_does_not_become_a_contact() {
    let of_length = |length: usize| {
        format!(
            "{}@kites.example",
            "x".repeat(length - "@kites.example".len())
        )
    };
    assert_eq!(SENT.why_not(&of_length(100)), None);
    assert_eq!(SENT.why_not(&of_length(101)), Some(NoContact::TooLong));
    let tagged = format!("jane+{}@kites.example", "x".repeat(100));
    assert_eq!(
        SENT.why_not(&tagged),
        None,
        "the address without its tag is short enough"
    );
}

#[test]
fn repeated_and_tagged_addresses_become_one_contact() {
    let to = &[
        "jane+1@kites.example",
        "Jane@kites.example",
        "jane+2@kites.example",
    ];
    let new_people = Case { to, ..SENT }.new_people();
    assert_eq!(new_people.len(), 1);
    assert_eq!(new_people[0].address.as_str(), OUTSIDE);
    assert_eq!(new_people[0].name, "Jane Doe");
}

fn new_person(address: &str, name: &str) -> NewPerson {
    NewPerson {
        address: EmailAddress::parse(address).unwrap(),
        name: name.to_owned(),
    }
}

fn no_accounts(domains: &[&str]) -> Companies {
    let known = domains
        .iter()
        .map(|domain| ((*domain).to_owned(), Accounts::default()));
    Companies(known.collect())
}

#[test]
fn contact_ids_come_from_the_normal_form_and_all_ids_are_pinned() {
    let id = |text: &str| contact_id(&EmailAddress::parse(text).unwrap());
    for same in [
        "JANE@kites.example",
        "\"jane\"@kites.example",
        "jane+x@kites.example",
    ] {
        assert_eq!(id(same), id(OUTSIDE), "{same}");
    }
    assert_ne!(id("jan@kites.example"), id(OUTSIDE));
    // Pinned: with another derivation, every person and every company would be created a second
    // time.
    assert_eq!(
        id(OUTSIDE).to_string(),
        "9b65fed9-de7d-526e-a26a-3987b034e2d0"
    );
    assert_eq!(
        account_id("kites.example").to_string(),
        "14975579-d2d8-5ade-aad9-3d9ca8820f82"
    );
}

#[test]
fn people_of_one_new_company_share_one_account() {
    let people = [
        new_person(OUTSIDE, "Doe, Jane"),
        new_person("eve@mail.kites.example", ""),
    ];
    let plan = plan(
        &people,
        &no_accounts(&["kites.example"]),
        Ambiguous::Unresolved,
    );
    let id = account_id("kites.example");
    assert_eq!(plan.accounts.len(), 1);
    assert_eq!(
        Value::Object(plan.accounts[0].row.clone()),
        json!({"accountid": id, "name": "kites.example", "websiteurl": "https://kites.example"})
    );
    assert_eq!(
        plan.contacts
            .iter()
            .map(|contact| contact.company)
            .collect::<Vec<_>>(),
        [Some(id); 2]
    );
    let jane = plan
        .contacts
        .iter()
        .find(|contact| contact.address == people[0].address)
        .unwrap();
    assert_eq!(
        Value::Object(jane.row.row.clone()),
        json!({
            "contactid": contact_id(&people[0].address), "firstname": "Jane", "lastname": "Doe", "emailaddress1": OUTSIDE,
            "parentcustomerid_account@odata.bind": format!("/accounts({id})"),
        })
    );
}

#[test]
fn a_person_at_a_free_mail_provider_has_no_company() {
    let people = [new_person("jane@gmail.com", "Jane Doe")];
    assert!(domains(&people).is_empty());
    let plan = plan(&people, &Companies::default(), Ambiguous::Unresolved);
    assert!(plan.accounts.is_empty());
    assert!(!plan.contacts[0].row.row.contains_key(COMPANY));
}

#[test]
fn a_company_that_was_not_looked_up_is_neither_set_nor_created() {
    let plan = plan(
        &[new_person(OUTSIDE, "")],
        &Companies::default(),
        Ambiguous::Unresolved,
    );
    assert!(plan.accounts.is_empty() && plan.contacts[0].company.is_none());
}

#[test]
fn the_first_usable_display_name_is_used() {
    let people = [
        new_person(OUTSIDE, OUTSIDE),
        new_person(OUTSIDE, "Jane Doe"),
        new_person(OUTSIDE, "Eve"),
    ];
    let plan = plan(&people, &Companies::default(), Ambiguous::Unresolved);
    assert_eq!(plan.contacts.len(), 1);
    assert_eq!(plan.contacts[0].row.row["lastname"], "Doe");
}

#[test]
fn a_company_is_removed_only_once() {
    let mut plan = plan(
        &[new_person(OUTSIDE, "")],
        &no_accounts(&["kites.example"]),
        Ambiguous::Unresolved,
    );
    let contact = &mut plan.contacts[0];
    assert!(contact.without_company() && !contact.without_company());
    assert!(!contact.row.row.contains_key(COMPANY) && contact.person().account.is_none());
}

#[test]
fn an_international_company_is_named_in_unicode() {
    let people = [new_person("jane@bücher.example", "")];
    let plan = plan(
        &people,
        &no_accounts(&["xn--bcher-kva.example"]),
        Ambiguous::Unresolved,
    );
    let account = &plan.accounts[0].row;
    assert_eq!(account["name"], "bücher.example");
    assert_eq!(account["websiteurl"], "https://xn--bcher-kva.example");
    assert_eq!(
        plan.contacts[0].row.row["emailaddress1"],
        "jane@bücher.example"
    );
}
