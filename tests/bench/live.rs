//! Live mail: notifications to the receiver, and the workers that Lambda runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lambda_events::sqs::{SqsEvent, SqsMessage};
use chrono::{TimeDelta, Utc};
use mailverse::ledger::State;
use mailverse::pipeline::Invocation;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use sync_worker::Worker;
use tokio::task::JoinSet;
use webhook_receiver::Receiver;
use webhook_receiver::signature::Key;
use webhook_receiver::webhook_secrets::WebhookSecrets;

use crate::company::{Company, LIVE, WARM_UP, pass};
use crate::queue::{Message, Queue};

/// Messages per second, on average.
const RATE: f64 = 1.5;
/// Concurrent workers, as in the template.
const WORKERS: usize = 4;
const SECRET: &str = "the-secret-of-the-bench";

/// The measurements of live mail.
#[derive(Default)]
pub(crate) struct Live {
    /// The times from webhook to completed activity, in order of arrival.
    pub(crate) latencies: Vec<Duration>,
    /// The operations that Dataverse executed in that time, for all processes.
    pub(crate) operations: u64,
}

/// When each message was finished.
type Done = Arc<Mutex<HashMap<String, Instant>>>;

/// After the warm-up, delivers messages for this long, at random moments, and waits until they are
/// finished.
pub(crate) async fn arrive(company: &Company, seed: u64, time: Duration) -> Live {
    let begun = Instant::now() + WARM_UP;
    let done = Done::default();
    let workers = start(company, &done);
    let key = Key::new(&SECRET.into()).unwrap();
    let receiver = Receiver::new(
        company.queue.clone(),
        WebhookSecrets::fixed(key.clone(), None),
    );
    // Each process makes its initial requests before the measurement starts.
    for _ in 0..WORKERS * 3 {
        notify(company, &receiver, &key).await;
        pass(Duration::from_millis(20)).await;
    }
    pass(begun.saturating_duration_since(Instant::now())).await;
    let before = company.operations();
    let mut random = StdRng::seed_from_u64(seed);
    let mut next = begun;
    let mut arrived: Vec<(String, Instant)> = Vec::new();
    loop {
        // Exponential times between arrivals: senders are independent of each other.
        next += Duration::from_secs_f64(-(1.0 - random.random::<f64>()).ln() / RATE);
        if next > begun + time {
            break;
        }
        pass(next.saturating_duration_since(Instant::now())).await;
        let when = Instant::now();
        let id = notify(company, &receiver, &key).await;
        arrived.push((id, when));
    }
    until_empty(&company.queue).await;
    let operations = company.operations() - before;
    drop(workers);
    let done = done.lock().unwrap();
    let latency = |(id, when): &(String, Instant)| {
        let done = done
            .get(id)
            .expect("every message was finished before the queue was empty");
        done.saturating_duration_since(*when)
    };
    Live {
        latencies: arrived.iter().map(latency).collect(),
        operations,
    }
}

/// Starts workers that run until the value is dropped.
pub(crate) fn workers(company: &Company) -> JoinSet<()> {
    start(company, &Done::default())
}

fn start(company: &Company, done: &Done) -> JoinSet<()> {
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let worker = Worker::new(company.pipeline(), company.queue.clone());
        let (queue, done) = (company.queue.clone(), Arc::clone(done));
        workers.spawn(async move {
            loop {
                invoke(&worker, &queue, &done).await;
            }
        });
    }
    workers
}

/// Runs one invocation of a worker, and what Lambda does before and after it.
async fn invoke(worker: &Worker<Queue>, queue: &Queue, done: &Done) {
    let batch = queue.receive(10).await;
    let mut event = SqsEvent::default();
    event.records = batch.iter().map(record).collect();
    let run = Invocation::begin(Utc::now() + TimeDelta::seconds(120));
    let outcome = Box::pin(worker.work(event, run)).await;
    let now = Instant::now();
    for processed in &outcome.processed {
        if processed.outcome.state() != State::Waiting {
            let id = processed.key.message_id.as_str().to_owned();
            done.lock().unwrap().entry(id).or_insert(now);
        }
    }
    let failed: Vec<&str> = outcome
        .response
        .batch_item_failures
        .iter()
        .map(|failure| failure.item_identifier.as_str())
        .collect();
    let ids = batch.iter().map(|message| message.id);
    let gone: Vec<u64> = ids
        .filter(|id| !failed.contains(&id.to_string().as_str()))
        .collect();
    queue.delete(&gone);
}

fn record(message: &Message) -> SqsMessage {
    let mut record = SqsMessage::default();
    record.message_id = Some(message.id.to_string());
    record.receipt_handle = Some(message.id.to_string());
    record.body = Some(message.body.clone());
    let count = message.receive_count.to_string();
    record
        .attributes
        .insert("ApproximateReceiveCount".to_owned(), count);
    record
}

/// Adds a new message and delivers its notification. Returns the id of the message.
async fn notify(company: &Company, receiver: &Receiver<Queue>, key: &Key) -> String {
    let id = company.put_new_mail();
    let object = json!({"id": id, "grant_id": LIVE, "object": "message"});
    let notification = json!({
        "specversion": "1.0", "type": "message.created", "source": "/google/emails/realtime", "id": id,
        "time": 1_795_150_000, "data": {"application_id": "a", "object": object},
    });
    let body = notification.to_string();
    let request = http::Request::post("/")
        .header("x-nylas-signature", key.sign(body.as_bytes()))
        .body(body.into())
        .unwrap();
    let answer = receiver.handle(request, Utc::now()).await.response;
    assert_eq!(answer.status(), 200);
    id
}

async fn until_empty(queue: &Queue) {
    while !queue.is_empty() {
        pass(Duration::from_millis(20)).await;
    }
}
