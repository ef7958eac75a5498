//! The parts of a golden case that concern people.
//!
//! | Input | Meaning |
//! | --- | --- |
//! | `settings` | as in the policy document; a missing setting has its default |
//! | `organisation[].modified` | when the row was changed last |
//! | `companies[]` | accounts that belong to a `domain`, found `by` `website`, `address` or `contacts`; other domains have no account |
//!
//! | Expected | Meaning |
//! | --- | --- |
//! | `accounts`, `contacts` | the rows to create, in the order of their keys; none if missing |
//! | `resolutions` | for each party, how it was found and how it was chosen; not checked if missing |

use std::collections::BTreeMap;

use emulators::Dataverse;
use mailverse::clients::dataverse::records::NewRow;
use mailverse::clients::dataverse::records::{PartyReference, Person, Table};
use mailverse::lookup::companies::{Accounts, Companies};
use mailverse::lookup::result::LookupResult;
use mailverse::mailboxes::Mailboxes;
use mailverse::model::message::Message;
use mailverse::policy::InternalAddresses;
use mailverse::policy::bulk::is_bulk;
use mailverse::policy::document::Settings;
use mailverse::resolve::contacts;
use mailverse::resolve::contacts::Plan;
use mailverse::resolve::parties::Party;
use serde_json::{Value, json};
use uuid::Uuid;

/// Returns the settings of a case.
pub(super) fn settings(given: &Value) -> Settings {
    match &given["settings"] {
        Value::Null => Settings::default(),
        settings => serde_json::from_value(settings.clone()).unwrap(),
    }
}

/// Returns when a row was changed last. `None` if the case does not say.
pub(super) fn modified(row: &Value) -> Option<chrono::DateTime<chrono::Utc>> {
    row["modified"].as_str().map(|text| text.parse().unwrap())
}

/// Returns the rows to create for a case, and adds them to the lookup result.
pub(super) fn make(
    given: &Value,
    message: &Message,
    mailboxes: &Mailboxes,
    domains: &std::collections::HashSet<String>,
    found: &mut LookupResult,
) -> Plan {
    let settings = settings(given);
    let internal = InternalAddresses {
        mailboxes,
        found,
        domains,
    };
    let bulk = is_bulk(message);
    let new_people = contacts::new_people(message, &internal, settings.create_contacts, bulk);
    let asked = contacts::domains(&new_people);
    let asked = asked
        .into_iter()
        .map(|domain| (domain, Accounts::default()));
    let mut companies = Companies(asked.collect::<BTreeMap<_, _>>());
    for row in companies_of(given) {
        let person = Person {
            record: PartyReference {
                table: Table::Account,
                id: id(row),
            },
            active: row["active"] != json!(false),
            account: None,
            changed: modified(row),
        };
        // Accounts count only for a domain that the message's new contacts ask for.
        if let Some(accounts) = companies.0.get_mut(row["domain"].as_str().unwrap()) {
            match row["by"].as_str().unwrap() {
                "website" => accounts.by_website.push(person),
                "address" => accounts.by_address.push(person),
                "contacts" => accounts.of_contacts.push(person),
                other => panic!("`by` must be website, address or contacts (got {other})"),
            }
        }
    }
    let plan = contacts::plan(&new_people, &companies, settings.ambiguous);
    for contact in &plan.contacts {
        found.add_made(contact.address.clone(), contact.person());
    }
    plan
}

/// Returns the bodies of the rows, in the order of their keys.
pub(super) fn bodies<'a>(rows: impl IntoIterator<Item = &'a NewRow>) -> Vec<Value> {
    let mut rows: Vec<&NewRow> = rows.into_iter().collect();
    rows.sort_by_key(|row| row.record.id);
    rows.into_iter()
        .map(|row| Value::Object(row.row.clone()))
        .collect()
}

/// Returns how each party was found and chosen, such as `exact only`.
pub(super) fn resolutions(parties: &[Party]) -> Vec<String> {
    let told = |party: &Party| {
        let resolution = &party.resolution;
        format!(
            "{} {}",
            resolution.matched.as_str(),
            resolution.choice.as_str()
        )
    };
    parties.iter().map(told).collect()
}

/// Returns the rows that a case expects to be created, accounts first.
pub(super) fn expected_rows(expected: &Value) -> Vec<NewRow> {
    let rows = [(Table::Account, "accounts"), (Table::Contact, "contacts")];
    let of_table = |(table, field): (Table, &str)| {
        let bodies = expected[field].as_array().cloned().unwrap_or_default();
        let row = move |body: Value| {
            let row = body.as_object().unwrap().clone();
            let id = row[table.key()].as_str().unwrap().parse().unwrap();
            let record = PartyReference { table, id };
            NewRow { record, row }
        };
        bodies.into_iter().map(row).collect::<Vec<_>>()
    };
    rows.into_iter().flat_map(of_table).collect()
}

/// Inserts the accounts of a case into Dataverse.
pub(super) fn insert_companies(dataverse: &Dataverse, given: &Value) {
    for row in companies_of(given) {
        let account = json!({"accountid": id(row), "name": "Some company"});
        dataverse.insert("account", account).unwrap();
    }
}

fn companies_of(given: &Value) -> &[Value] {
    given["companies"].as_array().map_or(&[], Vec::as_slice)
}

fn id(row: &Value) -> Uuid {
    row["id"].as_str().unwrap().parse().unwrap()
}
