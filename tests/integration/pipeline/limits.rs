//! Does a batch stay within what Dataverse takes, however large it is? The twin refuses what is longer than the documented limits.

use mailverse::dataverse::write::WriteMode;
use serde_json::{Value, json};

use crate::world::hundred::{self, MAILS, MOST_REQUESTS};
use crate::world::{ADA, World, mail, people, to_row, written};

in_both_write_modes!(
    six_hundred_recipients_are_all_parties_and_the_text_holds_whole_addresses,
    a_look_up_of_long_addresses_stays_within_the_limits_of_a_url,
);

#[tokio::test]
async fn a_hundred_new_mails_with_two_known_people_each_take_a_look_up_and_a_write() {
    let requests = hundred::requests(WriteMode::ChangeSet, MAILS).await;
    assert!(requests <= MOST_REQUESTS, "{requests}");
    assert_eq!(requests, 2);
}

#[tokio::test]
async fn step_by_step_each_mail_takes_two_requests_more() {
    let requests = hundred::requests(WriteMode::Stepwise, MAILS).await;
    assert_eq!(requests, 1 + 2 * 100);
}

#[tokio::test]
async fn two_new_people_on_each_of_a_hundred_mails_take_two_requests_more() {
    let requests = hundred::requests_of_strangers(WriteMode::ChangeSet, MAILS).await;
    assert_eq!(requests, 4, "look up, companies, contacts, mails");
}

async fn six_hundred_recipients_are_all_parties_and_the_text_holds_whole_addresses(
    mode: WriteMode,
) {
    let mut world = World::start_in(mode).await;
    let recipients: Vec<String> = (0..600)
        .map(|n| format!("person{n}@kites.example"))
        .collect();
    world.put(ADA, mail("m1", &json!({"to": people(&recipients)})));
    assert_eq!(written(&world.deliver_one(ADA, "m1").await).1, None);
    let to: Vec<String> = world
        .parties()
        .into_iter()
        .filter(|party| party.0 == 2)
        .map(|party| party.1)
        .collect();
    assert_eq!(to, recipients);
    let email = world.email();
    let text = email["torecipients"].as_str().unwrap();
    let held: Vec<&str> = text.split(';').collect();
    assert!(
        text.len() <= 500 && text.len() + ";person22@kites.example".len() > 500,
        "{}",
        text.len()
    );
    assert_eq!(held, recipients[..held.len()]);
}

/// As long as an address may be, of characters that are nine each in a URL.
fn long_address(start: &str) -> String {
    let rest = 320 - start.len() - "@kites.example".len();
    format!("{start}{}@kites.example", "\u{8a9e}".repeat(rest))
}

async fn a_look_up_of_long_addresses_stays_within_the_limits_of_a_url(mode: WriteMode) {
    let mut world = World::start_in(mode).await;
    let recipients: Vec<String> = (0..600).map(|n| long_address(&n.to_string())).collect();
    let long_id = format!("<{}@x>", "\u{8a9e}".repeat(316));
    let headers = json!([{"name": "Message-ID", "value": long_id}]);
    let changes = json!({"to": people(&recipients), "headers": headers});
    world.put(ADA, mail("m1", &changes));
    world.put(ADA, mail("m2", &json!({})));
    let fates = world.deliver(&[(ADA, "m1"), (ADA, "m2")]).await;
    let (id, note) = written(&fates[0]);
    assert_eq!(note, None, "nothing is left out");
    written(&fates[1]);
    let email = world.twin.dataverse().row("email", id).unwrap();
    assert_eq!(email["messageid"], long_id);
    let parties = world.twin.dataverse().parties(id);
    let to = parties
        .iter()
        .filter(|party| party["participationtypemask"] == 2);
    assert_eq!(to.count(), 600);
    let requests = world.twin.dataverse().requests();
    let look_up = requests.total - if mode == WriteMode::ChangeSet { 1 } else { 4 };
    assert_eq!(look_up, 1, "one batch, though of many queries");
}

#[tokio::test]
async fn an_address_of_five_thousand_and_one_people_is_read_to_the_last_of_them() {
    let office = "office@kites.example";
    for last_is_of_the_company in [true, false] {
        let mut world = World::start().await;
        let kites = to_row("account", world.people.kites);
        for n in 0..5_001 {
            let company = n < 5_000 || last_is_of_the_company;
            let company = if company { kites.clone() } else { Value::Null };
            let contact =
                json!({"lastname": "x", "emailaddress1": office, "parentcustomerid": company});
            world.insert("contact", contact);
        }
        // Neighbours that make the query, and so the link to its second page, as long as queries get.
        let neighbours = ["officea", "officeb"].map(long_address);
        let changes = json!({"from": people(&[office]), "cc": people(&neighbours)});
        world.put(ADA, mail("m1", &changes));
        written(&world.deliver_one(ADA, "m1").await);
        // Whoever stops after the first page, or asks on the second for less, decides otherwise.
        let expected = if last_is_of_the_company {
            kites
        } else {
            Value::Null
        };
        assert_eq!(world.email()["regardingobjectid"], expected);
        assert_eq!(world.twin.dataverse().requests().total, 3, "a second page");
    }
}
