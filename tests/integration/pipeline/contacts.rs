//! Tests who becomes a contact, with which company, and what happens if creating the rows fails.

use emulators::Fault;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::model::address::EmailAddress;
use mailverse::policy::document::{Ambiguous, CreateContacts};
use mailverse::resolve::contacts::{account_id, contact_id};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::test_organisation::{
    ADA, BEN, CREATE, TestOrganisation, bound, created, id_of, key, nylas_message, people, status,
    throttled, to_row, unbound, waiting, written,
};

in_both_write_modes!(
    no_contact_is_created_by_default,
    an_unknown_sender_becomes_a_contact_of_a_new_account,
    a_second_message_finds_the_created_contact,
    an_unknown_sender_of_several_messages_in_a_batch_becomes_one_contact,
    two_concurrent_workers_create_one_contact_for_the_same_sender,
    an_account_is_found_by_its_website_its_address_or_its_contacts,
    of_two_matching_accounts_the_policy_uses_none_or_the_latest,
    a_person_at_a_free_mail_provider_has_no_company,
    with_create_contacts_sent_only_recipients_of_sent_emails_become_contacts,
    role_addresses_bulk_mail_and_long_addresses_do_not_become_contacts,
    a_stripped_address_does_not_become_a_contact,
    an_email_is_written_with_the_bare_address_if_the_contact_is_rejected,
    a_contact_is_created_without_its_company_if_the_company_is_rejected,
    a_transient_contact_failure_delays_only_the_messages_with_that_contact,
    a_crash_between_contact_and_email_creates_no_duplicates,
    a_created_contact_is_found_after_its_address_was_changed,
    an_existing_email_creates_no_contact,
);

/// Part of the request that creates a contact.
const CONTACT: &str = "POST /api/data/v9.2/contacts HTTP";

/// Number of queries in a lookup of one page of people and messages.
const LOOK_UP_QUERIES: u64 = 6;

/// Number of queries about one company.
const COMPANY_QUERIES: u64 = 2;

const JANE: &str = "jane@wind.example";

async fn organisation(mode: WriteMode, create_contacts: CreateContacts) -> TestOrganisation {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.set(&json!({"create_contacts": create_contacts}));
    organisation
}

/// Returns a message to Ada from Jane, who has no row in Dataverse.
fn from_jane(id: &str) -> Value {
    nylas_message(
        id,
        &json!({"subject": id, "from": [{"name": "Doe, Jane", "email": JANE}]}),
    )
}

fn id(address: &str) -> Uuid {
    contact_id(&EmailAddress::parse(address).unwrap())
}

/// Returns all contacts except Carol, whose row exists from the start.
fn contacts(organisation: &TestOrganisation) -> Vec<Value> {
    let mut contacts = organisation.emulators.dataverse().rows("contact");
    contacts.retain(|row| row["contactid"] != json!(organisation.people.carol));
    contacts
}

fn accounts(organisation: &TestOrganisation) -> Vec<Value> {
    let mut accounts = organisation.emulators.dataverse().rows("account");
    accounts.retain(|row| row["accountid"] != json!(organisation.people.kites));
    accounts
}

#[track_caller]
fn contact(organisation: &TestOrganisation) -> Value {
    let mut contacts = contacts(organisation);
    assert_eq!(contacts.len(), 1, "{contacts:#?}");
    contacts.remove(0)
}

/// Returns the row that the sender of the email with this subject was resolved to.
fn sender(organisation: &TestOrganisation, subject: &str) -> Value {
    let emails = organisation.emails();
    let email = emails.iter().find(|email| email["subject"] == subject);
    let parties = organisation
        .emulators
        .dataverse()
        .parties(id_of(email.unwrap()));
    parties[0]["partyid"].clone()
}

async fn no_contact_is_created_by_default(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(ADA, from_jane("m1"));
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    assert_eq!(organisation.parties()[0], unbound(1, JANE));
    assert!(contacts(&organisation).is_empty() && accounts(&organisation).is_empty());
}

async fn an_unknown_sender_becomes_a_contact_of_a_new_account(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    organisation.put(ADA, from_jane("m1"));
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    let contact = contact(&organisation);
    assert_eq!(
        ["contactid", "firstname", "lastname", "emailaddress1"]
            .map(|column| contact[column].clone()),
        [json!(id(JANE)), json!("Jane"), json!("Doe"), json!(JANE)]
    );
    let company = account_id("wind.example");
    assert_eq!(contact["parentcustomerid"], to_row("account", company));
    let accounts = accounts(&organisation);
    assert_eq!(accounts.len(), 1);
    assert_eq!(
        ["accountid", "name", "websiteurl"].map(|column| accounts[0][column].clone()),
        [
            json!(company),
            json!("wind.example"),
            json!("https://wind.example")
        ]
    );
    assert_eq!(
        organisation.parties()[0],
        bound(1, JANE, "contact", id(JANE))
    );
    assert_eq!(
        organisation.email()["regardingobjectid"],
        to_row("contact", id(JANE))
    );
}

async fn a_second_message_finds_the_created_contact(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    organisation.put(ADA, from_jane("m1"));
    let again =
        json!({"subject": "m2", "from": [{"name": "Jane", "email": "Jane+tag@wind.example"}]});
    organisation.put(ADA, nylas_message("m2", &again));
    written(&organisation.deliver_one(ADA, "m1").await);
    let before = organisation.emulators.dataverse().requests().operations;
    written(&organisation.deliver_one(ADA, "m2").await);
    let operations = organisation.emulators.dataverse().requests().operations - before;
    assert_eq!(
        operations,
        LOOK_UP_QUERIES + 2,
        "no query about companies or contacts, and none is created"
    );
    assert_eq!(contact(&organisation)["lastname"], "Doe");
    assert_eq!(sender(&organisation, "m2"), to_row("contact", id(JANE)));
}

async fn an_unknown_sender_of_several_messages_in_a_batch_becomes_one_contact(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    for message in ["m1", "m2", "m3"] {
        organisation.put(ADA, from_jane(message));
    }
    for outcome in organisation
        .deliver(&[(ADA, "m1"), (ADA, "m2"), (ADA, "m3")])
        .await
    {
        assert_eq!(written(&outcome).1, None);
    }
    contact(&organisation);
    for message in ["m1", "m2", "m3"] {
        assert_eq!(sender(&organisation, message), to_row("contact", id(JANE)));
    }
}

async fn two_concurrent_workers_create_one_contact_for_the_same_sender(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    organisation.put(ADA, from_jane("m1"));
    organisation.put(BEN, from_jane("m2"));
    // Both workers look her up and find no row. The other one finishes its run before this one
    // creates the contact.
    let (other, run) = (organisation.another_pipeline().await, organisation.begin());
    organisation.before_dataverse_gets(CONTACT, async move {
        let processed = other.run(vec![created(BEN, "m2")], run).await;
        assert_eq!(written(&processed[0].outcome).1, None);
    });
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&outcome).1, None);
    contact(&organisation);
    assert_eq!(accounts(&organisation).len(), 1);
    for message in ["m1", "m2"] {
        assert_eq!(sender(&organisation, message), to_row("contact", id(JANE)));
    }
}

async fn an_account_is_found_by_its_website_its_address_or_its_contacts(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    let account = |columns: Value| organisation.insert("account", columns);
    let websites = [
        "https://www.a.example/de/",
        "b.example",
        "http://C.example",
        "https://www.bücher.example",
    ];
    let by_website = websites.map(|url| account(json!({"name": "Site", "websiteurl": url})));
    let by_address = account(json!({"name": "Post", "emailaddress1": "office@mail.d.example"}));
    let by_contacts = account(json!({"name": "People"}));
    organisation.insert(
        "contact",
        json!({
            "lastname": "Eve", "emailaddress1": "eve@e.example",
            "parentcustomerid": to_row("account", by_contacts),
        }),
    );
    // These names contain the domain without belonging to it.
    account(json!({"name": "Directory", "websiteurl": "https://directory.example/f.example"}));
    account(
        json!({"name": "Other", "emailaddress1": "x@myf.example", "websiteurl": "https://f.example.net/"}),
    );
    let expected = [
        ("jane@a.example", Some(by_website[0])),
        ("jane@mail.b.example", Some(by_website[1])),
        ("jane@c.example", Some(by_website[2])),
        ("jane@xn--bcher-kva.example", Some(by_website[3])),
        ("jane@d.example", Some(by_address)),
        ("jane@e.example", Some(by_contacts)),
        ("jane@f.example", None),
    ];
    let to: Vec<&str> = expected.iter().map(|(address, _)| *address).collect();
    let before = accounts(&organisation).len();
    organisation.put(
        ADA,
        nylas_message(
            "m1",
            &json!({"from": people(&["ada@ours.example"]), "to": people(&to)}),
        ),
    );
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    for (address, company) in expected {
        let contact = organisation
            .emulators
            .dataverse()
            .row("contact", id(address))
            .unwrap();
        let company = company.unwrap_or_else(|| account_id("f.example"));
        assert_eq!(
            contact["parentcustomerid"],
            to_row("account", company),
            "{address}"
        );
    }
    assert_eq!(
        accounts(&organisation).len(),
        before + 1,
        "only the account of f.example is created"
    );
}

async fn of_two_matching_accounts_the_policy_uses_none_or_the_latest(mode: WriteMode) {
    for (ambiguous, latest) in [
        (Ambiguous::Unresolved, false),
        (Ambiguous::All, false),
        (Ambiguous::MostRecent, true),
    ] {
        let mut organisation = organisation(mode, CreateContacts::All).await;
        organisation.set(&json!({"create_contacts": CreateContacts::All, "ambiguous": ambiguous}));
        let account = |modified: &str| {
            organisation.insert(
                "account",
                json!({"name": "Wind", "websiteurl": "https://wind.example", "modifiedon": modified}),
            )
        };
        let newer = account("2026-11-02T00:00:00Z");
        account("2026-11-01T00:00:00Z");
        organisation.put(ADA, from_jane("m1"));
        assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
        let company = if latest {
            to_row("account", newer)
        } else {
            Value::Null
        };
        assert_eq!(
            contact(&organisation)["parentcustomerid"],
            company,
            "{ambiguous:?}"
        );
        assert_eq!(accounts(&organisation).len(), 2, "no account is created");
    }
}

async fn a_person_at_a_free_mail_provider_has_no_company(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    organisation.put(
        ADA,
        nylas_message("m1", &json!({"from": people(&["jane.wind@gmail.com"])})),
    );
    written(&organisation.deliver_one(ADA, "m1").await);
    let contact = contact(&organisation);
    assert_eq!(contact["parentcustomerid"], Value::Null);
    assert_eq!(
        (&contact["firstname"], &contact["lastname"]),
        (&Value::Null, &json!("Unknown"))
    );
    assert!(accounts(&organisation).is_empty());
}

async fn with_create_contacts_sent_only_recipients_of_sent_emails_become_contacts(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::Sent).await;
    organisation.put(ADA, from_jane("received"));
    let sent = json!({
        "subject": "sent", "from": people(&["ada@ours.example"]), "to": people(&["to@a.example"]), "cc": people(&["cc@b.example"]),
        "bcc": people(&["bcc@c.example", "ben@ours.example", "lea@prospects.example"]),
    });
    organisation.put(ADA, nylas_message("sent", &sent));
    organisation
        .deliver(&[(ADA, "received"), (ADA, "sent")])
        .await;
    assert_eq!(sender(&organisation, "received"), Value::Null);
    let mut addresses: Vec<String> = contacts(&organisation)
        .iter()
        .map(|row| row["emailaddress1"].to_string())
        .collect();
    addresses.sort();
    assert_eq!(
        addresses,
        ["\"bcc@c.example\"", "\"cc@b.example\"", "\"to@a.example\""]
    );
}

async fn role_addresses_bulk_mail_and_long_addresses_do_not_become_contacts(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    let long = format!("{}@wind.example", "x".repeat(101 - "@wind.example".len()));
    let several = json!({"subject": "several", "from": people(&["sales@wind.example"]), "to": people(&["ada@ours.example", &long])});
    organisation.put(ADA, nylas_message("several", &several));
    let bulk = json!({"subject": "bulk", "from": people(&["no-reply@wind.example"]), "cc": people(&[JANE])});
    organisation.put(ADA, nylas_message("bulk", &bulk));
    for outcome in organisation
        .deliver(&[(ADA, "several"), (ADA, "bulk")])
        .await
    {
        assert_eq!(written(&outcome).1, None);
    }
    assert!(contacts(&organisation).is_empty() && accounts(&organisation).is_empty());
}

/// Rejects the next contact, or the next account.
///
/// A run with one new person of one new company creates the account first, then the contact.
fn refuse(organisation: &TestOrganisation, mode: WriteMode, contact: bool, fault: Fault) {
    let rows_before = u64::from(contact);
    match mode {
        WriteMode::ChangeSet => {
            let before = LOOK_UP_QUERIES + COMPANY_QUERIES + rows_before;
            organisation
                .emulators
                .dataverse()
                .fail_operation(before, fault);
        }
        WriteMode::Stepwise if contact => organisation.fail_dataverse_at(CONTACT, fault),
        WriteMode::Stepwise => {
            organisation.fail_dataverse_at("POST /api/data/v9.2/accounts HTTP", fault);
        }
    }
}

async fn a_stripped_address_does_not_become_a_contact(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.set(&json!({
        "create_contacts": CreateContacts::All,
        "block": [{"address": "eve@wind.example", "action": "strip"}, {"domain": "storm.example", "action": "strip"}],
    }));
    let others = [
        "eve@wind.example",
        "eve+news@wind.example",
        "x@storm.example",
    ];
    let mut from_jane = from_jane("m1");
    from_jane["to"] = people(&["ada@ours.example"]);
    from_jane["cc"] = people(&others);
    organisation.put(ADA, from_jane);
    let mut from_eve = nylas_message("m2", &json!({"from": people(&others[..1])}));
    from_eve["cc"] = people(&["lea@prospects.example"]);
    organisation.put(ADA, from_eve);
    for id in ["m1", "m2"] {
        written(&organisation.deliver_one(ADA, id).await);
    }
    assert_eq!(
        contact(&organisation)["contactid"],
        json!(id(JANE)),
        "only Jane becomes a contact"
    );
    let accounts = accounts(&organisation);
    assert_eq!(
        accounts.len(),
        1,
        "no account is created for a stripped address"
    );
    assert_eq!(accounts[0]["name"], "wind.example");
}

async fn an_email_is_written_with_the_bare_address_if_the_contact_is_rejected(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    organisation.put(ADA, from_jane("m1"));
    refuse(&organisation, mode, true, status(400, "0x80040265"));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&outcome).1, Some("left out: contact refused"));
    assert_eq!(organisation.parties()[0], unbound(1, JANE));
    assert!(contacts(&organisation).is_empty());
    let entry = organisation.entry(ADA, "m1").await.unwrap();
    assert_eq!(entry.reason.as_deref(), Some("left out: contact refused"));
}

async fn a_contact_is_created_without_its_company_if_the_company_is_rejected(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    organisation.put(ADA, from_jane("m1"));
    refuse(&organisation, mode, false, status(403, "0x80040220"));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(written(&outcome).1, Some("left out: company refused"));
    assert_eq!(contact(&organisation)["parentcustomerid"], Value::Null);
    assert_eq!(
        organisation.parties()[0],
        bound(1, JANE, "contact", id(JANE))
    );
}

async fn a_transient_contact_failure_delays_only_the_messages_with_that_contact(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    organisation.put(ADA, from_jane("m1"));
    organisation.put(ADA, nylas_message("m2", &json!({})));
    refuse(&organisation, mode, true, status(500, "0x80044150"));
    let outcomes = organisation.deliver(&[(ADA, "m1"), (ADA, "m2")]).await;
    waiting(&outcomes[0]);
    written(&outcomes[1]);
    organisation.later(chrono::TimeDelta::minutes(1));
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    assert_eq!(sender(&organisation, "m1"), to_row("contact", id(JANE)));
    assert_eq!(
        accounts(&organisation).len(),
        1,
        "the second attempt finds the account of the first"
    );
}

async fn a_crash_between_contact_and_email_creates_no_duplicates(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    organisation.put(ADA, from_jane("m1"));
    organisation.fail_dataverse_at(CREATE, Fault::ResetBefore);
    waiting(&organisation.deliver_one(ADA, "m1").await);
    assert!(organisation.emails().is_empty());
    contact(&organisation);
    // As if the process had died at this point: Dataverse has the contact, and the ledger is
    // empty.
    organisation.lose_ledger().await;
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    contact(&organisation);
    assert_eq!(
        organisation.parties()[0],
        bound(1, JANE, "contact", id(JANE))
    );
}

async fn a_created_contact_is_found_after_its_address_was_changed(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    let changed =
        json!({"contactid": id(JANE), "lastname": "Doe", "emailaddress1": "jane@moved.example"});
    organisation.insert("contact", changed);
    organisation.put(ADA, from_jane("m1"));
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    assert_eq!(
        contact(&organisation)["emailaddress1"],
        "jane@moved.example"
    );
    assert_eq!(
        organisation.parties()[0],
        bound(1, JANE, "contact", id(JANE))
    );
}

async fn an_existing_email_creates_no_contact(mode: WriteMode) {
    let mut organisation = organisation(mode, CreateContacts::All).await;
    organisation.put(ADA, from_jane("m1"));
    organisation.insert(
        "email",
        json!({"subject": "m1", "messageid": "<m1@kites.example>", "sender": JANE, "statecode": 1, "directioncode": false}),
    );
    written(&organisation.deliver_one(ADA, "m1").await);
    assert_eq!(organisation.emails().len(), 1);
    assert!(contacts(&organisation).is_empty() && accounts(&organisation).is_empty());
}

#[tokio::test]
async fn contacts_are_created_without_a_company_if_the_company_query_is_rejected() {
    let mut organisation = organisation(WriteMode::ChangeSet, CreateContacts::All).await;
    organisation.put(ADA, from_jane("m1"));
    let refusal = status(501, "0x8006088A");
    organisation
        .emulators
        .dataverse()
        .fail_operation(LOOK_UP_QUERIES, refusal);
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    assert_eq!(contact(&organisation)["parentcustomerid"], Value::Null);
    assert!(accounts(&organisation).is_empty());
}

#[tokio::test]
async fn a_rejected_contact_batch_is_repeated_row_by_row() {
    let mut organisation = organisation(WriteMode::ChangeSet, CreateContacts::All).await;
    organisation.put(ADA, from_jane("m1"));
    organisation.fail_dataverse_at(CONTACT, status(413, "0x8004418A"));
    assert_eq!(written(&organisation.deliver_one(ADA, "m1").await).1, None);
    assert_eq!(
        organisation.parties()[0],
        bound(1, JANE, "contact", id(JANE))
    );
}

#[tokio::test]
async fn no_email_is_written_without_its_contacts_during_a_pause() {
    let mut organisation = organisation(WriteMode::ChangeSet, CreateContacts::All).await;
    organisation.put(ADA, from_jane("m1"));
    organisation.fail_dataverse_at(CONTACT, throttled("0x80072322", 50));
    let outcome = organisation.deliver_one(ADA, "m1").await;
    assert_eq!(waiting(&outcome).0.as_secs(), 50);
    assert!(organisation.emails().is_empty() && contacts(&organisation).is_empty());
    organisation.pause_over();
    let processed = organisation.run(vec![created(ADA, "m1")]).await;
    assert_eq!(processed[0].key, key(ADA, "m1"));
    assert_eq!(written(&processed[0].outcome).1, None);
    contact(&organisation);
}
