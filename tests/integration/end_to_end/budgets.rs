//! A message never makes the deliveries of other messages fail: messages with very many recipients,
//! and messages that failed before.

use emulators::{Fault, Setting};
use serde_json::{Value, json};

use super::cloud::{Cloud, GRANT};

fn request(id: &str) -> String {
    json!({"version": 1, "grant_id": GRANT, "message_id": id, "trigger": "created"}).to_string()
}

fn put(cloud: &Cloud, id: &str, recipients: usize) {
    let to: Vec<Value> = (0..recipients)
        .map(|n| json!({"email": format!("person{n}@crowd.example")}))
        .chain([json!({"email": "ada@ours.example"})])
        .collect();
    let message = json!({
        "id": id, "subject": "Kites", "body": "<p>Red ones</p>", "date": 1_795_150_000, "folders": ["INBOX"],
        "from": [{"email": format!("{id}@kites.example")}], "to": to,
        "headers": [{"name": "Message-ID", "value": format!("<{id}@kites.example>")}],
    });
    cloud.emulators.nylas().add_message(GRANT, message);
}

/// Starts a cloud whose queue holds requests for these messages, each with an id and a number of
/// recipients.
async fn with_messages(messages: &[(&str, usize)]) -> Cloud {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    for (id, recipients) in messages {
        put(&cloud, id, *recipients);
        cloud.send(&request(id)).await;
    }
    cloud
}

const TEN: [&str; 10] = ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9"];

#[tokio::test]
async fn a_message_with_eight_thousand_recipients_does_not_delay_the_rest_of_its_batch() {
    let messages = TEN.map(|id| (id, if id == "m4" { 8_000 } else { 1 }));
    let cloud = with_messages(&messages).await;
    let slow = Setting::OperationMilliseconds(15);
    cloud.emulators.dataverse().set_setting(slow);
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    assert_eq!(batch.len(), 10);
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    let emails = cloud.emails();
    assert_eq!(emails.len(), 10);
    let large = emails
        .iter()
        .find(|row| row["sender"] == "m4@kites.example");
    let large = large.unwrap()["activityid"].as_str().unwrap();
    let parties = cloud.emulators.dataverse().parties(large.parse().unwrap());
    let sent = parties
        .iter()
        .filter(|party| party["participationtypemask"].as_i64() <= Some(4));
    assert_eq!(sent.count(), 1_000);
    let noted = "left out: 7752 × record of a recipient, 7002 × recipient";
    assert!(cloud.ledger_text().await.contains(noted));
}

#[tokio::test]
async fn resolved_people_limit_bounds_how_many_people_of_a_message_are_looked_up() {
    let cloud = with_messages(&[("m1", 9)]).await;
    let limit = ("RESOLVED_PEOPLE_LIMIT", "4".to_owned());
    let mut worker = cloud.function_with("sync-worker", &[limit]).await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    let noted = "left out: 7 × record of a recipient";
    assert!(cloud.ledger_text().await.contains(noted));
    worker.stop().await;

    let limit = ("RESOLVED_PEOPLE_LIMIT", "0".to_owned());
    let worker = cloud.function_with("sync-worker", &[limit]).await;
    let (status, printed) = worker.finished().await;
    assert!(!status.success());
    assert!(
        printed.contains("RESOLVED_PEOPLE_LIMIT must be a whole number"),
        "{printed}"
    );
}

#[tokio::test]
async fn a_message_that_failed_twice_gets_its_own_lookup_and_write() {
    let cloud = with_messages(&[("m1", 1)]).await;
    let mut worker = cloud.function("sync-worker").await;
    for _ in 0..2 {
        cloud.emulators.dataverse().fail_next(Fault::ResetBefore);
        let batch = cloud.receive().await;
        assert_eq!(cloud.work(&mut worker, &batch).await.len(), 1);
        cloud.make_visible(&batch[0]).await;
    }
    for id in ["m2", "m3"] {
        put(&cloud, id, 1);
        cloud.send(&request(id)).await;
    }
    let before = cloud.emulators.dataverse().requests().total;
    let batch = cloud.receive().await;
    assert_eq!(batch.len(), 3);
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    let requests = cloud.emulators.dataverse().requests().total - before;
    assert_eq!(
        requests, 4,
        "two requests for the others, two for the message that failed before"
    );
    let emails = cloud.emails();
    assert_eq!(emails.last().unwrap()["sender"], "m1@kites.example");
}
