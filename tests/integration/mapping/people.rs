//! What a golden case says of people, and what has to come of it.
//!
//! | Given | Is |
//! | --- | --- |
//! | `settings` | as in the policy document; what is left out has its default |
//! | `organisation[].modified` | when the row was changed last |
//! | `companies[]` | accounts that stand for a `domain`, found `by` `website`, `address` or `contacts`; a domain that none is given for has none |
//!
//! | Has to come out | Is |
//! | --- | --- |
//! | `accounts`, `contacts` | the rows to make, in the order of their keys; none when left out |
//! | `resolutions` | of each party by what it was found and how it was chosen; anything when left out |

use std::collections::BTreeMap;

use mailverse::contacts::{self, Plan};
use mailverse::dataverse::companies::{Accounts, Companies};
use mailverse::dataverse::look_up::Found;
use mailverse::dataverse::rows::NewRow;
use mailverse::dataverse::rows::{Person, Record, Table};
use mailverse::mailboxes::Mailboxes;
use mailverse::message::Message;
use mailverse::parties::Party;
use mailverse::policy::Inside;
use mailverse::policy::bulk::is_bulk;
use mailverse::policy::document::Settings;
use serde_json::{Value, json};
use twin::Dataverse;
use uuid::Uuid;

/// The settings of a case.
pub(super) fn settings(given: &Value) -> Settings {
    match &given["settings"] {
        Value::Null => Settings::default(),
        settings => serde_json::from_value(settings.clone()).unwrap(),
    }
}

/// When a row was changed last.
pub(super) fn modified(row: &Value) -> Option<chrono::DateTime<chrono::Utc>> {
    row["modified"].as_str().map(|text| text.parse().unwrap())
}

/// The rows to make for a case. They count as found from here on.
pub(super) fn make(
    given: &Value,
    message: &Message,
    mailboxes: &Mailboxes,
    domains: &std::collections::HashSet<String>,
    found: &mut Found,
) -> Plan {
    let settings = settings(given);
    let inside = Inside {
        mailboxes,
        found,
        domains,
    };
    let bulk = is_bulk(message);
    let newcomers = contacts::newcomers(message, &inside, settings.create_contacts, bulk);
    let asked = contacts::domains(&newcomers);
    let asked = asked
        .into_iter()
        .map(|domain| (domain, Accounts::default()));
    let mut companies = Companies(asked.collect::<BTreeMap<_, _>>());
    for row in companies_of(given) {
        let person = Person {
            record: Record {
                table: Table::Account,
                id: id(row),
            },
            active: row["active"] != json!(false),
            account: None,
            changed: modified(row),
        };
        // Somebody has to ask for it.
        if let Some(accounts) = companies.0.get_mut(row["domain"].as_str().unwrap()) {
            match row["by"].as_str().unwrap() {
                "website" => accounts.by_website.push(person),
                "address" => accounts.by_address.push(person),
                "contacts" => accounts.of_contacts.push(person),
                other => panic!("found by {other}?"),
            }
        }
    }
    let plan = contacts::plan(&newcomers, &companies, settings.ambiguous);
    for contact in &plan.contacts {
        found.add_made(contact.address.clone(), contact.person());
    }
    plan
}

/// The bodies of rows, in the order of their keys.
pub(super) fn bodies<'a>(rows: impl IntoIterator<Item = &'a NewRow>) -> Vec<Value> {
    let mut rows: Vec<&NewRow> = rows.into_iter().collect();
    rows.sort_by_key(|row| row.record.id);
    rows.into_iter()
        .map(|row| Value::Object(row.row.clone()))
        .collect()
}

/// `exact only`, for each party.
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

/// The rows that a case expects to be made, accounts first.
pub(super) fn expected_rows(expected: &Value) -> Vec<NewRow> {
    let rows = [(Table::Account, "accounts"), (Table::Contact, "contacts")];
    let of_table = |(table, field): (Table, &str)| {
        let bodies = expected[field].as_array().cloned().unwrap_or_default();
        let row = move |body: Value| {
            let row = body.as_object().unwrap().clone();
            let id = row[table.key()].as_str().unwrap().parse().unwrap();
            let record = Record { table, id };
            NewRow { record, row }
        };
        bodies.into_iter().map(row).collect::<Vec<_>>()
    };
    rows.into_iter().flat_map(of_table).collect()
}

/// Puts the accounts of a case into an organisation.
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
