//! Tests on the compiled functions what the template relies on: each metric names its stack, an
//! older policy than before is counted, and a function writes no item of the ledger that its role
//! may not write.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{TimeDelta, Utc};
use mailverse::ledger::policy_document::Pushed;
use mailverse::policy::version_of;
use serde_json::{Value, json};

use super::cloud::{Cloud, GRANT, TABLE};
use super::command::run;
use super::events::{delivery, schedule};

/// Returns name and value of each metric that a function printed. Asserts that each has the
/// dimension `Stack`.
fn counts(printed: &str) -> Vec<(String, u64)> {
    let lines = printed.lines().filter(|line| line.contains("\"_aws\""));
    lines
        .map(|line| {
            let count: Value = serde_json::from_str(line).unwrap();
            let metric = &count["_aws"]["CloudWatchMetrics"][0];
            assert_eq!(metric["Dimensions"], json!([["Stack"]]), "{line}");
            assert_eq!(count["Stack"], "north", "{line}");
            let name = metric["Metrics"][0]["Name"].as_str().unwrap();
            (name.to_owned(), count[name].as_u64().unwrap())
        })
        .collect()
}

fn request(id: &str) -> String {
    json!({"version": 1, "grant_id": GRANT, "message_id": id, "trigger": "created"}).to_string()
}

impl Cloud {
    async fn push(&self, document: &str, seen: Option<&str>) {
        let ledger = self.ledger();
        let version = version_of(document);
        let pushed = ledger.push_policy(document, &version, seen, Utc::now());
        assert_eq!(pushed.await.unwrap(), Pushed::Stored);
    }
}

#[tokio::test]
async fn every_metric_names_its_stack_and_a_return_to_an_older_policy_is_counted() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    let stack = [("STACK_NAME", "north".to_owned())];
    let mut refresher = cloud.function_with("token-refresher", &stack).await;
    refresher.succeed(schedule("2026-11-20T06:00:00Z")).await;
    assert_eq!(
        counts(&refresher.stop().await),
        [("TokenRefreshed".to_owned(), 1)]
    );
    let mut receiver = cloud.function_with("webhook-receiver", &stack).await;
    receiver.succeed(delivery(&cloud.put_mail("m1"))).await;
    let queued = counts(&receiver.stop().await);
    assert_eq!(queued, [("NotificationQueued".to_owned(), 1)]);

    // Two pushes. The worker reads the policy again at once if the document cannot be used.
    let broken = r#"{"defaults": {"new_setting": 1}}"#;
    cloud.push("{}", None).await;
    cloud.push(broken, Some(&version_of("{}"))).await;
    let mut worker = cloud.function_with("sync-worker", &stack).await;
    let batch = cloud.receive().await;
    assert_eq!(
        cloud.work(&mut worker, &batch).await.len(),
        1,
        "the message waits"
    );
    // As after a restore of the table: the item is that of the first push.
    cloud.delete_policy().await;
    cloud.push("{}", None).await;
    cloud.put_mail("m2");
    cloud.send(&request("m2")).await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    let counted = counts(&worker.stop().await);
    let backwards = ("PolicyVersionBackwards".to_owned(), 1);
    assert!(counted.contains(&backwards), "{counted:?}");
    assert!(counted.contains(&("Written".to_owned(), 1)), "{counted:?}");

    // A new process has seen no newer policy, so it counts nothing. The decision record names the
    // push.
    cloud.put_mail("m3");
    cloud.send(&request("m3")).await;
    let mut worker = cloud.function_with("sync-worker", &stack).await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    let counted = counts(&worker.stop().await);
    assert!(!counted.contains(&backwards), "{counted:?}");
    let settings = [
        cloud.aws_settings(),
        vec![("LEDGER_TABLE", TABLE.to_owned())],
    ]
    .concat();
    let policy = format!("policy {}, revision 1\n", version_of("{}"));
    run(&["explain", "grant-1/m3"], &settings)
        .await
        .assert_shows(&[&policy]);
}

/// Returns the patterns of `dynamodb:LeadingKeys` of a role in the template.
fn writable(role: &str) -> Vec<String> {
    let template = std::fs::read_to_string("../template.yaml").unwrap();
    let (_, role) = template.split_once(&format!("\n  {role}:\n")).unwrap();
    let (_, keys) = role.split_once("\"dynamodb:LeadingKeys\": [").unwrap();
    let (keys, _) = keys.split_once(']').unwrap();
    keys.split(", ")
        .map(|key| key.trim_matches('"').to_owned())
        .collect()
}

#[track_caller]
fn assert_only(items: &[BTreeMap<String, AttributeValue>], role: &str) {
    let patterns = writable(role);
    assert!(!items.is_empty());
    for item in items {
        let key = item["pk"].as_s().unwrap();
        let may = patterns
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => key.starts_with(beginning),
                None => key == pattern,
            });
        assert!(may, "{role} may not write {key}: {patterns:?}");
    }
}

#[tokio::test]
async fn a_function_writes_only_items_that_its_role_may_write() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    cloud.put_mail("m1");
    cloud.send(&request("m1")).await;
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    worker.stop().await;
    assert_only(&cloud.ledger_items().await, "SyncWorkerRole");

    let mut backfill = cloud.function("backfill").await;
    let time = Utc::now() - TimeDelta::minutes(1);
    cloud.reconcile(&mut backfill, &time.to_rfc3339()).await;
    backfill.stop().await;
    let items = cloud.ledger_items().await;
    assert_only(&items, "BackfillRole");
    let runs = items
        .iter()
        .filter(|item| item["pk"].as_s().unwrap().starts_with("run#"));
    assert!(runs.count() > 0, "the backfill stored its run");
}
