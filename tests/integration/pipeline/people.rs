//! Tests the activity parties, the regarding and the owner of an email.

use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::policy::document::Ambiguous;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::test_organisation::{
    ADA, BEN, CREATE, TestOrganisation, assert_skipped, bound, nylas_message, people, status,
    to_row, unbound, written,
};

in_both_write_modes!(
    known_people_are_bound_and_unknown_people_are_stored_as_addresses,
    an_address_is_found_in_every_address_column,
    an_address_that_two_contacts_share_is_bound_to_neither,
    contacts_that_share_an_address_and_an_account_give_the_account_as_regarding,
    an_address_with_special_characters_is_looked_up_unchanged,
    the_regarding_is_the_lead_before_the_contact_before_the_account,
    the_row_of_a_mailbox_without_a_user_is_owned_by_the_application_user,
    the_owner_is_the_user_of_the_mailbox_and_not_of_the_sender,
    a_disabled_user_of_the_mailbox_does_not_own_the_row,
    an_alias_is_bound_to_the_user_of_its_mailbox,
    a_queue_is_bound_and_internal,
    a_lead_takes_precedence_over_an_account,
    an_international_address_is_found_in_either_spelling,
    a_tagged_address_resolves_to_the_plain_one_if_no_record_has_it,
    of_several_contacts_the_policy_binds_none_the_latest_or_all,
);

async fn known_people_are_bound_and_unknown_people_are_stored_as_addresses(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let to = [
        "Ada@OURS.example",
        "info@kites.example",
        "stranger@nowhere.example",
    ];
    let message = json!({
        "to": people(&to), "cc": people(&["lea@prospects.example", "carol@kites.example"]), "bcc": people(&["ben@ours.example"]),
    });
    organisation.put(ADA, nylas_message("m1", &message));
    written(&organisation.deliver_one(ADA, "m1").await);
    let expected = [
        bound(
            1,
            "carol@kites.example",
            "contact",
            organisation.people.carol,
        ),
        bound(2, "ada@ours.example", "systemuser", organisation.people.ada),
        bound(
            2,
            "info@kites.example",
            "account",
            organisation.people.kites,
        ),
        unbound(2, "stranger@nowhere.example"),
        bound(3, "lea@prospects.example", "lead", organisation.people.lea),
        bound(
            3,
            "carol@kites.example",
            "contact",
            organisation.people.carol,
        ),
        bound(4, "ben@ours.example", "systemuser", organisation.people.ben),
    ];
    assert_eq!(organisation.parties(), expected);
    assert_eq!(
        organisation.email()["torecipients"],
        "ada@ours.example;info@kites.example;stranger@nowhere.example"
    );
}

async fn an_address_is_found_in_every_address_column(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let second = organisation.insert(
        "contact",
        json!({"lastname": "Dan", "emailaddress2": "dan@two.example"}),
    );
    let third = organisation.insert(
        "lead",
        json!({"lastname": "Eve", "emailaddress3": "eve@three.example"}),
    );
    organisation.put(
        ADA,
        nylas_message(
            "m1",
            &json!({"from": people(&["dan@two.example"]), "cc": people(&["eve@three.example"])}),
        ),
    );
    written(&organisation.deliver_one(ADA, "m1").await);
    let parties = organisation.parties();
    assert_eq!(parties[0], bound(1, "dan@two.example", "contact", second));
    assert_eq!(parties[2], bound(3, "eve@three.example", "lead", third));
}

async fn an_address_that_two_contacts_share_is_bound_to_neither(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.insert(
        "contact",
        json!({"lastname": "Twin", "emailaddress1": "carol@kites.example"}),
    );
    organisation.put(ADA, nylas_message("m1", &json!({})));
    written(&organisation.deliver_one(ADA, "m1").await);
    assert_eq!(organisation.parties()[0], unbound(1, "carol@kites.example"));
    assert_eq!(
        organisation.email()["regardingobjectid"],
        Value::Null,
        "the companies of the two contacts differ"
    );
}

async fn contacts_that_share_an_address_and_an_account_give_the_account_as_regarding(
    mode: WriteMode,
) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let kites = to_row("account", organisation.people.kites);
    for name in ["One", "Two"] {
        organisation.insert("contact", json!({"lastname": name, "emailaddress1": "office@kites.example", "parentcustomerid": kites}));
    }
    organisation.put(
        ADA,
        nylas_message("m1", &json!({"from": people(&["office@kites.example"])})),
    );
    written(&organisation.deliver_one(ADA, "m1").await);
    assert_eq!(organisation.email()["regardingobjectid"], kites);
}

async fn an_address_with_special_characters_is_looked_up_unchanged(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let odd = "o'neil+a&b%20=?#/\\é@kites.example";
    let contact = organisation.insert(
        "contact",
        json!({"lastname": "O'Neil", "emailaddress1": odd}),
    );
    organisation.put(ADA, nylas_message("m1", &json!({"from": people(&[odd])})));
    written(&organisation.deliver_one(ADA, "m1").await);
    assert_eq!(organisation.parties()[0], bound(1, odd, "contact", contact));
    assert_eq!(
        organisation.email()["regardingobjectid"],
        to_row("contact", contact)
    );
}

async fn the_regarding_is_the_lead_before_the_contact_before_the_account(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let regarding = [
        (
            "both",
            vec!["info@kites.example", "carol@kites.example"],
            to_row("contact", organisation.people.carol),
        ),
        (
            "account",
            vec!["info@kites.example"],
            to_row("account", organisation.people.kites),
        ),
        (
            "lead",
            vec!["carol@kites.example", "lea@prospects.example"],
            to_row("lead", organisation.people.lea),
        ),
        ("stranger", vec!["x@nowhere.example"], Value::Null),
    ];
    for (id, to, _) in &regarding {
        organisation.put(
            ADA,
            nylas_message(
                id,
                &json!({"from": people(&["ada@ours.example"]), "to": people(to), "subject": id}),
            ),
        );
    }
    let messages: Vec<(&str, &str)> = regarding.iter().map(|(id, ..)| (ADA, *id)).collect();
    organisation.deliver(&messages).await;
    let emails = organisation.emails();
    for (id, _, expected) in &regarding {
        let email = emails.iter().find(|email| email["subject"] == *id).unwrap();
        assert_eq!(email["regardingobjectid"], *expected, "{id}");
    }
}

async fn the_row_of_a_mailbox_without_a_user_is_owned_by_the_application_user(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.emulators.nylas().add_grant(emulators::Grant {
        id: "grant-office".to_owned(),
        email: "office@ours.example".to_owned(),
        provider: "imap".to_owned(),
        aliases: Vec::new(),
        status: "valid".to_owned(),
    });
    organisation.put(
        "grant-office",
        nylas_message("m1", &json!({"to": people(&["office@ours.example"])})),
    );
    assert_eq!(
        written(&organisation.deliver_one("grant-office", "m1").await).1,
        None
    );
    let owner = &organisation.email()["ownerid"];
    assert_eq!(owner["table"], "systemuser");
    let users =
        [organisation.people.ada, organisation.people.ben].map(|id| to_row("systemuser", id));
    assert!(!users.contains(owner), "the owner is the application user");
}

#[tokio::test]
async fn a_rejected_owner_is_omitted_with_a_note() {
    let mut organisation = TestOrganisation::start().await;
    for id in ["m1", "m2"] {
        organisation.put(ADA, nylas_message(id, &json!({})));
    }
    // Dataverse rejects the whole batch, in which each message sets its owner.
    organisation.fail_dataverse_at(CREATE, status(403, "0x80040220"));
    let outcomes = organisation.deliver(&[(ADA, "m1"), (ADA, "m2")]).await;
    for outcome in &outcomes {
        assert_eq!(written(outcome).1, Some("left out: owner refused"));
    }
    let ada = to_row("systemuser", organisation.people.ada);
    for email in organisation.emails() {
        assert_ne!(email["ownerid"], ada);
        assert_eq!(email["statecode"], 1);
    }
    assert_eq!(
        organisation
            .entry(ADA, "m1")
            .await
            .unwrap()
            .reason
            .as_deref(),
        Some("left out: owner refused")
    );
}

async fn the_owner_is_the_user_of_the_mailbox_and_not_of_the_sender(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(BEN, nylas_message("m1", &json!({"from": people(&["ada@ours.example"]), "to": people(&["carol@kites.example", "ben@ours.example"])})));
    written(&organisation.deliver_one(BEN, "m1").await);
    assert_eq!(
        organisation.email()["ownerid"],
        to_row("systemuser", organisation.people.ben)
    );
}

async fn a_disabled_user_of_the_mailbox_does_not_own_the_row(mode: WriteMode) {
    for has_enabled_user in [false, true] {
        let mut organisation = TestOrganisation::start_in(mode).await;
        organisation.emulators.nylas().add_grant(emulators::Grant {
            id: "grant-office".to_owned(),
            email: "office@ours.example".to_owned(),
            provider: "imap".to_owned(),
            aliases: Vec::new(),
            status: "valid".to_owned(),
        });
        let user = |is_disabled: bool| {
            let row = json!({
                "lastname": "Office", "internalemailaddress": "office@ours.example", "isdisabled": is_disabled,
            });
            organisation.insert("systemuser", row)
        };
        let disabled = user(true);
        let enabled = has_enabled_user.then(|| user(false));
        organisation.put(
            "grant-office",
            nylas_message("m1", &json!({"to": people(&["office@ours.example"])})),
        );
        let outcome = organisation.deliver_one("grant-office", "m1").await;
        assert_eq!(written(&outcome).1, None, "no owner was sent and rejected");
        let owner = organisation.email()["ownerid"].clone();
        assert_ne!(owner, to_row("systemuser", disabled));
        match enabled {
            Some(enabled) => assert_eq!(owner, to_row("systemuser", enabled)),
            None => assert_eq!(owner, organisation.email()["createdby"]),
        }
    }
}

async fn an_alias_is_bound_to_the_user_of_its_mailbox(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let to = ["Sales+spring@ours.example", "ben+x@ours.example"];
    organisation.put(ADA, nylas_message("m1", &json!({"to": people(&to)})));
    written(&organisation.deliver_one(ADA, "m1").await);
    let expected = [
        bound(
            2,
            "sales+spring@ours.example",
            "systemuser",
            organisation.people.ada,
        ),
        bound(
            2,
            "ben+x@ours.example",
            "systemuser",
            organisation.people.ben,
        ),
    ];
    assert_eq!(organisation.parties()[1..], expected);
}

async fn a_queue_is_bound_and_internal(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let queue = json!({"name": "Desk", "emailaddress": "desk@crm.example"});
    let queue = organisation.insert("queue", queue);
    let desk = people(&["desk@crm.example"]);
    organisation.put(ADA, nylas_message("m1", &json!({"to": desk})));
    written(&organisation.deliver_one(ADA, "m1").await);
    assert_eq!(
        organisation.parties()[1],
        bound(2, "desk@crm.example", "queue", queue)
    );
    let among_us = json!({"from": people(&["ada@ours.example"]), "to": desk});
    organisation.put(ADA, nylas_message("m2", &among_us));
    assert_skipped(&organisation.deliver_one(ADA, "m2").await, "internal_only");
}

async fn a_lead_takes_precedence_over_an_account(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let lead = json!({"lastname": "Kim", "emailaddress1": "info@kites.example"});
    let lead = organisation.insert("lead", lead);
    organisation.put(
        ADA,
        nylas_message("m1", &json!({"from": people(&["info@kites.example"])})),
    );
    written(&organisation.deliver_one(ADA, "m1").await);
    assert_eq!(
        organisation.parties()[0],
        bound(1, "info@kites.example", "lead", lead)
    );
}

async fn an_international_address_is_found_in_either_spelling(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let contact = |name: &str, address: &str| {
        organisation.insert(
            "contact",
            json!({"lastname": name, "emailaddress1": address}),
        )
    };
    let readable = contact("Readable", "one@bücher.example");
    let wire = contact("Wire", "two@xn--bcher-kva.example");
    let from_and_to = [
        ("one@bücher.example", readable),
        ("one@xn--bcher-kva.example", readable),
        ("two@bücher.example", wire),
        ("\"Two\"@xn--bcher-kva.example", wire),
    ];
    for (n, (address, contact)) in from_and_to.into_iter().enumerate() {
        let id = format!("m{n}");
        organisation.put(
            ADA,
            nylas_message(&id, &json!({"subject": id, "cc": people(&[address])})),
        );
        let (email, _) = written(&organisation.deliver_one(ADA, &id).await);
        let parties = organisation.emulators.dataverse().parties(email);
        assert_eq!(
            parties[2]["partyid"],
            to_row("contact", contact),
            "{address}"
        );
        assert_eq!(
            parties[2]["addressused"],
            address.to_lowercase(),
            "the address is stored as the message spells it, in lower case"
        );
    }
}

async fn a_tagged_address_resolves_to_the_plain_one_if_no_record_has_it(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let exact = json!({"lastname": "Shop", "emailaddress1": "carol+shop@kites.example"});
    let exact = organisation.insert("contact", exact);
    let to = [
        "carol+news@kites.example",
        "carol+shop@kites.example",
        "caro+l@kites.example",
    ];
    organisation.put(
        ADA,
        nylas_message(
            "m1",
            &json!({"from": people(&["ada@ours.example"]), "to": people(&to)}),
        ),
    );
    written(&organisation.deliver_one(ADA, "m1").await);
    let expected = [
        bound(2, to[0], "contact", organisation.people.carol),
        bound(2, to[1], "contact", exact),
        unbound(2, to[2]),
    ];
    assert_eq!(organisation.parties()[1..], expected);
}

async fn of_several_contacts_the_policy_binds_none_the_latest_or_all(mode: WriteMode) {
    for ambiguous in [Ambiguous::Unresolved, Ambiguous::MostRecent, Ambiguous::All] {
        let mut organisation = TestOrganisation::start_in(mode).await;
        organisation.set(&json!({"ambiguous": ambiguous}));
        let contact = |n: u128, modified: &str| {
            let row = json!({
                "contactid": Uuid::from_u128(n), "lastname": "Twin", "emailaddress1": "twin@kites.example", "modifiedon": modified,
            });
            organisation.insert("contact", row)
        };
        let newer = contact(1, "2026-11-02T00:00:00Z");
        let older = contact(2, "2026-11-01T00:00:00Z");
        let emulators = "twin@kites.example";
        organisation.put(
            ADA,
            nylas_message(
                "m1",
                &json!({"from": people(&[emulators]), "to": people(&["ada@ours.example", emulators])}),
            ),
        );
        written(&organisation.deliver_one(ADA, "m1").await);
        let (sender, to) = match ambiguous {
            Ambiguous::Unresolved => (unbound(1, emulators), vec![unbound(2, emulators)]),
            Ambiguous::MostRecent => (
                bound(1, emulators, "contact", newer),
                vec![bound(2, emulators, "contact", newer)],
            ),
            Ambiguous::All => {
                let each = [newer, older].map(|id| bound(2, emulators, "contact", id));
                (bound(1, emulators, "contact", newer), each.to_vec())
            }
        };
        assert_eq!(organisation.parties()[0], sender, "{ambiguous:?}");
        assert_eq!(organisation.parties()[2..], to, "{ambiguous:?}");
    }
}

#[tokio::test]
async fn a_lookup_works_without_queues_that_the_application_may_not_read() {
    let mut organisation = TestOrganisation::start().await;
    organisation.put(ADA, nylas_message("m1", &json!({})));
    // Queues are the second query of a lookup; users are the first.
    organisation
        .emulators
        .dataverse()
        .fail_operation(1, status(403, "0x80040220"));
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    assert_eq!(
        organisation.parties()[0],
        bound(
            1,
            "carol@kites.example",
            "contact",
            organisation.people.carol
        )
    );
}
