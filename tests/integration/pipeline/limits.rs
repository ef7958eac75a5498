//! Tests that a batch of any size stays within the documented limits of Dataverse. The emulator
//! rejects what exceeds them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use emulators::Fault;
use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::pipeline::Invocation;
use serde_json::{Value, json};

use crate::test_organisation::hundred;
use crate::test_organisation::hundred::{MESSAGES, MOST_REQUESTS};
use crate::test_organisation::{
    ADA, LOOK_UP, TestOrganisation, created, key, nylas_message, people, to_row, waiting, written,
};

in_both_write_modes!(
    six_hundred_recipients_become_parties_and_torecipients_has_whole_addresses,
    the_sender_and_internal_recipients_are_resolved_first_and_the_rest_are_addresses,
    an_address_that_was_not_looked_up_does_not_become_a_contact,
    a_lookup_of_long_addresses_stays_within_the_url_limit,
);

#[tokio::test]
async fn a_hundred_messages_with_known_people_take_one_lookup_and_one_write() {
    let requests = hundred::requests(WriteMode::ChangeSet, MESSAGES).await;
    assert!(requests <= MOST_REQUESTS, "{requests}");
    assert_eq!(requests, 2);
}

#[tokio::test]
async fn each_message_takes_two_requests_in_stepwise_mode() {
    let requests = hundred::requests(WriteMode::Stepwise, MESSAGES).await;
    assert_eq!(requests, 1 + 2 * 100);
}

#[tokio::test]
async fn unknown_people_on_a_hundred_messages_take_two_more_requests() {
    let requests = hundred::requests_of_strangers(WriteMode::ChangeSet, MESSAGES).await;
    assert_eq!(
        requests, 4,
        "one request each for the lookup, companies, contacts and emails"
    );
}

async fn six_hundred_recipients_become_parties_and_torecipients_has_whole_addresses(
    mode: WriteMode,
) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let recipients: Vec<String> = (0..600)
        .map(|n| format!("person{n}@kites.example"))
        .collect();
    organisation.put(
        ADA,
        nylas_message("m1", &json!({"to": people(&recipients)})),
    );
    let outcome = organisation.deliver_one(ADA, "m1").await;
    // The sender and 249 recipients are looked up.
    let note = "left out: 351 × record of a recipient";
    assert_eq!(written(&outcome).1, Some(note));
    let to: Vec<String> = organisation
        .parties()
        .into_iter()
        .filter(|party| party.0 == 2)
        .map(|party| party.1)
        .collect();
    assert_eq!(to, recipients);
    let email = organisation.email();
    let text = email["torecipients"].as_str().unwrap();
    let held: Vec<&str> = text.split(';').collect();
    assert!(
        text.len() <= 500 && text.len() + ";person22@kites.example".len() > 500,
        "{}",
        text.len()
    );
    assert_eq!(held, recipients[..held.len()]);
}

/// Returns this many external addresses without a row, plus the address of an account at index 500
/// and of an internal user at the end.
fn crowd(outside: usize) -> Vec<String> {
    let mut crowd: Vec<String> = (0..outside)
        .map(|n| format!("person{n}@kites.example"))
        .collect();
    crowd.insert(500, "info@kites.example".to_owned());
    crowd.push("ben@ours.example".to_owned());
    crowd
}

async fn the_sender_and_internal_recipients_are_resolved_first_and_the_rest_are_addresses(
    mode: WriteMode,
) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.put(
        ADA,
        nylas_message("m1", &json!({"to": people(&crowd(1_500))})),
    );
    organisation.put(
        ADA,
        nylas_message("m2", &json!({"to": people(&["info@kites.example"])})),
    );
    let outcomes = organisation.deliver(&[(ADA, "m1"), (ADA, "m2")]).await;
    let (id, note) = written(&outcomes[0]);
    let expected = "left out: 1253 × record of a recipient, 503 × recipient";
    assert_eq!(note, Some(expected));
    assert_eq!(written(&outcomes[1]).1, None);
    let parties = organisation.emulators.dataverse().parties(id);
    let parties: Vec<&Value> = parties
        .iter()
        .filter(|party| party["participationtypemask"].as_i64() <= Some(4))
        .collect();
    assert_eq!(parties.len(), 1_000);
    let of = |address: &str| {
        let mut found = parties
            .iter()
            .filter(|party| party["addressused"] == address);
        found.next().map(|party| party["partyid"].clone())
    };
    assert_eq!(
        of("carol@kites.example"),
        Some(to_row("contact", organisation.people.carol))
    );
    assert_eq!(
        of("ben@ours.example"),
        Some(to_row("systemuser", organisation.people.ben))
    );
    assert_eq!(of("person0@kites.example"), Some(Value::Null));
    assert_eq!(of("person996@kites.example"), Some(Value::Null));
    assert_eq!(
        of("person997@kites.example"),
        None,
        "the email already has as many recipients as are allowed"
    );
    // The neighbour's lookup found the account. The result must not depend on a neighbour, so the
    // recipient stays unresolved here.
    assert_eq!(of("info@kites.example"), Some(Value::Null));
}

async fn an_address_that_was_not_looked_up_does_not_become_a_contact(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    organisation.set(&json!({"create_contacts": "all"}));
    let before = organisation.emulators.dataverse().rows("contact").len();
    organisation.put(
        ADA,
        nylas_message("m1", &json!({"to": people(&crowd(600))})),
    );
    written(&organisation.deliver_one(ADA, "m1").await);
    let contacts = organisation.emulators.dataverse().rows("contact").len() - before;
    assert_eq!(
        contacts,
        250 - 2,
        "all addresses that were looked up, except those of Carol and Ben"
    );
}

/// A clock that advances by six seconds with each reading, so that no answer arrives in time.
fn slow_clock() -> Instant {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    static READINGS: AtomicU64 = AtomicU64::new(0);
    let seconds = 6 * READINGS.fetch_add(1, Ordering::Relaxed);
    *BEGUN.get_or_init(Instant::now) + Duration::from_secs(seconds)
}

#[tokio::test]
async fn a_lookup_that_times_out_is_halved_until_only_its_cause_waits() {
    let mut organisation = TestOrganisation::start().await;
    organisation.invocation = TimeDelta::days(1);
    for n in 1..=6 {
        let from = people(&[format!("sender{n}@kites.example")]);
        organisation.put(ADA, nylas_message(&format!("m{n}"), &json!({"from": from})));
    }
    // The lookup of m2 fails three times: in the batch, in its half, and alone.
    for _ in 0..3 {
        organisation.fail_dataverse_at("sender2%40kites.example", Fault::ResetBefore);
    }
    let ids: Vec<String> = (1..=6).map(|n| format!("m{n}")).collect();
    let run = Invocation {
        clock: slow_clock,
        begun: slow_clock(),
        ..organisation.begin()
    };
    let work = ids.iter().map(|id| created(ADA, id)).collect();
    for processed in organisation.pipeline.run(work, run).await {
        if processed.key == key(ADA, "m2") {
            waiting(&processed.outcome);
        } else {
            written(&processed.outcome);
        }
    }
}

#[tokio::test]
async fn a_lookup_that_fails_at_once_is_not_split() {
    let mut organisation = TestOrganisation::start().await;
    for id in ["m1", "m2"] {
        organisation.put(ADA, nylas_message(id, &json!({})));
    }
    organisation.fail_dataverse_at(LOOK_UP, Fault::ResetBefore);
    for outcome in organisation.deliver(&[(ADA, "m1"), (ADA, "m2")]).await {
        waiting(&outcome);
    }
    assert_eq!(organisation.emulators.dataverse().requests().total, 1);
}

#[tokio::test]
async fn a_body_above_the_column_length_is_truncated_with_a_note() {
    let mut organisation = TestOrganisation::start().await;
    let dataverse = organisation.emulators.dataverse().clone();
    dataverse
        .set_max_length("email", "description", 1_000)
        .unwrap();
    for id in ["m1", "m2"] {
        organisation.put(ADA, nylas_message(id, &json!({"body": "ä".repeat(2_000)})));
    }
    // Dataverse rejects the first message. The second is cut beforehand.
    for id in ["m1", "m2"] {
        let outcome = organisation.deliver_one(ADA, id).await;
        let (row, note) = written(&outcome);
        assert_eq!(note, Some("left out: part of the body"), "{id}");
        let email = dataverse.row("email", row).unwrap();
        assert_eq!(email["description"], "ä".repeat(1_000), "{id}");
        assert_eq!(email["statecode"], 1, "{id}");
    }
}

/// Returns an address of the maximum length of 320 characters, each of which takes nine characters
/// in a URL.
fn long_address(start: &str) -> String {
    let rest = 320 - start.len() - "@kites.example".len();
    format!("{start}{}@kites.example", "\u{8a9e}".repeat(rest))
}

async fn a_lookup_of_long_addresses_stays_within_the_url_limit(mode: WriteMode) {
    let mut organisation = TestOrganisation::start_in(mode).await;
    let recipients: Vec<String> = (0..600).map(|n| long_address(&n.to_string())).collect();
    let long_id = format!("<{}@x>", "\u{8a9e}".repeat(316));
    let headers = json!([{"name": "Message-ID", "value": long_id}]);
    let changes = json!({"to": people(&recipients), "headers": headers});
    organisation.put(ADA, nylas_message("m1", &changes));
    organisation.put(ADA, nylas_message("m2", &json!({})));
    let outcomes = organisation.deliver(&[(ADA, "m1"), (ADA, "m2")]).await;
    let (id, note) = written(&outcomes[0]);
    assert_eq!(note, Some("left out: 351 × record of a recipient"));
    written(&outcomes[1]);
    let email = organisation.emulators.dataverse().row("email", id).unwrap();
    assert_eq!(email["messageid"], long_id);
    let parties = organisation.emulators.dataverse().parties(id);
    let to = parties
        .iter()
        .filter(|party| party["participationtypemask"] == 2);
    assert_eq!(to.count(), 600);
    let requests = organisation.emulators.dataverse().requests();
    let look_up = requests.total - if mode == WriteMode::ChangeSet { 1 } else { 4 };
    assert_eq!(look_up, 1, "one batch with many queries");
}

#[tokio::test]
async fn a_lookup_reads_all_contacts_of_an_address_across_pages() {
    let office = "office@kites.example";
    for last_is_of_the_company in [true, false] {
        let mut organisation = TestOrganisation::start().await;
        let kites = to_row("account", organisation.people.kites);
        for n in 0..5_001 {
            let company = n < 5_000 || last_is_of_the_company;
            let company = if company { kites.clone() } else { Value::Null };
            let contact =
                json!({"lastname": "x", "emailaddress1": office, "parentcustomerid": company});
            organisation.insert("contact", contact);
        }
        // These recipients make the query, and so the link to its second page, as long as possible.
        let neighbours = ["officea", "officeb"].map(long_address);
        let changes = json!({"from": people(&[office]), "cc": people(&neighbours)});
        organisation.put(ADA, nylas_message("m1", &changes));
        written(&organisation.deliver_one(ADA, "m1").await);
        // Code that stops after the first page, or selects fewer columns on the second, decides
        // differently.
        let expected = if last_is_of_the_company {
            kites
        } else {
            Value::Null
        };
        assert_eq!(organisation.email()["regardingobjectid"], expected);
        assert_eq!(
            organisation.emulators.dataverse().requests().total,
            3,
            "a lookup, its second page, and the write"
        );
    }
}
