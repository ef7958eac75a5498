//! Tests which queue messages the sync-worker reports as failed. The queue deletes all others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lambda_events::sqs::SqsEvent;
use emulators::{Privilege, Setting};
use mailverse::clients::aws::queue::{MemoryQueue, QueueError, Received, SyncQueue};
use mailverse::clients::retry::RECEIVE_LIMIT;
use mailverse::ledger::State;
use serde_json::json;
use sync_worker::Worker;

use crate::test_organisation::{
    ADA, CREATE, TestOrganisation, created, nylas_message, status, throttled, with_a_mail,
};

/// A queue that refuses all calls while it is down. Clones are the same queue.
#[derive(Clone, Default)]
struct FragileQueue {
    queue: MemoryQueue,
    is_down: Arc<AtomicBool>,
}

impl FragileQueue {
    fn set_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), QueueError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(QueueError::new("the queue is down"));
        }
        Ok(())
    }

    /// Queues a request for this message of Ada, and receives it.
    async fn receive_request(&self, id: &str) -> Received {
        let request = created(ADA, id).request;
        self.send(&request, Duration::ZERO).await.unwrap();
        self.queue.receive(1).remove(0)
    }
}

impl SyncQueue for FragileQueue {
    async fn send_body(&self, body: String, delay: Duration) -> Result<(), QueueError> {
        self.check()?;
        self.queue.send_body(body, delay).await
    }

    async fn hide(&self, receipt: &str, delay: Duration) -> Result<(), QueueError> {
        self.check()?;
        self.queue.hide(receipt, delay).await
    }

    async fn waiting(&self) -> Result<usize, QueueError> {
        self.check()?;
        self.queue.waiting().await
    }
}

/// Returns a batch as Lambda passes it. The id of each record is its receipt.
fn event(batch: &[Received]) -> SqsEvent {
    let records: Vec<_> = batch
        .iter()
        .map(|message| {
            let count = message.receive_count.to_string();
            json!({
                "messageId": message.receipt, "receiptHandle": message.receipt, "body": message.body,
                "attributes": {"ApproximateReceiveCount": count},
            })
        })
        .collect();
    serde_json::from_value(json!({"Records": records})).unwrap()
}

/// Returns the message as the queue delivers it for the last time.
fn last_delivery(message: Received) -> Received {
    Received {
        receive_count: RECEIVE_LIMIT,
        ..message
    }
}

/// Runs the worker on a batch. Returns the receipts of the queue messages that it reports as
/// failed.
async fn failed(
    worker: &Worker<FragileQueue>,
    organisation: &mut TestOrganisation,
    batch: &[Received],
) -> Vec<String> {
    let result = worker.work(event(batch), organisation.begin()).await;
    let failures = result.response.batch_item_failures.into_iter();
    failures.map(|failure| failure.item_identifier).collect()
}

async fn worker(organisation: &TestOrganisation) -> (Worker<FragileQueue>, FragileQueue) {
    let queue = FragileQueue::default();
    let pipeline = organisation.another_pipeline().await;
    (Worker::new(pipeline, queue.clone()), queue)
}

#[tokio::test]
async fn a_message_is_reported_as_failed_if_it_waits_was_given_up_or_cannot_be_read() {
    let mut organisation = TestOrganisation::start().await;
    let dataverse = organisation.emulators.dataverse();
    dataverse.set_max_length("email", "subject", 200).unwrap();
    // The column lengths cannot be read, so the subject is not cut.
    dataverse.set_setting(Setting::Withheld(vec![(Privilege::Read, "attribute")]));
    for (id, changes) in [
        ("written", json!({})),
        ("skipped", json!({"folders": ["SPAM"]})),
        ("rejected", json!({"subject": "x".repeat(201)})),
        ("waiting", json!({})),
        ("given-up", json!({})),
    ] {
        organisation.put(ADA, nylas_message(id, &changes));
    }
    organisation
        .has_failed(ADA, "given-up", RECEIVE_LIMIT - 1)
        .await;
    for id in ["waiting", "given-up"] {
        organisation.fail_nylas_at(&format!("/messages/{id}?"), status(503, ""));
    }
    let (worker, queue) = worker(&organisation).await;
    let mut batch = Vec::new();
    for id in ["written", "skipped", "rejected", "waiting", "given-up"] {
        batch.push(queue.receive_request(id).await);
    }
    let unreadable = "{}".to_owned();
    queue.send_body(unreadable, Duration::ZERO).await.unwrap();
    batch.extend(queue.queue.receive(1));
    let [_, _, _, waiting, given_up, unreadable] = &batch[..] else {
        panic!("{batch:?}");
    };
    let mut reported = failed(&worker, &mut organisation, &batch).await;
    reported.sort();
    let expected = [waiting, given_up, unreadable].map(|message| message.receipt.clone());
    assert_eq!(reported, expected);
    for (id, state) in [
        ("written", State::Written),
        ("skipped", State::Skipped),
        ("rejected", State::Dead),
        ("waiting", State::Waiting),
        ("given-up", State::Dead),
    ] {
        assert_eq!(organisation.entry(ADA, id).await.unwrap().state, state);
    }
    let hidden = queue.queue.hidden();
    let hidden_for = |receipt: &String| {
        let found = hidden.iter().find(|(hidden, _)| hidden.receipt == *receipt);
        found.map(|(_, delay)| *delay)
    };
    assert!(hidden_for(&waiting.receipt).unwrap() > Duration::ZERO);
    assert_eq!(hidden_for(&given_up.receipt), Some(Duration::ZERO));
    assert_eq!(hidden.len(), 2);
    // Its remaining deliveries use up the receive count, and nothing processes it again.
    for receive_count in 2..=RECEIVE_LIMIT {
        let again = Received {
            receive_count,
            ..given_up.clone()
        };
        let reported = failed(&worker, &mut organisation, &[again]).await;
        assert_eq!(reported, std::slice::from_ref(&given_up.receipt));
    }
    assert_eq!(
        organisation.entry(ADA, "given-up").await.unwrap().state,
        State::Dead
    );
}

#[tokio::test]
async fn a_last_delivery_is_reported_as_failed_if_the_message_cannot_be_queued_again() {
    let mut organisation = with_a_mail().await;
    let (worker, queue) = worker(&organisation).await;
    let received = last_delivery(queue.receive_request("m1").await);
    for is_down in [true, false] {
        organisation.fail_dataverse_at(CREATE, throttled("0x80072322", 50));
        queue.set_down(is_down);
        let reported = failed(&worker, &mut organisation, std::slice::from_ref(&received)).await;
        let entry = organisation.entry(ADA, "m1").await.unwrap();
        if is_down {
            assert_eq!(reported, std::slice::from_ref(&received.receipt));
            // The queue moves it to the dead-letter queue, so the ledger lists it as dead.
            assert_eq!((entry.state, entry.claimable), (State::Dead, true));
            assert!(queue.queue.hidden().is_empty());
        } else {
            assert_eq!(reported, [""; 0]);
            assert_eq!((entry.state, entry.claimable), (State::Waiting, false));
            let hidden = queue.queue.hidden();
            assert_eq!(hidden.len(), 1);
            assert_eq!(hidden[0].0.body, received.body);
        }
        organisation.pause_over();
    }
}

#[tokio::test]
async fn a_waiting_message_is_reported_as_failed_even_if_it_cannot_be_hidden() {
    let mut organisation = with_a_mail().await;
    let (worker, queue) = worker(&organisation).await;
    let received = queue.receive_request("m1").await;
    organisation.fail_dataverse_at(CREATE, status(503, ""));
    queue.set_down(true);
    let reported = failed(&worker, &mut organisation, std::slice::from_ref(&received)).await;
    assert_eq!(reported, [received.receipt]);
    let entry = organisation.entry(ADA, "m1").await.unwrap();
    assert_eq!(entry.state, State::Waiting);
}
