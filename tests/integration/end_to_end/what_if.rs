//! Tests the output of the compiled `mailverse what-if`, and that it writes nothing.

use serde_json::{Value, json};

use super::canary::{self, assert_silent};
use super::cloud::{Cloud, GRANT};
use super::command::{Seen, run};
use super::explaining::Office;
use crate::manual;

/// Long enough ago to include every message of these tests, whatever the clock shows.
const SINCE: [&str; 2] = ["--since", "20000d"];

/// A policy that differs from the defaults, in a file.
struct Plan(tempfile::NamedTempFile);

impl Plan {
    fn of(settings: &Value) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json!({"defaults": settings}).to_string()).unwrap();
        Self(file)
    }

    /// A policy that is stricter in most settings.
    fn stricter() -> Self {
        Self::of(&json!({
            "track": {"received": "known"}, "skip_internal": false, "skip_bulk": true, "content": "subject", "create_contacts": "all",
        }))
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

/// Returns everything that a write could change.
async fn state(cloud: &Cloud) -> impl PartialEq + std::fmt::Debug {
    let dataverse = cloud.emulators.dataverse();
    (
        dataverse.requests().writes,
        dataverse.export(),
        cloud.ledger_items().await,
        cloud.queue_length().await,
    )
}

/// Adds a message like `m1` with some fields changed.
fn put(cloud: &Cloud, id: &str, changes: &Value) {
    let mut message = cloud.put_mail(id)["data"]["object"].clone();
    let fields = message.as_object_mut().unwrap();
    fields.extend(changes.as_object().unwrap().clone());
    cloud.emulators.nylas().add_message(GRANT, message);
}

/// Opens an office whose mailbox has messages of several kinds. Only `m1` and its copy are
/// written.
async fn office() -> Office {
    let office = Office::open().await;
    let cloud = &office.0;
    let from = |email: &str| json!([{"name": canary::NAME, "email": email}]);
    put(
        cloud,
        "stranger",
        &json!({"from": from("canary-address-44ab@else.example")}),
    );
    put(
        cloud,
        "colleague",
        &json!({"from": from("bob@ours.example")}),
    );
    let bulk = json!([
        {"name": "Message-ID", "value": "<bulk@kites.example>"},
        {"name": "List-Id", "value": "<news.kites.example>"},
    ]);
    put(cloud, "bulk", &json!({"headers": bulk}));
    office
}

async fn ask(office: &Office, plan: &Plan, more: &[&str]) -> Seen {
    let arguments = [&["what-if", plan.path()], &SINCE[..], more].concat();
    run(&arguments, &office.all_settings()).await
}

#[tokio::test]
async fn what_if_reports_the_changes_of_a_policy_and_writes_nothing() {
    let office = office().await;
    let cloud = &office.0;
    let before = state(cloud).await;
    let reads = cloud.emulators.dataverse().requests().reads;
    let plan = Plan::stricter();
    let seen = ask(&office, &plan, &["--json"]).await;
    assert_eq!((seen.status, seen.err.as_str()), (Some(0), ""));
    let report = seen.json();
    assert_eq!(report["before"], "default");
    assert_eq!(
        (&report["mailboxes"], &report["messages"]),
        (&json!(2), &json!(5))
    );
    // A message that a colleague sends counts as sent, and all sent messages are tracked.
    let expected = json!({
        "content": {"full → subject": 2},
        "newly_tracked": {"internal_only": 1},
        "no_longer_tracked": {"bulk": 1, "nobody_known": 1},
    });
    assert_eq!(report["counts"], expected, "{report:#}");
    let of = |id: &str| {
        let changes = report["changes"].as_array().unwrap();
        let change = changes.iter().find(|change| change["message_id"] == id);
        change.map(|change| change["change"].clone())
    };
    assert_eq!(of("m1"), Some(json!("content")));
    assert_eq!(of("stranger"), Some(json!("no_longer_tracked")));
    assert_eq!(state(cloud).await, before);
    assert!(
        cloud.emulators.dataverse().requests().reads > reads,
        "the command queried Dataverse"
    );

    let printed = ask(&office, &plan, &[]).await;
    assert_eq!(printed.status, Some(0));
    printed.assert_shows(&[
        "5 messages of 2 mailboxes",
        "1 no longer tracked (nobody_known)",
        "grant-1/stranger: no longer tracked: full → nobody_known",
        "grant-1/m1: different content: full → subject",
    ]);
    let secrets = cloud.secret_texts().await;
    assert_silent(
        "what-if",
        &(seen.out + &printed.out + &printed.err),
        &secrets,
    );
}

#[tokio::test]
async fn the_what_if_transcript_of_the_manual_matches_the_output() {
    let seen = ask(&office().await, &Plan::stricter(), &[]).await;
    let command = format!("mailverse what-if stricter.json {}", SINCE.join(" "));
    manual::assert_shows("docs/cli.md", &command, &seen.out);
}

#[tokio::test]
async fn what_if_reports_newly_tracked_messages_and_contacts_without_creating_any() {
    let office = office().await;
    let cloud = &office.0;
    let push = Plan::of(&json!({"track": {"received": "known"}}));
    let pushed = run(&["policy", "push", push.path()], &office.all_settings()).await;
    assert_eq!(pushed.status, Some(0), "{}", pushed.err);
    let plan = Plan::of(&json!({"skip_internal": false, "create_contacts": "all"}));
    let report = ask(&office, &plan, &["--json", "--mailbox", "Ada@ours.example"]).await;
    let report = report.json();
    assert_eq!(
        (&report["mailboxes"], &report["messages"]),
        (&json!(1), &json!(4))
    );
    assert_eq!(
        report["counts"],
        json!({"newly_tracked": {"internal_only": 1, "nobody_known": 1}})
    );
    let known = Plan::of(&json!({"create_contacts": "all"}));
    let pushed = run(&["policy", "push", known.path()], &office.all_settings()).await;
    assert_eq!(pushed.status, Some(0), "{}", pushed.err);
    let report = ask(&office, &Plan::of(&json!({})), &["--json"])
        .await
        .json();
    assert_eq!(report["counts"], json!({"contacts": {"1 → 0": 1}}));
    let contacts = cloud.emulators.dataverse().rows("contact").len();
    assert_eq!(contacts, 1, "no contact was created");
}

#[tokio::test]
async fn what_if_lists_a_long_mailbox_completely_with_few_calls() {
    let office = office().await;
    for n in 0..450 {
        put(&office.0, &format!("more-{n}"), &json!({}));
    }
    let before = office.0.emulators.nylas().requests();
    let plan = Plan::of(&json!({"content": "snippet"}));
    let seen = ask(&office, &plan, &["--json", "--mailbox", GRANT]).await;
    let report = seen.json();
    assert_eq!(report["messages"], 454, "{}", seen.err);
    assert_eq!(
        report["unchanged"], 1,
        "an internal message is skipped under either policy"
    );
    let calls = office.0.emulators.nylas().requests() - before;
    assert!(
        calls <= 10,
        "{calls} calls; three pages, the mailboxes and their folders need at most 10"
    );
}

#[tokio::test]
async fn what_if_reports_bad_arguments_and_what_it_could_not_find_out() {
    let office = office().await;
    let good = Plan::of(&json!({}));
    let bad = Plan::of(&json!({"track": {"received": "some"}}));
    let seen = ask(&office, &bad, &[]).await;
    assert_eq!((seen.status, seen.out.as_str()), (Some(1), ""));
    assert!(seen.err.contains("defaults.track.received"), "{}", seen.err);
    let seen = ask(&office, &good, &["--mailbox", "nobody@ours.example"]).await;
    assert_eq!((seen.status, seen.out.as_str()), (Some(2), ""));
    let seen = run(&["what-if", good.path()], &office.0.aws_settings()).await;
    assert_eq!(seen.status, Some(2));
    assert!(
        seen.err.contains("DATAVERSE_URL is missing"),
        "{}",
        seen.err
    );
    let mut nowhere = office.all_settings();
    nowhere.push(("DATAVERSE_URL", "http://127.0.0.1:9".to_owned()));
    let arguments = [&["what-if", good.path(), "--json"], &SINCE[..]].concat();
    let seen = run(&arguments, &nowhere).await;
    assert_eq!(seen.status, Some(1), "{}", seen.err);
    let report = seen.json();
    // What can be decided without a lookup is reported.
    assert_eq!(report["unknown"].as_array().unwrap().len(), 4, "{report:#}");
    assert_eq!(report["unchanged"], 1);
}

#[tokio::test]
async fn what_if_sends_no_request_during_a_pause_and_reports_its_end() {
    let office = office().await;
    office.0.begin_pause().await;
    let before = office.0.emulators.dataverse().requests();
    let seen = ask(&office, &Plan::of(&json!({})), &[]).await;
    assert_eq!((seen.status, seen.out.as_str()), (Some(2), ""));
    let said = "Dataverse asked for a pause until 2500-01-01T00:00:00+00:00: run the command again after that";
    assert!(seen.err.contains(said), "{}", seen.err);
    assert_eq!(office.0.emulators.dataverse().requests(), before);
    office.0.end_pause().await;
    let seen = ask(&office, &Plan::of(&json!({})), &[]).await;
    assert_eq!(seen.status, Some(0), "{}", seen.err);
}
