//! Dataverse throttles, and no message is given up for it.

use emulators::Fault;
use mailverse::ledger::State;
use mailverse::model::ids::MessageKey;
use serde_json::json;

use super::cloud::{Cloud, GRANT};

fn request(id: &str) -> String {
    json!({"version": 1, "grant_id": GRANT, "message_id": id, "trigger": "created"}).to_string()
}

fn slow_down() -> Fault {
    Fault::Status {
        status: 429,
        code: "0x80072322".to_owned(),
        message: "slow down".to_owned(),
        retry_after_seconds: Some(240),
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
    cloud.emulators.dataverse().fail_next(slow_down());
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
    cloud.emulators.dataverse().fail_next(slow_down());
    assert_eq!(
        cloud.work(&mut worker, &last).await,
        [""; 0],
        "acknowledged"
    );
    assert!(cloud.receive_from(&cloud.dead_letters).await.is_empty());
    let key = MessageKey {
        grant_id: GRANT.parse().unwrap(),
        message_id: "m1".parse().unwrap(),
    };
    let entry = cloud.ledger().entry(&key).await.unwrap().unwrap();
    // It says so only once the queue has taken it.
    assert_eq!((entry.state, entry.claimable), (State::Waiting, false));
}
