//! Dataverse throttles, and no message is given up for it.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use emulators::Fault;
use mailverse::clients::aws::queue::{SqsQueue, SyncQueue};
use mailverse::ledger::State;
use mailverse::model::ids::MessageKey;
use serde_json::json;

use super::cloud::{Cloud, GRANT};

fn request(id: &str) -> String {
    json!({"version": 1, "grant_id": GRANT, "message_id": id, "trigger": "created"}).to_string()
}

fn slow_down(seconds: u64) -> Fault {
    Fault::Status {
        status: 429,
        code: "0x80072322".to_owned(),
        message: "slow down".to_owned(),
        retry_after_seconds: Some(seconds),
    }
}

#[tokio::test]
async fn no_message_reaches_the_dead_letter_queue_while_dataverse_throttles() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    for id in ["m1", "m2"] {
        cloud.put_mail(id);
    }
    let mut worker = cloud.function("sync-worker").await;
    cloud.emulators.dataverse().fail_next(slow_down(240));
    cloud.send(&request("m1")).await;
    let first = cloud.receive().await;
    cloud.work(&mut worker, &first).await;
    let requests = cloud.emulators.dataverse().requests().total;

    // Another message comes while the pause lasts, and as often as the queue delivers it.
    cloud.send(&request("m2")).await;
    for delivery in 1..=10 {
        let batch = cloud.receive().await;
        let failed = cloud.work(&mut worker, &batch).await;
        if delivery < 10 {
            assert_eq!(failed.len(), 1, "delivery {delivery}");
            cloud.make_visible(&batch[0]).await;
        } else {
            assert_eq!(failed, [""; 0], "queued anew, and acknowledged");
        }
    }
    assert_eq!(
        cloud.emulators.dataverse().requests().total,
        requests,
        "untouched"
    );
    assert_eq!(
        cloud.queue_length().await,
        ("0".to_owned(), "1".to_owned()),
        "the first one hidden, the second one delayed"
    );
    assert!(cloud.receive_from(&cloud.dead_letters).await.is_empty());
}

#[tokio::test]
async fn a_message_that_is_throttled_on_its_last_delivery_is_queued_again() {
    // SQS delays a message by at most 900 seconds.
    for retry_after in [240, 900, 1_200, 6 * 3_600] {
        let cloud = Cloud::start(10).await;
        cloud.store_secrets().await;
        cloud.refresh_token().await;
        cloud.put_mail("m1");
        let mut worker = cloud.function("sync-worker").await;
        cloud.send(&request("m1")).await;
        for _ in 1..10 {
            let batch = cloud.receive().await;
            cloud.make_visible(&batch[0]).await;
        }
        let last = cloud.receive().await;
        let dataverse = cloud.emulators.dataverse();
        dataverse.fail_next(slow_down(retry_after));
        assert_eq!(
            cloud.work(&mut worker, &last).await,
            [""; 0],
            "acknowledged with Retry-After: {retry_after}"
        );
        assert_eq!(delayed(&cloud).await, "1", "Retry-After: {retry_after}");
        assert!(cloud.receive_from(&cloud.dead_letters).await.is_empty());
        let key = MessageKey {
            grant_id: GRANT.parse().unwrap(),
            message_id: "m1".parse().unwrap(),
        };
        let entry = cloud.ledger().entry(&key).await.unwrap().unwrap();
        // The ledger records that only once the queue has accepted it.
        assert_eq!((entry.state, entry.claimable), (State::Waiting, false));
    }
}

#[tokio::test]
async fn a_delay_that_sqs_does_not_allow_is_cut_to_fifteen_minutes() {
    let cloud = Cloud::start(10).await;
    for (seconds, is_allowed) in [(900, true), (901, false)] {
        let call = cloud.sqs.send_message().queue_url(&cloud.queue);
        let sent = call.message_body("x").delay_seconds(seconds).send().await;
        assert_eq!(sent.is_ok(), is_allowed, "{seconds} seconds");
    }
    let queue = SqsQueue::new(cloud.sqs.clone(), cloud.queue.clone());
    let delays = [900_000, 900_001, 901_000, 12 * 3_600_000].map(Duration::from_millis);
    for delay in delays {
        let sent = queue.send_body("x".to_owned(), delay).await;
        assert!(sent.is_ok(), "{delay:?}: {sent:?}");
    }
    assert_eq!(delayed(&cloud).await, (1 + delays.len()).to_string());
}

/// Returns the number of messages that the queue delays.
async fn delayed(cloud: &Cloud) -> String {
    let number = QueueAttributeName::ApproximateNumberOfMessagesDelayed;
    let call = cloud.sqs.get_queue_attributes().queue_url(&cloud.queue);
    let answer = call.attribute_names(number.clone()).send().await;
    answer.unwrap().attributes.unwrap().remove(&number).unwrap()
}
