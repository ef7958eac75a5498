//! Tests what the compiled worker does while a service rejects every call, and what it does
//! afterwards.

use aws_sdk_sqs::types::Message;
use emulators::{Fault, RefusedEmails, Setting};
use mailverse::ledger::State;
use mailverse::model::ids::MessageKey;
use serde_json::{Value, json};

use super::cloud::{Cloud, GRANT};
use super::lambda::Function;

const TEN: usize = 10;

fn ids() -> Vec<String> {
    (0..TEN).map(|n| format!("m{n}")).collect()
}

impl Cloud {
    async fn with_ten_mails() -> Self {
        let cloud = Self::start(10).await;
        cloud.store_secrets().await;
        cloud.refresh_token().await;
        for id in ids() {
            cloud.put_mail(&id);
            let request =
                json!({"version": 1, "grant_id": GRANT, "message_id": id, "trigger": "created"});
            cloud.send(&request.to_string()).await;
        }
        cloud
    }

    async fn states(&self) -> Vec<(State, u32)> {
        let mut states = Vec::new();
        for id in ids() {
            let key = MessageKey {
                grant_id: GRANT.parse().unwrap(),
                message_id: id.parse().unwrap(),
            };
            let entry = self.ledger().entry(&key).await.unwrap();
            states.extend(entry.map(|entry| (entry.state, entry.failures)));
        }
        states
    }

    /// Works on the batch, makes visible again what the worker did not acknowledge, and returns
    /// what the queue then delivers.
    async fn delivered(&self, worker: &mut Function, batch: &[Message]) -> Vec<Message> {
        let kept = self.work(worker, batch).await;
        for message in batch {
            if kept.contains(&message.message_id().unwrap().to_owned()) {
                self.make_visible(message).await;
            }
        }
        self.receive().await
    }

    fn sent(&self) -> u64 {
        self.emulators.dataverse().requests().total
    }

    async fn status(&self) -> (Value, String) {
        let report = self.command(&["status", "--json"]).await;
        (report.json(), self.command(&["status"]).await.out)
    }
}

/// Asserts that all ten messages wait and that no failure was counted.
fn all_wait(states: &[(State, u32)]) {
    assert_eq!(states, vec![(State::Waiting, 0); TEN]);
}

#[tokio::test]
async fn messages_wait_while_the_application_user_is_disabled_and_are_then_written() {
    let cloud = Cloud::with_ten_mails().await;
    cloud.emulators.dataverse().remove_application_user();
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    let mut batch = cloud.delivered(&mut worker, &batch).await;
    all_wait(&cloud.states().await);
    let sent = cloud.sent();
    assert!(
        sent <= 2,
        "{sent} requests for one batch, at most 2 expected"
    );
    for _ in 0..5 {
        assert_eq!(batch.len(), TEN, "no message is acknowledged");
        batch = cloud.delivered(&mut worker, &batch).await;
    }
    assert_eq!(cloud.sent(), sent, "no request is sent during the pause");
    cloud.end_pause_times().await;
    batch = cloud.delivered(&mut worker, &batch).await;
    assert_eq!(
        cloud.sent(),
        sent + 1,
        "exactly one request is sent as a probe"
    );
    all_wait(&cloud.states().await);
    let (report, printed) = cloud.status().await;
    assert_eq!(report["refused"][0]["who"], "dataverse");
    let remedy = "add it as an application user with a security role";
    assert!(printed.contains(remedy), "{printed}");
    cloud.emulators.dataverse().add_application_user();
    cloud.end_pause_times().await;
    cloud.work(&mut worker, &batch).await;
    assert_eq!(cloud.emails().len(), TEN);
    assert_eq!(cloud.states().await, vec![(State::Written, 0); TEN]);
    assert_eq!(cloud.status().await.0["refused"], Value::Null);
    assert_eq!(cloud.receive_from(&cloud.dead_letters).await.len(), 0);
    let printed = worker.stop().await;
    assert!(
        printed.contains("\"CallerRefused\":1"),
        "the log has the metric that raises the alarm"
    );
}

#[tokio::test]
async fn messages_rejected_by_a_plug_in_wait_and_are_written_once_it_accepts_them() {
    let cloud = Cloud::with_ten_mails().await;
    let refuse = |subject: &'static str| {
        let refused = RefusedEmails {
            status: 400,
            code: "0x80099999",
            subject,
        };
        let dataverse = cloud.emulators.dataverse();
        dataverse.set_setting(Setting::RefusedEmails(Some(refused)));
    };
    refuse("");
    let mut worker = cloud.function("sync-worker").await;
    let batch = cloud.receive().await;
    let batch = cloud.delivered(&mut worker, &batch).await;
    all_wait(&cloud.states().await);
    let (report, _) = cloud.status().await;
    assert_eq!(report["refused"][0]["cause"], "400 0x80099999");
    refuse("no mail has this subject");
    cloud.end_pause_times().await;
    cloud.work(&mut worker, &batch).await;
    assert_eq!(cloud.emails().len(), TEN);
    worker.stop().await;
}

#[tokio::test]
async fn postponed_deliveries_count_neither_as_failures_nor_towards_giving_up() {
    let cloud = Cloud::start(10).await;
    cloud.store_secrets().await;
    cloud.refresh_token().await;
    cloud.put_mail("m0");
    let request =
        json!({"version": 1, "grant_id": GRANT, "message_id": "m0", "trigger": "created"});
    cloud.send(&request.to_string()).await;
    let mut worker = cloud.function("sync-worker").await;
    let mut batch = cloud.receive().await;
    let fault = |status, retry_after_seconds| Fault::Status {
        status,
        code: String::new(),
        message: String::new(),
        retry_after_seconds,
    };
    for _ in 0..8 {
        cloud.emulators.dataverse().fail_next(fault(429, Some(600)));
        batch = cloud.delivered(&mut worker, &batch).await;
        assert_eq!(batch.len(), 1);
        cloud.end_pause_times().await;
    }
    all_wait_once(&cloud, 0).await;
    // The ninth delivery is the first one that counts as a failure.
    cloud.emulators.dataverse().fail_next(fault(503, None));
    batch = cloud.delivered(&mut worker, &batch).await;
    let entry = all_wait_once(&cloud, 1).await;
    let wait = entry.retry_at.unwrap() - entry.changed_at.unwrap();
    assert!(
        wait.num_seconds() <= 40,
        "waits {wait}, but the first step of the backoff is at most 40 s"
    );
    // The tenth delivery. The queue would move the message to the dead-letter queue after it.
    cloud.emulators.dataverse().fail_next(fault(503, None));
    assert_eq!(cloud.delivered(&mut worker, &batch).await.len(), 0);
    all_wait_once(&cloud, 2).await;
    assert_eq!(cloud.receive_from(&cloud.dead_letters).await.len(), 0);
    worker.stop().await;
}

/// Asserts that the one message waits and has had this many failures. Returns its ledger entry.
async fn all_wait_once(cloud: &Cloud, failures: u32) -> mailverse::ledger::Entry {
    let key = MessageKey {
        grant_id: GRANT.parse().unwrap(),
        message_id: "m0".parse().unwrap(),
    };
    let entry = cloud.ledger().entry(&key).await.unwrap().unwrap();
    assert_eq!((entry.state, entry.failures), (State::Waiting, failures));
    entry
}

#[tokio::test]
async fn no_worker_reads_a_throttled_mailbox_until_its_pause_ends() {
    let cloud = Cloud::with_ten_mails().await;
    let mut workers = [
        cloud.function("sync-worker").await,
        cloud.function("sync-worker").await,
    ];
    let batch = cloud.receive().await;
    let (first, second) = batch.split_at(TEN / 2);
    // This run fills the caches of mailboxes and folders.
    assert_eq!(cloud.work(&mut workers[0], &first[..1]).await.len(), 0);
    cloud.emulators.nylas().fail_next(Fault::Status {
        status: 429,
        code: "rate_limit_error".to_owned(),
        message: "slow down".to_owned(),
        retry_after_seconds: Some(600),
    });
    let before = cloud.emulators.nylas().requests();
    cloud.work(&mut workers[0], &first[1..]).await;
    let asked = cloud.emulators.nylas().requests() - before;
    assert!(
        asked <= 3,
        "{asked} requests; only those already in flight may be sent"
    );
    let before = cloud.emulators.nylas().requests();
    cloud.work(&mut workers[1], second).await;
    let asked = cloud.emulators.nylas().requests() - before;
    assert!(
        asked <= 2,
        "{asked} requests; no message of the mailbox may be fetched"
    );
    cloud.end_pause_times().await;
    cloud.work(&mut workers[1], &batch[1..]).await;
    assert_eq!(cloud.emails().len(), TEN);
    for worker in workers {
        worker.stop().await;
    }
}
