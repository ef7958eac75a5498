//! Tests what the functions do when a request, a queue message, a service or a setting is faulty.

use emulators::Fault;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::canary::assert_silent;
use super::cloud::{Cloud, GRANT};
use super::events::{delivery, http_event, schedule, signature};
use super::lambda::Function;

fn request(id: &str) -> String {
    json!({"version": 1, "grant_id": GRANT, "message_id": id, "trigger": "created"}).to_string()
}

#[tokio::test]
async fn an_unsigned_or_unreadable_notification_is_not_queued() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    let mut receiver = cloud.function("webhook-receiver").await;
    let body = cloud.put_mail("m1").to_string();
    let good = signature(body.as_bytes());
    let cut = &body[..body.len() / 2];
    let post = |headers: &[(&str, &str)], body: &str| {
        http_event("POST", "", headers, body.as_bytes(), false)
    };
    let signed = |body: &str| post(&[("x-nylas-signature", &signature(body.as_bytes()))], body);
    for (what, event, status) in [
        (
            "the signature of another body",
            post(&[("x-nylas-signature", &good)], &body.replace("m1", "m2")),
            401,
        ),
        (
            "a signature that is not hexadecimal",
            post(&[("x-nylas-signature", "sha256=x")], &body),
            401,
        ),
        ("no signature", post(&[], &body), 401),
        ("a truncated body", signed(cut), 400),
        ("not JSON", signed("<xml>"), 400),
        (
            "no ids",
            signed(r#"{"type": "message.created", "data": {"object": {"grant_id": 7}}}"#),
            400,
        ),
        (
            "not UTF-8",
            http_event(
                "POST",
                "",
                &[("x-nylas-signature", &signature(b"\xff{}"))],
                b"\xff{}",
                true,
            ),
            400,
        ),
        (
            "another HTTP method",
            http_event(
                "PUT",
                "",
                &[("x-nylas-signature", &good)],
                body.as_bytes(),
                false,
            ),
            405,
        ),
        ("no challenge", http_event("GET", "", &[], b"", false), 400),
        (
            "a type that is not handled",
            signed(r#"{"type": "grant.expired", "data": {}}"#),
            200,
        ),
    ] {
        assert_eq!(
            receiver.succeed(event).await["statusCode"],
            status,
            "{what}"
        );
    }
    assert_eq!(cloud.queue_length().await, ("0".to_owned(), "0".to_owned()));
    assert_silent(
        "the receiver's output",
        &receiver.stop().await,
        &cloud.secret_texts().await,
    );
}

#[tokio::test]
async fn a_notification_that_cannot_be_queued_is_answered_503() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    let mut receiver = cloud.function("webhook-receiver").await;
    let event = delivery(&cloud.put_mail("m1"));
    cloud
        .sqs
        .delete_queue()
        .queue_url(&cloud.queue)
        .send()
        .await
        .unwrap();
    let answer = receiver.succeed(event).await;
    assert_eq!(
        (&answer["statusCode"], &answer["body"]),
        (&json!(503), &json!("unavailable"))
    );
    assert_silent(
        "the receiver's output",
        &receiver.stop().await,
        &cloud.secret_texts().await,
    );
}

#[tokio::test]
async fn an_unreadable_queue_message_fails_alone_and_reaches_the_dead_letter_queue_unchanged() {
    let cloud = Cloud::start(2).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let unreadable = r#"{"version":99,"grant_id":"g","message_id":"m","trigger":"created"}"#;
    for id in ["m1", "m2"] {
        cloud.put_mail(id);
    }
    for body in [&request("m1"), unreadable, &request("m2")] {
        cloud.send(body).await;
    }
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    assert_eq!(batch.len(), 3);
    let bad = batch
        .iter()
        .find(|message| message.body() == Some(unreadable))
        .unwrap();
    let bad_id = bad.message_id().unwrap().to_owned();
    assert_eq!(
        cloud.work(&mut worker, &batch).await,
        std::slice::from_ref(&bad_id)
    );
    assert_eq!(cloud.emails().len(), 2);

    cloud.make_visible(bad).await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [bad_id]);
    cloud.make_visible(&batch[0]).await;
    assert!(
        cloud.receive().await.is_empty(),
        "the queue has delivered it as often as it is configured to"
    );
    let dead = cloud.receive_from(&cloud.dead_letters).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].body(), Some(unreadable));
    // Both deliveries are counted, and the readable messages are not.
    let printed = worker.stop().await;
    let counted = printed.matches(r#""RequestUnreadable":"#).count();
    let one = printed.matches(r#""RequestUnreadable":1"#).count();
    assert_eq!((counted, one), (2, 2), "{printed}");
}

#[tokio::test]
async fn a_throttled_message_is_hidden_until_the_pause_ends_and_written_later() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    cloud.put_mail("m1");
    cloud.send(&request("m1")).await;
    let mut worker = cloud.function("sync-worker").await;
    cloud.emulators.dataverse().fail_next(Fault::Status {
        status: 429,
        code: "0x80072322".to_owned(),
        message: "slow down".to_owned(),
        retry_after_seconds: Some(240),
    });
    let batch = cloud.receive().await;
    // Makes the message visible at once, unless the worker hides it again.
    cloud.make_visible(&batch[0]).await;
    let batch = cloud.receive().await;
    assert_eq!(
        cloud.work(&mut worker, &batch).await,
        [batch[0].message_id().unwrap()]
    );
    assert_eq!(
        cloud.queue_length().await,
        ("0".to_owned(), "1".to_owned()),
        "the message is hidden and not lost"
    );
    assert!(
        cloud
            .ledger_text()
            .await
            .contains("dataverse throttled the call")
    );
    assert!(cloud.emails().is_empty());
    cloud.end_pause().await;
    cloud.make_visible(&batch[0]).await;
    let batch = cloud.receive().await;
    assert_eq!(cloud.work(&mut worker, &batch).await, [""; 0]);
    assert_eq!(cloud.emails().len(), 1);
    assert_silent(
        "the worker's output",
        &worker.stop().await,
        &cloud.secret_texts().await,
    );
}

#[tokio::test]
async fn messages_wait_for_the_first_token_and_after_a_rejection_for_the_next_one() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    for id in ["m1", "m2"] {
        cloud.put_mail(id);
    }
    let mut worker = cloud.function("sync-worker").await;
    cloud.send(&request("m1")).await;
    let batch = cloud.receive().await;
    assert_eq!(
        cloud.work(&mut worker, &batch).await.len(),
        1,
        "the message waits, since there is no token yet"
    );
    cloud.refresh_token().await;
    // A new process, because the old one does not read the token again within a minute.
    let printed = worker.stop().await;
    assert!(printed.contains(r#""TokenMissing":1"#), "{printed}");
    let mut worker = cloud.function("sync-worker").await;
    cloud.make_visible(&batch[0]).await;
    assert_eq!(
        cloud.work(&mut worker, &cloud.receive().await).await,
        [""; 0]
    );

    cloud.emulators.entra().revoke_all();
    cloud.send(&request("m2")).await;
    let batch = cloud.receive().await;
    assert_eq!(
        cloud.work(&mut worker, &batch).await.len(),
        1,
        "the message waits, since the token was rejected"
    );
    cloud.refresh_token().await;
    cloud.make_visible(&batch[0]).await;
    assert_eq!(
        cloud.work(&mut worker, &cloud.receive().await).await,
        [""; 0]
    );
    assert_eq!(cloud.emails().len(), 2);
}

#[tokio::test]
async fn a_worker_killed_between_write_and_settlement_leaves_exactly_one_row() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    cloud.put_mail("m1");
    cloud.send(&request("m1")).await;
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    let (settles, settling) = oneshot::channel();
    let stored_outcome = r#""ConditionExpression":"claim_token = :token""#;
    cloud.to_ledger.at(stored_outcome, async {
        settles.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    tokio::select! {
        _ = cloud.work(&mut worker, &batch) => panic!("the worker settled"),
        settling = settling => settling.unwrap(),
    }
    worker.stop().await;
    let emails = cloud.emails();
    assert_eq!(
        (emails.len(), &emails[0]["statecode"]),
        (1, &json!(1)),
        "the row is written and completed"
    );

    let mut successor = cloud.function("sync-worker").await;
    cloud.make_visible(&batch[0]).await;
    let batch = cloud.receive().await;
    assert_eq!(
        cloud.work(&mut successor, &batch).await.len(),
        1,
        "the claim of the killed worker is still valid"
    );
    cloud.end_leases().await;
    cloud.make_visible(&batch[0]).await;
    assert_eq!(
        cloud.work(&mut successor, &cloud.receive().await).await,
        [""; 0]
    );
    assert_eq!(cloud.emails(), emails);
    assert!(cloud.ledger_text().await.contains("already existed"));
}

#[tokio::test]
async fn a_wrong_client_secret_is_reported_and_the_old_token_stays_stored() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    let before = cloud.stored("token").await;
    let mut refresher = cloud.function("token-refresher").await;
    for (value, expected) in [
        (
            r#"{"client_secret": "canary-wrong-secret"}"#,
            "AADSTS7000215",
        ),
        ("canary-wrong-secret", "must be JSON of the form"),
    ] {
        cloud.store("entra", value).await;
        let error = refresher
            .invoke(schedule("2026-11-20T06:30:00Z"))
            .await
            .unwrap_err();
        let text = error["errorMessage"].as_str().unwrap();
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(cloud.stored("token").await, before);
    let secrets = [
        cloud.secret_texts().await,
        vec!["canary-wrong-secret".to_owned()],
    ]
    .concat();
    let printed = refresher.stop().await;
    assert_silent("the refresher's output", &printed, &secrets);
    assert!(printed.contains(r#""TokenRefused":1"#), "{printed}");
}

#[tokio::test]
async fn backfill_rejects_an_event_from_an_unknown_source() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    let mut backfill = cloud.function("backfill").await;
    for event in [
        Value::Null,
        json!({}),
        json!({"source": "aws.s3", "time": "2026-11-20T06:00:00Z"}),
    ] {
        let error = backfill.invoke(event).await.unwrap_err();
        assert!(
            error["errorMessage"]
                .as_str()
                .unwrap()
                .starts_with("not an event of the schedule, the backfill queue or an operator"),
            "{error}"
        );
    }
    assert_eq!(cloud.emulators.nylas().requests(), 0);
}

#[tokio::test]
async fn a_function_without_its_settings_names_all_of_them_and_does_not_start() {
    for (name, settings) in [
        (
            "webhook-receiver",
            vec!["WEBHOOK_SECRET_ID", "SYNC_QUEUE_URL"],
        ),
        (
            "token-refresher",
            vec![
                "DATAVERSE_URL",
                "ENTRA_TENANT_ID",
                "ENTRA_CLIENT_ID",
                "ENTRA_SECRET_ID",
                "TOKEN_SECRET_ID",
            ],
        ),
        (
            "sync-worker",
            vec![
                "DATAVERSE_URL",
                "TOKEN_SECRET_ID",
                "NYLAS_API_KEY_SECRET_ID",
                "MAILBOXES",
                "LEDGER_TABLE",
                "SYNC_QUEUE_URL",
            ],
        ),
        (
            "backfill",
            vec![
                "DATAVERSE_URL",
                "TOKEN_SECRET_ID",
                "NYLAS_API_KEY_SECRET_ID",
                "MAILBOXES",
                "LEDGER_TABLE",
                "SYNC_QUEUE_URL",
                "BACKFILL_QUEUE_URL",
            ],
        ),
    ] {
        let (status, printed) = Function::start(name, &[]).await.finished().await;
        assert!(!status.success(), "{name}");
        for setting in settings {
            assert!(
                printed.contains(&format!("{setting} is missing")),
                "{name}: {setting} in {printed}"
            );
        }
    }
}
