//! The path of a message without failures, from the webhook or the schedule to the row.

use std::io::Write;

use chrono::{TimeDelta, Utc};
use flate2::Compression;
use flate2::write::GzEncoder;
use mailverse::ledger::policy_document::Pushed;
use mailverse::ledger::{ClaimRequest, ClaimToken, State};
use mailverse::model::ids::MessageKey;
use mailverse::policy::version_of;
use serde_json::{Value, json};

use super::canary::{self, assert_silent};
use super::cloud::{Cloud, GRANT};
use super::events::{delivery, http_event, schedule, signature};

/// Returns the queue message of a message.
fn request(id: &str) -> Value {
    json!({"version": 1, "grant_id": GRANT, "message_id": id, "trigger": "created"})
}

#[tokio::test]
async fn a_signed_notification_becomes_one_completed_email_without_leaking_content() {
    let cloud = Cloud::start(10).await;
    let mut receiver = cloud.function("webhook-receiver").await;

    // Nylas sends the challenge before it has created the secret that it will sign with.
    let challenge = http_event("GET", "challenge=a%20b%2Bc", &[], b"", false);
    let answer = receiver.succeed(challenge).await;
    assert_eq!(
        (&answer["statusCode"], &answer["body"]),
        (&json!(200), &json!("a b+c"))
    );
    assert_eq!(answer["headers"]["content-length"], "5");
    let mut notification = cloud.put_mail("m1");
    assert_eq!(
        receiver.succeed(delivery(&notification)).await["statusCode"],
        503
    );

    cloud.store_secrets().await;
    let refresher_printed = cloud.refresh_token().await;
    let token: Value = serde_json::from_str(&cloud.stored("token").await.unwrap()).unwrap();
    assert!(
        token["access_token"].is_string() && token["expires_at"].is_i64(),
        "{token}"
    );

    // Nylas delivers at least once; a duplicate that a provider causes has its own id.
    let mut queued = String::new();
    let mut worker = cloud.function("sync-worker").await;
    for round in 1..=2 {
        notification["id"] = json!(format!("notification-{round}"));
        let answer = receiver.succeed(delivery(&notification)).await;
        assert_eq!(
            (&answer["statusCode"], &answer["body"]),
            (&json!(200), &json!("ok"))
        );
        let batch = cloud.receive().await;
        assert_eq!(batch.len(), 1, "round {round}");
        let body = batch[0].body().unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(body).unwrap(),
            request("m1"),
            "ids only"
        );
        queued.push_str(&format!("{:?}", batch[0]));
        // A retry of a message that is already queued is acknowledged and does nothing else.
        let again = receiver.succeed(delivery(&notification)).await;
        assert_eq!(again["statusCode"], 200);
        assert_eq!(cloud.queue_length().await.0, "0", "round {round}");
        assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
        assert_eq!(cloud.queue_length().await, ("0".to_owned(), "0".to_owned()));
    }

    let emails = cloud.emails();
    assert_eq!(emails.len(), 1, "{emails:#?}");
    let email = &emails[0];
    assert_eq!(
        (&email["statecode"], &email["statuscode"]),
        (&json!(1), &json!(4))
    );
    assert_eq!(email["subject"], canary::SUBJECT);
    assert_eq!(email["description"], format!("<p>{}</p>", canary::BODY));
    assert_eq!(email["regardingobjectid"]["table"], "contact");
    let id = email["activityid"].as_str().unwrap().parse().unwrap();
    let parties: Vec<(Value, Value, Value)> = cloud
        .emulators
        .dataverse()
        .parties(id)
        .iter()
        .filter(|party| party["participationtypemask"].as_i64() <= Some(4))
        .map(|party| {
            let of = |name: &str| party[name].clone();
            (
                of("participationtypemask"),
                of("addressused"),
                party["partyid"]["table"].clone(),
            )
        })
        .collect();
    let expected = [
        (json!(1), json!(canary::ADDRESS), json!("contact")),
        (json!(2), json!("ada@ours.example"), json!("systemuser")),
    ];
    assert_eq!(parties, expected);

    let secrets = cloud.secret_texts().await;
    assert_eq!(secrets.len(), 4);
    let worker_printed = worker.stop().await;
    assert!(
        worker_printed.contains("message settled"),
        "the worker should write its log here:\n{worker_printed}"
    );
    assert_silent("the receiver's output", &receiver.stop().await, &secrets);
    assert_silent("the worker's output", &worker_printed, &secrets);
    assert_silent("the refresher's output", &refresher_printed, &secrets);
    assert_silent("the queue", &queued, &secrets);
    assert_silent("the ledger", &cloud.ledger_text().await, &secrets);
}

#[tokio::test]
async fn a_skipped_message_is_reported_without_leaking_content() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let document = r#"{"defaults": {"track": {"received": "replies"}}}"#;
    let (ledger, version) = (cloud.ledger(), version_of(document));
    let pushed = ledger.push_policy(document, &version, None, Utc::now());
    assert_eq!(pushed.await.unwrap(), Pushed::Stored);
    let answer = json!([
        {"name": "Message-ID", "value": "<answer@kites.example>"}, {"name": "In-Reply-To", "value": "<m0@kites.example>"},
    ]);
    // The first two rules need no lookup of people and messages, the last one does.
    let skipped = [
        ("spam", json!({"folders": ["SPAM"]})),
        ("not_a_reply", json!({})),
        ("answers_untracked", json!({"headers": answer})),
    ];
    let mut worker = cloud.function("sync-worker").await;
    for (rule, changes) in &skipped {
        let mut object = cloud.put_mail(rule)["data"]["object"].take();
        let fields = object.as_object_mut().unwrap();
        fields.extend(changes.as_object().unwrap().clone());
        cloud.emulators.nylas().add_message(GRANT, object);
        cloud.send(&request(rule).to_string()).await;
        let batch = cloud.receive().await;
        assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
        let key = MessageKey {
            grant_id: GRANT.parse().unwrap(),
            message_id: rule.parse().unwrap(),
        };
        let entry = ledger.entry(&key).await.unwrap().unwrap();
        assert_eq!(
            (entry.state, entry.reason.as_deref()),
            (State::Skipped, Some(*rule))
        );
    }
    assert!(cloud.emails().is_empty());
    let printed = worker.stop().await;
    assert_eq!(
        printed.matches("message settled").count(),
        skipped.len(),
        "{printed}"
    );
    let secrets = cloud.secret_texts().await;
    assert_silent("the worker's output", &printed, &secrets);
    assert_silent("the ledger", &cloud.ledger_text().await, &secrets);
}

#[tokio::test]
async fn the_signature_of_a_compressed_notification_is_verified_before_decompression() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    let mut receiver = cloud.function("webhook-receiver").await;
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed
        .write_all(cloud.put_mail("m1").to_string().as_bytes())
        .unwrap();
    let packed = packed.finish().unwrap();
    let headers = [
        ("content-encoding", "gzip"),
        ("x-nylas-signature", &signature(&packed)),
    ];
    let answer = receiver
        .succeed(http_event("POST", "", &headers, &packed, true))
        .await;
    assert_eq!(answer["statusCode"], 200);
    let batch = cloud.receive().await;
    assert_eq!(
        serde_json::from_str::<Value>(batch[0].body().unwrap()).unwrap(),
        request("m1")
    );
}

#[tokio::test]
async fn the_scheduled_backfill_writes_messages_whose_webhook_was_lost_once() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    // One message came by webhook; 60, more than a page, are only in the mailbox.
    cloud.put_mail("m0");
    cloud.send(&request("m0").to_string()).await;
    let mut worker = cloud.function("sync-worker").await;
    assert_eq!(
        cloud.work(&mut worker, &cloud.receive().await).await,
        [""; 0]
    );
    for n in 1..=60 {
        cloud.put_mail(&format!("m{n}"));
    }
    let mut backfill = cloud.function("backfill").await;
    for (round, repaired) in [(1, 60), (2, 0)] {
        let planned = cloud.reconcile(&mut backfill, "2026-11-20T06:00:00Z").await;
        assert_eq!(
            (&planned["mailboxes"], &planned["stranded"]),
            (&json!(1), &json!(0))
        );
        let expected = json!({
            "listed": 61, "written": 61, "skipped": 0, "waiting": 0, "dead": 0, "repaired": repaired,
        });
        assert_eq!(cloud.coverage(&planned).await, expected, "round {round}");
        assert_eq!(cloud.emails().len(), 61);
    }
    assert_eq!(cloud.queue_length().await, ("0".to_owned(), "0".to_owned()));
    // The first run of the next day lists from the last run on, and the second only the overlap.
    for listed in [61, 0] {
        let planned = cloud.reconcile(&mut backfill, "2026-11-21T06:00:00Z").await;
        assert_eq!(cloud.coverage(&planned).await["listed"], listed);
    }
    let secrets = cloud.secret_texts().await;
    assert_silent("the backfill's output", &backfill.stop().await, &secrets);
    assert_silent("the worker's output", &worker.stop().await, &secrets);
    assert_silent("the ledger", &cloud.ledger_text().await, &secrets);
}

#[tokio::test]
async fn backfill_pauses_while_more_than_ten_live_messages_are_queued() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    for n in 0..12 {
        cloud.put_mail(&format!("m{n}"));
    }
    for n in 0..11 {
        cloud.send(&request(&format!("m{n}")).to_string()).await;
    }
    let mut backfill = cloud.function("backfill").await;
    backfill.succeed(schedule("2026-11-20T06:00:00Z")).await;
    let task = cloud.receive_from(&cloud.tasks).await;
    let back = cloud.work_from(&cloud.tasks, &mut backfill, &task).await;
    assert_eq!(back, [task[0].message_id().unwrap()]);
    assert_eq!(cloud.emulators.dataverse().requests().total, 0);
    // A worker takes ten of them; backfill does not wait for a single one.
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    assert_eq!(batch.len(), 10);
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    cloud.make_visible_in(&cloud.tasks, &task[0]).await;
    assert_eq!(cloud.work_tasks(&mut backfill).await, (1, 0));
    assert_eq!(cloud.emails().len(), 12);
}

#[tokio::test]
async fn a_stranded_message_is_queued_again_once_by_the_scheduled_backfill() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    cloud.put_mail("m1");
    // A scheduled run claimed it three hours ago and died. Today's window no longer reaches back to
    // it.
    let key = MessageKey {
        grant_id: GRANT.parse().unwrap(),
        message_id: "m1".parse().unwrap(),
    };
    let died = ClaimToken::new(uuid::Uuid::new_v4());
    let then = Utc::now() - TimeDelta::hours(3);
    let claim = cloud
        .ledger()
        .claim(&key, &ClaimRequest::new(died, then))
        .await;
    assert!(claim.unwrap().is_won());
    let mut backfill = cloud.function("backfill").await;
    for stranded in [1, 0] {
        let planned = cloud.reconcile(&mut backfill, "2026-12-20T06:00:00Z").await;
        assert_eq!(planned["stranded"], stranded);
        assert_eq!(cloud.coverage(&planned).await["listed"], 0);
    }
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    assert_eq!(batch.len(), 1);
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    assert_eq!(cloud.emails().len(), 1);
}

#[tokio::test]
async fn one_backfill_repairs_dropped_webhooks_and_an_hour_without_a_receiver() {
    const MESSAGES: i64 = 100;
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let mut receiver = cloud.function("webhook-receiver").await;
    let mut worker = cloud.function("sync-worker").await;
    // The last six hours before the schedule fires. In the fourth hour the receiver was down, and
    // one notification of a hundred was lost elsewhere.
    let start = 1_795_154_400 - 6 * 3_600;
    let mut missed = 0;
    for n in 0..MESSAGES {
        let mut notification = cloud.put_mail(&format!("m{n}"));
        let age = n * 6 * 3_600 / MESSAGES;
        let object = &mut notification["data"]["object"];
        object["date"] = json!(start + age);
        cloud.emulators.nylas().add_message(GRANT, object.clone());
        if (3 * 3_600..4 * 3_600).contains(&age) || n == 7 {
            missed += 1;
            continue;
        }
        let answer = receiver.succeed(delivery(&notification)).await;
        assert_eq!(answer["statusCode"], 200);
    }
    loop {
        let batch = cloud.receive().await;
        if batch.is_empty() {
            break;
        }
        assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    }
    let rows = usize::try_from(MESSAGES - missed).unwrap();
    assert_eq!(cloud.emails().len(), rows, "{missed} are missing");
    let mut backfill = cloud.function("backfill").await;
    for repaired in [missed, 0] {
        let planned = cloud.reconcile(&mut backfill, "2026-11-20T06:00:00Z").await;
        let coverage = cloud.coverage(&planned).await;
        assert_eq!(coverage["repaired"], repaired);
        if repaired > 0 {
            assert_eq!(
                (&coverage["listed"], &coverage["written"]),
                (&json!(MESSAGES), &json!(MESSAGES))
            );
        }
        assert_eq!(cloud.emails().len(), 100);
    }
}
