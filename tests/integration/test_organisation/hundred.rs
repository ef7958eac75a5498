//! Counts the requests for a hundred new messages with two known people each.

use mailverse::clients::dataverse::emails::WriteMode;
use mailverse::policy::document::CreateContacts;
use serde_json::json;

use super::{ADA, TestOrganisation, nylas_message, people, written};

/// The number of messages.
pub(crate) const MESSAGES: usize = 100;

/// The maximum of requests to Dataverse for one batch of these messages.
pub(crate) const MOST_REQUESTS: u64 = 4;

/// Returns the number of requests to Dataverse until all messages are written, if `at_once`
/// messages are delivered together.
pub(crate) async fn requests(mode: WriteMode, at_once: usize) -> u64 {
    requests_of(mode, at_once, true).await
}

/// Does the same for unknown people who all become contacts: 200 contacts of 100 new companies.
pub(crate) async fn requests_of_strangers(mode: WriteMode, at_once: usize) -> u64 {
    requests_of(mode, at_once, false).await
}

async fn requests_of(mode: WriteMode, at_once: usize, known: bool) -> u64 {
    let mut organisation = TestOrganisation::start_in(mode).await;
    // Known people are counted with the setting that may need more requests.
    organisation.set(&json!({"create_contacts": CreateContacts::All}));
    let ids: Vec<String> = (0..MESSAGES).map(|n| format!("m{n}")).collect();
    for id in &ids {
        let [from, cc] = ["from", "cc"].map(|role| format!("{role}-{id}@kites-{id}.example"));
        for address in [&from, &cc].into_iter().filter(|_| known) {
            organisation.insert(
                "contact",
                json!({"lastname": "Known", "emailaddress1": address}),
            );
        }
        let with = json!({"from": people(&[from]), "cc": people(&[cc])});
        organisation.put(ADA, nylas_message(id, &with));
    }
    let messages: Vec<(&str, &str)> = ids.iter().map(|id| (ADA, id.as_str())).collect();
    for some in messages.chunks(at_once) {
        for outcome in organisation.deliver(some).await {
            let (id, _) = written(&outcome);
            let parties = organisation.emulators.dataverse().parties(id);
            let known = parties.iter().filter(|party| {
                party["partyid"]["table"] == "contact" && party["participationtypemask"] != 8
            });
            assert_eq!(known.count(), 2, "each message has two known people");
        }
    }
    assert_eq!(organisation.emails().len(), MESSAGES);
    let accounts = organisation.emulators.dataverse().rows("account").len();
    assert_eq!(accounts, if known { 1 } else { 1 + MESSAGES });
    organisation.emulators.dataverse().requests().total
}
