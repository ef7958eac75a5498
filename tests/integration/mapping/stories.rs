//! Golden cases of the whole pipeline. A file `tests/fixtures/mapping/<case>.story.json` has a
//! message in a mailbox, the policy and the organisation, and exactly what must be in Dataverse
//! afterwards. Organisation and mailboxes are those of [`crate::test_organisation`]. A new case is
//! one file and no code.
//!
//! | Input | Meaning | If missing |
//! | --- | --- | --- |
//! | `policy` | the policy document | no document |
//! | `mailbox` | the grant whose mailbox has the message | Ada's |
//! | `folders` | folders of that mailbox, as Nylas lists them, in addition to the standard ones | none |
//! | `custom_table` | a table `new_project` with a lookup to contacts and accounts; `has_activities` says whether an email can concern its rows | none |
//! | `unique_message_ids` | `false`: two emails may have one Message-ID | they may not |
//! | `organisation` | additional rows, as `table` and `row`: earlier emails with their `trackingtoken` or `messageid`, opportunities, cases, … | none |
//! | `message` | what differs from [`nylas_message`]: Carol writes to Ada | nothing |
//! | `files` | the text of each file, by its id | none |
//!
//! | Expected | Meaning | If missing |
//! | --- | --- | --- |
//! | `skipped` | the rule that excludes the message: nothing is written | it is written |
//! | `row` | the columns that differ from the row of Carol's message ([`row_of_carols_mail`]), null for an empty column | none differs |
//! | `people` | role, address and row of each party | Carol wrote to Ada |
//! | `evidence` | the candidates for the regarding: source, outcome, records | Carol herself |
//! | `files` | name and text of each attachment | none |
//! | `made` | the contacts and accounts that are created | none |
//!
//! A lookup column is written as `table/id`. Everything else in the organisation must stay
//! unchanged.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use emulators::Setting;
use futures_util::{StreamExt, stream};
use mailverse::decision_record::DecisionRecord;
use mailverse::policy::Policy;
use mailverse::policy::cache::PolicySource;
use serde_json::{Map, Value, json};

use super::{fixtures, read};
use crate::test_organisation::{
    ADA, TestOrganisation, assert_skipped, key, nylas_message, written,
};

/// The number of cases that run at the same time.
const AT_ONCE: usize = 4;

/// Columns that Dataverse fills in.
const OF_THE_PLATFORM: [&str; 12] = [
    "activitytypecode",
    "attachmentcount",
    "createdby",
    "createdon",
    "emailsender",
    "isregularactivity",
    "modifiedby",
    "modifiedon",
    "owningbusinessunit",
    "owninguser",
    "prioritycode",
    "versionnumber",
];

/// Further columns that Dataverse fills in for a contact or an account.
const OF_PEOPLE_BY_THE_PLATFORM: [&str; 4] = ["fullname", "ownerid", "statecode", "statuscode"];

fn stories() -> BTreeMap<String, Value> {
    let stories = fixtures().into_iter().filter_map(|path| {
        let file = path.file_name().unwrap().to_str().unwrap();
        let name = file.strip_suffix(".story.json")?.to_owned();
        Some((name, read(&path)))
    });
    stories.collect()
}

fn list<'a>(story: &'a Value, field: &str) -> &'a [Value] {
    match &story[field] {
        Value::Null => &[],
        list => list.as_array().unwrap(),
    }
}

/// Returns a row, or a part of one, without empty columns and without those that Dataverse fills
/// in.
fn shown(row: &Value) -> Map<String, Value> {
    let columns = row.as_object().unwrap().iter();
    let own = columns
        .filter(|(name, value)| !OF_THE_PLATFORM.contains(&name.as_str()) && !value.is_null());
    own.map(|(name, value)| (name.clone(), lookup(value)))
        .collect()
}

/// Returns a lookup as `contact/…`, and any other value unchanged.
fn lookup(value: &Value) -> Value {
    match (value["table"].as_str(), value["id"].as_str()) {
        (Some(table), Some(id)) => Value::from(format!("{table}/{id}")),
        _ => value.clone(),
    }
}

/// Returns the row of Carol's message in a case that changes nothing.
fn row_of_carols_mail() -> Map<String, Value> {
    let date = "2026-11-20T04:46:40Z";
    let row = json!({
        "activityid": "295e4350-9df6-53a5-a58b-207ee1898a45", "messageid": "<m1@kites.example>",
        "subject": "Kites for spring", "description": "<p>Two red ones, please.</p>",
        "sender": "carol@kites.example", "torecipients": "ada@ours.example", "directioncode": false,
        "actualstart": date, "actualend": date, "sortdate": date, "statecode": 1, "statuscode": 4,
        "regardingobjectid": "contact/0000000c-0000-4000-8000-000000000002",
        "ownerid": "systemuser/0000000a-0000-4000-8000-000000000001",
    });
    shown(&row)
}

/// Runs a case. Returns the row of the message with its parties, the evidence and what was created,
/// or the rule by which the message was skipped.
async fn told(story: &Value) -> Value {
    let mut organisation = TestOrganisation::start().await;
    let text = story["policy"].to_string();
    let document = if story["policy"].is_null() {
        "{}"
    } else {
        &text
    };
    organisation.pipeline.policy = PolicySource::given(Policy::parse(document).unwrap());
    let mailbox = story["mailbox"].as_str().unwrap_or(ADA);
    for folder in list(story, "folders") {
        organisation
            .emulators
            .nylas()
            .add_folder(mailbox, folder.clone());
    }
    if let Some(has_activities) = story["custom_table"]["has_activities"].as_bool() {
        let customer = ("new_customerid", &["account", "contact"][..]);
        let added = organisation.emulators.dataverse();
        added
            .add_table("new_project", customer, has_activities)
            .unwrap();
    }
    if let Some(unique) = story["unique_message_ids"].as_bool() {
        let dataverse = organisation.emulators.dataverse();
        dataverse.set_setting(Setting::UniqueMessageIds(unique));
    }
    for row in list(story, "organisation") {
        organisation.insert(row["table"].as_str().unwrap(), row["row"].clone());
    }
    let changes = match &story["message"] {
        Value::Null => json!({}),
        changes => changes.clone(),
    };
    organisation.put(mailbox, nylas_message("m1", &changes));
    for (id, text) in story["files"].as_object().into_iter().flatten() {
        let file = list(&changes, "attachments")
            .iter()
            .find(|file| file["id"] == **id);
        let bytes = text.as_str().unwrap().as_bytes().to_vec();
        let nylas = organisation.emulators.nylas();
        nylas.add_attachment(mailbox, "m1", file.unwrap().clone(), bytes);
    }
    let before = everything(&organisation);
    let outcome = organisation.deliver_one(mailbox, "m1").await;
    let mut after = everything(&organisation);
    if let mailverse::pipeline::Outcome::Skipped { rule } = &outcome {
        assert_skipped(&outcome, rule);
        assert_eq!(after, before, "nothing is written");
        return json!({"skipped": rule});
    }
    let id = written(&outcome).0;
    let dataverse = organisation.emulators.dataverse();
    let mut new = |table: &str| -> Vec<Map<String, Value>> {
        let rows = after.remove(table).unwrap();
        let new = rows.iter().filter(|row| !before[table].contains(row));
        new.map(shown).collect()
    };
    let emails = new("email");
    assert_eq!(
        emails.len(),
        1,
        "one new row, and no existing row is changed"
    );
    let made = ["contact", "account"].map(|table| {
        let mut rows = new(table);
        for row in &mut rows {
            row.retain(|column, _| !OF_PEOPLE_BY_THE_PLATFORM.contains(&column.as_str()));
        }
        (table, rows)
    });
    for (table, rows) in after {
        assert_eq!(rows, before[&table], "{table}");
    }
    let kept = organisation
        .pipeline
        .ledger
        .stored_message(&key(mailbox, "m1"))
        .await
        .unwrap();
    let record = DecisionRecord::parse(&kept.unwrap().decision.unwrap()).unwrap();
    json!({
        "row": emails[0],
        "people": dataverse.parties(id).iter().filter_map(person).collect::<Vec<_>>(),
        "evidence": evidence(&record),
        "files": dataverse.attachments(id).iter().map(file).collect::<Vec<_>>(),
        "made": BTreeMap::from(made),
    })
}

/// Returns the rows of all tables that a case may change or must leave unchanged.
fn everything(organisation: &TestOrganisation) -> BTreeMap<String, Vec<Value>> {
    let tables = [
        "email",
        "contact",
        "account",
        "lead",
        "opportunity",
        "incident",
        "systemuser",
        "queue",
    ];
    let rows = |table: &str| {
        (
            table.to_owned(),
            organisation.emulators.dataverse().rows(table),
        )
    };
    tables.into_iter().map(rows).collect()
}

/// Returns sender and recipients as text. `None` for a party that Dataverse adds.
fn person(party: &Value) -> Option<Value> {
    let role = match party["participationtypemask"].as_i64()? {
        1 => "from",
        2 => "to",
        3 => "cc",
        4 => "bcc",
        _ => return None,
    };
    let words = [
        json!(role),
        party["addressused"].clone(),
        lookup(&party["partyid"]),
    ];
    let words = words.iter().filter_map(Value::as_str);
    Some(Value::from(words.collect::<Vec<_>>().join(" ")))
}

fn evidence(record: &DecisionRecord) -> Vec<String> {
    let candidates = record.regarding.iter().flat_map(|it| &it.candidates);
    let told = candidates.map(|one| {
        let records = one.records.iter().map(|row| row.0.as_str());
        let words = [one.source.as_str(), one.outcome.as_str()].into_iter();
        words.chain(records).collect::<Vec<_>>().join(" ")
    });
    told.collect()
}

fn file(row: &Value) -> Value {
    let bytes = STANDARD.decode(row["body"].as_str().unwrap()).unwrap();
    json!([row["filename"], String::from_utf8(bytes).unwrap()])
}

/// Returns the expected output of the case, with defaults for missing parts.
fn expected(story: &Value) -> Value {
    let expected = &story["expected"];
    if !expected["skipped"].is_null() {
        assert_eq!(
            expected.as_object().unwrap().len(),
            1,
            "a skipped case expects nothing else"
        );
        return expected.clone();
    }
    let mut row = row_of_carols_mail();
    for (column, value) in expected["row"].as_object().into_iter().flatten() {
        if value.is_null() {
            assert!(
                row.remove(column).is_some(),
                "{column} is empty by default: remove it from the case"
            );
        } else {
            row.insert(column.clone(), value.clone());
        }
    }
    let or = |field: &str, otherwise: Value| match &expected[field] {
        Value::Null => otherwise,
        value => value.clone(),
    };
    let carol = "contact/0000000c-0000-4000-8000-000000000002";
    let people = json!([
        format!("from carol@kites.example {carol}"),
        "to ada@ours.example systemuser/0000000a-0000-4000-8000-000000000001"
    ]);
    let made = |table: &str| {
        expected["made"][table]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    json!({
        "row": row,
        "people": or("people", people),
        "evidence": or("evidence", json!([format!("contact hit {carol}")])),
        "files": or("files", json!([])),
        "made": {"contact": made("contact"), "account": made("account")},
    })
}

#[tokio::test]
async fn every_story_ends_with_the_expected_rows() {
    let stories = stories();
    assert!(
        stories.len() >= 60,
        "expected at least 60 cases in tests/fixtures/mapping, found {}",
        stories.len()
    );
    let outcomes =
        stream::iter(&stories).map(async |(name, story)| (name, story, told(story).await));
    let outcomes: Vec<_> = outcomes.buffered(AT_ONCE).collect().await;
    let mut differences = Vec::new();
    for (name, story, told) in outcomes {
        let expected = expected(story);
        if told != expected {
            let rule = &story["rule"];
            differences.push(format!(
                "{name}: {rule}\nis {told:#}\ninstead of {expected:#}"
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
}
