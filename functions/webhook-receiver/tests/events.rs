//! Checks that the saved events in `events/` match the table in its README, and that the receiver
//! accepts the deliveries among them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use lambda_http::Request;
use mailverse::clients::aws::queue::MemoryQueue;
use mailverse::model::sync_request::SyncRequest;
use serde_json::{Value, json};
use webhook_receiver::signature::Key;
use webhook_receiver::webhook_secrets::WebhookSecrets;
use webhook_receiver::{Receiver, RequestOutcome, event};

/// The kind of a file's content.
#[derive(Debug, PartialEq)]
enum Found {
    Queued,
    Ignored,
    Requests(Vec<SyncRequest>),
    Schedule(DateTime<Utc>),
}

impl Found {
    /// Returns the word that the README's third column has for this kind.
    fn described(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Ignored => "ignored",
            Self::Requests(_) => "sync-worker",
            Self::Schedule(_) => "backfill",
        }
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../events"))
}

/// Returns the events by file name.
fn events() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap());
    files
        .filter(|file| file.file_name() != "README.md")
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            (name, std::fs::read_to_string(file.path()).unwrap())
        })
        .collect()
}

/// Returns the third column of the README's table, by file name.
fn described() -> BTreeMap<String, String> {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let rows = readme.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, file, what, reader, source, _] = cells.as_slice() else {
            return None;
        };
        let file = file.strip_prefix('`')?.strip_suffix(".json`")?;
        assert!(!what.is_empty() && !source.is_empty(), "{line}");
        Some((format!("{file}.json"), (*reader).to_owned()))
    });
    rows.collect()
}

async fn found(text: &str) -> Found {
    let value: Value = serde_json::from_str(text).unwrap();
    if let Some(records) = value.get("Records").and_then(Value::as_array) {
        return Found::Requests(records.iter().map(queued_request).collect());
    }
    if value.get("detail-type").is_some() {
        assert_eq!(value["source"], "aws.scheduler");
        let time = DateTime::parse_from_rfc3339(value["time"].as_str().unwrap()).unwrap();
        return Found::Schedule(time.to_utc());
    }
    let delivery = if value.get("requestContext").is_some() {
        text.to_owned()
    } else {
        bare_delivery(text)
    };
    received(event::request(&delivery).unwrap()).await
}

fn queued_request(record: &Value) -> SyncRequest {
    assert_eq!(record["eventSource"], "aws:sqs");
    SyncRequest::from_body(record["body"].as_str().unwrap()).unwrap()
}

/// Wraps a bare notification in an event of a function URL.
fn bare_delivery(body: &str) -> String {
    json!({
        "version": "2.0", "rawPath": "/", "rawQueryString": "", "headers": {}, "body": body, "isBase64Encoded": false,
        "requestContext": {"timeEpoch": 0, "http": {"method": "POST", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"}},
    })
    .to_string()
}

async fn received(mut request: Request) -> Found {
    assert!(!request.headers().contains_key("x-nylas-signature"));
    let key = Key::new(&"a secret for this test".into()).unwrap();
    let signature = key.sign(request.body()).parse().unwrap();
    request.headers_mut().insert("x-nylas-signature", signature);

    let receiver = Receiver::new(MemoryQueue::default(), WebhookSecrets::fixed(key, None));
    let answer = receiver.handle(request, Utc::now()).await;
    assert_eq!(answer.response.status(), 200);
    match answer.outcome {
        RequestOutcome::Queued(_) => Found::Queued,
        RequestOutcome::Ignored { .. } => Found::Ignored,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_readme_lists_every_file_and_no_other() {
    let listed: BTreeSet<String> = described().into_keys().collect();
    let there: BTreeSet<String> = events().into_keys().collect();
    assert_eq!(listed, there);
}

#[tokio::test]
async fn every_file_matches_its_description_in_the_readme() {
    let described = described();
    for (file, text) in events() {
        let found = found(&text).await;
        let column = &described[&file];
        assert!(
            column.ends_with(found.described()),
            "{file}: {column}, found {found:?}"
        );
    }
}

/// Returns the message objects of the bare notifications, by grant id and message id.
fn messages() -> BTreeMap<String, Value> {
    let events = events();
    let values = events
        .values()
        .map(|text| serde_json::from_str(text).unwrap());
    values
        .filter_map(|value: Value| {
            let object = value.pointer("/data/object")?;
            let key = format!(
                "{}/{}",
                object["grant_id"].as_str()?,
                object["id"].as_str()?
            );
            Some((key, object.clone()))
        })
        .collect()
}

#[tokio::test]
async fn queue_and_schedule_events_refer_to_existing_messages() {
    let messages = messages();
    for (file, text) in events() {
        match found(&text).await {
            Found::Requests(requests) => {
                assert!(!requests.is_empty());
                for request in requests {
                    assert!(
                        messages.contains_key(&request.key.to_string()),
                        "{file}: {request:?}"
                    );
                }
            }
            Found::Schedule(time) => {
                let day = (time - TimeDelta::hours(24)).timestamp()..time.timestamp();
                let dates = messages
                    .values()
                    .filter_map(|object| object["date"].as_i64());
                assert!(
                    dates.filter(|date| day.contains(date)).count() > 10,
                    "{file}"
                );
            }
            Found::Queued | Found::Ignored => {}
        }
    }
}

#[test]
fn the_samples_use_only_reserved_domains() {
    for (file, text) in events() {
        for (at, _) in text.match_indices('@') {
            let domain: String = text[at + 1..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
                .collect();
            let reserved = ["example.com", "example.org", "example.net"];
            let is_reserved = reserved
                .iter()
                .any(|name| domain == *name || domain.ends_with(&format!(".{name}")));
            assert!(is_reserved, "{file}: {domain}");
        }
    }
}
