//! Golden cases of the mapping: `tests/fixtures/mapping/<case>.email.json` is the input,
//! `<case>.activity.json` the expected output.
//!
//! A new case is two files and no code. The input has the message object as Nylas returns it, the
//! connected mailboxes, the rows that the lookup found, the mailbox's user (`owner`), and the text
//! of each file. The expected output was written by hand from the column table of
//! `shared/src/mapping/email.rs`. Its ids are UUIDv5, calculated with another program.
//!
//! | Question | File |
//! | --- | --- |
//! | What else may a case contain about people? | `mapping/people.rs` |
//! | What is a case that runs through the whole pipeline, with policy, folders, tokens and threads? | `mapping/stories.rs` |
//! | Does every rule have its cases? | `../fixtures/mapping/README.md`, `mapping/table.rs` |

mod people;
mod stories;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use emulators::Emulators;
use mailverse::clients::dataverse::DataverseClient;
use mailverse::clients::dataverse::email_row::EmailWrite;
use mailverse::clients::dataverse::emails::{CreateOutcome, WriteMode};
use mailverse::clients::dataverse::records::{PartyReference, Person, Table};
use mailverse::clients::dataverse::session::Session;
use mailverse::clients::nylas::wire;
use mailverse::lookup::result::LookupResult;
use mailverse::mailboxes::Mailboxes;
use mailverse::mapping::{self, Direction, Findings};
use mailverse::model::address::EmailAddress;
use mailverse::model::ids::ActivityId;
use mailverse::model::message::{Message, omissions_note};
use mailverse::policy::InternalAddresses;
use mailverse::policy::document::Settings;
use mailverse::resolve::regarding::{RegardingDecision, RegardingInput, RegardingStep};
use mailverse::resolve::{parties, regarding};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Returns input and expected output of each case, by its name.
fn cases() -> BTreeMap<String, (Value, Value)> {
    let mut names = BTreeSet::new();
    for path in fixtures() {
        let file = path.file_name().unwrap().to_str().unwrap();
        let half = file
            .strip_suffix(".email.json")
            .or_else(|| file.strip_suffix(".activity.json"));
        match half {
            Some(name) => drop(names.insert(name.to_owned())),
            None if file == "README.md" || file.ends_with(".story.json") => {}
            None => panic!("{file} does not belong to a case"),
        }
    }
    let half = |name: &str, half: &str| read(&folder().join(format!("{name}.{half}.json")));
    let case = |name: String| {
        let both = (half(&name, "email"), half(&name, "activity"));
        (name, both)
    };
    names.into_iter().map(case).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/mapping")
}

/// Returns the paths of all files of the cases.
fn fixtures() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn read(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list<'a>(given: &'a Value, field: &str) -> &'a [Value] {
    given[field]
        .as_array()
        .unwrap_or_else(|| panic!("{field} is not a list"))
}

fn table(row: &Value) -> Table {
    let name = row["table"].as_str().unwrap();
    Table::ALL
        .into_iter()
        .find(|table| table.name() == name)
        .unwrap()
}

fn id(value: &Value) -> Option<Uuid> {
    value.as_str().map(|text| text.parse().unwrap())
}

fn found(given: &Value) -> LookupResult {
    let mut found = LookupResult::default();
    for row in list(given, "organisation") {
        let person = Person {
            record: PartyReference {
                table: table(row),
                id: id(&row["id"]).unwrap(),
            },
            active: row["active"] != json!(false),
            account: id(&row["account"]),
            changed: people::modified(row),
        };
        found.add_person(
            EmailAddress::parse(row["address"].as_str().unwrap()).unwrap(),
            person,
        );
    }
    found
}

/// Returns what the pure steps produce for a case, in the form of the expected output.
fn mapped(given: &Value) -> Value {
    let grant = given["grant_id"].as_str().unwrap().parse().unwrap();
    let message = wire::message(&grant, &given["message"]).unwrap();
    let grants: Vec<wire::Grant> = list(given, "mailboxes")
        .iter()
        .filter_map(wire::grant)
        .collect();
    let domains = list(given, "internal_domains").iter();
    let domains = domains
        .map(|domain| domain.as_str().unwrap().to_owned())
        .collect::<HashSet<_>>();
    let mailboxes = Mailboxes::new(&grants);
    let mut found = found(given);
    let plan = people::make(given, &message, &mailboxes, &domains, &mut found);
    let internal = InternalAddresses {
        mailboxes: &mailboxes,
        found: &found,
        domains: &domains,
    };
    let outgoing = message
        .from
        .as_ref()
        .is_some_and(|sender| internal.contains(sender));
    let findings = Findings {
        direction: if outgoing {
            Direction::Outgoing
        } else {
            Direction::Incoming
        },
        parties: parties::of_message(&message, &internal, people::settings(given).ambiguous),
        regarding: decided(&message, &internal, &people::settings(given)),
        owner: id(&given["owner"]),
    };
    let email = mapping::email(&message, &findings);
    let files = message
        .attachments
        .iter()
        .enumerate()
        .map(|(position, attachment)| {
            let text = given["files"][attachment.id.as_str()].as_str().unwrap();
            mapping::attachment_row(email.activity_id, position, attachment, text.as_bytes())
        });
    json!({
        "accounts": people::bodies(&plan.accounts),
        "contacts": people::bodies(plan.contacts.iter().map(|contact| &contact.row)),
        "resolutions": people::resolutions(&findings.parties),
        "attachments": files.collect::<Vec<_>>(),
        "completion": email.completion,
        "left_out": omissions_note(&message.omissions),
        "email": email.row,
    })
}

/// Resolves the regarding with the settings of the case.
fn decided(
    message: &Message,
    internal: &InternalAddresses<'_>,
    settings: &Settings,
) -> RegardingDecision {
    let nylas_message = RegardingInput {
        message,
        found: internal.found,
        internal,
        folder: None,
        settings: &settings.regarding,
        ambiguous: settings.ambiguous,
        tokens: &[],
    };
    match regarding::decide(&nylas_message) {
        RegardingStep::Decided(decision) => decision,
        RegardingStep::Ask(further) => panic!("another lookup is needed: {further:?}"),
    }
}

#[test]
fn every_mapping_case_gives_the_expected_rows() {
    let cases = cases();
    assert!(
        cases.len() >= 10,
        "expected at least 10 cases in tests/fixtures/mapping, found {}",
        cases.len()
    );
    let mut differences = Vec::new();
    for (name, (given, expected)) in &cases {
        let mapped = mapped(given);
        for part in [
            "email",
            "attachments",
            "completion",
            "left_out",
            "accounts",
            "contacts",
            "resolutions",
        ] {
            let expects = |value: &Value| match (part, value) {
                ("resolutions", Value::Null) => mapped[part].clone(),
                ("accounts" | "contacts", Value::Null) => json!([]),
                (_, value) => value.clone(),
            };
            if mapped[part] != expects(&expected[part]) {
                let (mapped, expected) = (&mapped[part], &expected[part]);
                differences.push(format!(
                    "{name}: {}\n{part} is {mapped:#}\ninstead of {expected:#}",
                    given["rule"]
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}

/// Checks that Dataverse accepts the expected rows and drops no part of them. Otherwise they would
/// prove nothing.
#[tokio::test]
async fn dataverse_accepts_the_expected_rows_of_every_mapping_case() {
    for (name, (given, expected)) in cases() {
        let emulators = Emulators::start().await.unwrap();
        let dataverse = emulators.dataverse();
        for row in list(&given, "organisation") {
            insert(dataverse, row);
        }
        people::insert_companies(dataverse, &given);
        let client = DataverseClient::new(
            mailverse::clients::http::client().unwrap(),
            &dataverse.url().parse().unwrap(),
        );
        let object = |value: &Value| value.as_object().unwrap().clone();
        let email = EmailWrite {
            activity_id: ActivityId::new(id(&expected["email"]["activityid"]).unwrap()),
            row: object(&expected["email"]),
            attachments: list(&expected, "attachments")
                .iter()
                .map(object)
                .collect::<Vec<Map<_, _>>>(),
            completion: object(&expected["completion"]),
        };
        let token = emulators.entra().issue_token(&dataverse.url(), 600);
        let session = Session::new(token.into());
        let made = people::expected_rows(&expected);
        let outcomes = client
            .create_rows(&session, &made, WriteMode::default())
            .await;
        assert_eq!(
            outcomes,
            vec![Ok(CreateOutcome::Created); made.len()],
            "{name}"
        );
        let outcome = client.write(&session, &[email]).await;
        assert_eq!(outcome, [Ok(CreateOutcome::Created)], "{name}");
        assert_eq!(dataverse.dropped(), [], "{name}");
    }
}

fn insert(dataverse: &emulators::Dataverse, row: &Value) {
    let table = table(row);
    let mut values = json!({table.key(): row["id"], table.address_columns()[0]: row["address"]});
    let name = match table {
        Table::Account | Table::Queue => "name",
        _ => "lastname",
    };
    values[name] = json!("Somebody");
    if row["active"] == json!(false) {
        values["statecode"] = json!(1);
    }
    dataverse.insert(table.name(), values).unwrap();
}
