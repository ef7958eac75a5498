//! Simulates an hour in which Dataverse rejects every message, and prints what happened to the
//! messages of that hour. `make outage` runs it.
//!
//! New messages arrive during the whole hour. Four workers receive them from a queue that hides,
//! delays and redelivers like SQS, in simulated time. After the hour Dataverse accepts messages
//! again, and the workers continue until the queue is empty.
//!
//! Exit status: 0 if no message is dead, every message was written once, and fewer requests than
//! promised were sent during the outage. Otherwise 1.

#![expect(
    dead_code,
    unused_imports,
    reason = "the test world has more than this simulation uses"
)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "as in the tests: a value that is not as expected is the failure to report"
)]

mod test_organisation;
mod tripwire;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lambda_events::sqs::SqsEvent;
use chrono::TimeDelta;
use clap::{Parser, ValueEnum};
use emulators::{Privilege, Setting};
use local_aws::dynamo;
use mailverse::clients::aws::queue::{QueueError, SyncQueue};
use mailverse::clients::retry::RECEIVE_LIMIT;
use mailverse::ledger::State;
use mailverse::model::sync_request::{SyncRequest, Trigger};
use mailverse::pipeline::Invocation;
use serde_json::json;
use sync_worker::Worker;
use test_organisation::{ADA, TestOrganisation, key, nylas_message};

/// The number of requests that an outage of one hour must stay below.
const MOST_REQUESTS: u64 = 100;

const WORKERS: usize = 4;
const BATCH: usize = 10;

/// Simulates an outage in which Dataverse rejects every message.
#[derive(Parser)]
struct Arguments {
    /// Why Dataverse rejects the messages.
    #[arg(long, value_enum, default_value_t = Cause::DisabledUser)]
    cause: Cause,
    /// New messages per second.
    #[arg(long, default_value_t = 12)]
    per_second: u64,
    /// Duration of the outage in minutes.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Cause {
    /// 403 with 0x80072560, for every request.
    DisabledUser,
    /// 403 with 0x80040220, for every write.
    MissingPrivilege,
    /// 400 with a code that no table lists, for every email.
    UnlistedCode,
}

/// A queue message.
struct Message {
    body: String,
    visible_at: u64,
    receive_count: u32,
}

#[derive(Default)]
struct Messages {
    /// The messages by receipt.
    all: BTreeMap<u64, Message>,
    /// Seconds since the start.
    now: u64,
    sent: u64,
}

/// SQS in simulated time. Clones are the same queue.
#[derive(Clone, Default)]
struct Queue(Arc<Mutex<Messages>>);

impl SyncQueue for Queue {
    async fn send_body(&self, body: String, delay: Duration) -> Result<(), QueueError> {
        let mut messages = self.0.lock().unwrap();
        messages.sent += 1;
        let (receipt, visible_at) = (
            messages.sent,
            messages.now + whole_seconds(delay.min(Duration::from_secs(900))),
        );
        let message = Message {
            body,
            visible_at,
            receive_count: 0,
        };
        messages.all.insert(receipt, message);
        Ok(())
    }

    async fn hide(&self, receipt: &str, delay: Duration) -> Result<(), QueueError> {
        let mut messages = self.0.lock().unwrap();
        let visible_at = messages.now + whole_seconds(delay);
        let receipt: u64 = receipt.parse().map_err(QueueError::new)?;
        if let Some(message) = messages.all.get_mut(&receipt) {
            message.visible_at = visible_at;
        }
        Ok(())
    }

    async fn waiting(&self) -> Result<usize, QueueError> {
        let messages = self.0.lock().unwrap();
        let due = messages
            .all
            .values()
            .filter(|one| one.visible_at <= messages.now);
        Ok(due.count())
    }
}

fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs() + u64::from(delay.subsec_nanos() > 0)
}

impl Queue {
    /// Takes a batch from the receipts in `due`, in the form of a Lambda event. `None` if none is
    /// left.
    fn receive(&self, due: &mut Vec<u64>) -> Option<SqsEvent> {
        const VISIBILITY_TIMEOUT: u64 = 300;
        let mut messages = self.0.lock().unwrap();
        let hidden_until = messages.now + VISIBILITY_TIMEOUT;
        let records: Vec<_> = due
            .split_off(due.len().saturating_sub(BATCH))
            .into_iter()
            .filter_map(|receipt| {
                let message = messages.all.get_mut(&receipt)?;
                message.visible_at = hidden_until;
                message.receive_count += 1;
                let id = receipt.to_string();
                let count = message.receive_count.to_string();
                Some(
                    json!({"messageId": id, "receiptHandle": id, "body": message.body,
                    "attributes": {"ApproximateReceiveCount": count}}),
                )
            })
            .collect();
        (!records.is_empty()).then(|| serde_json::from_value(json!({"Records": records})).unwrap())
    }

    fn due(&self) -> Vec<u64> {
        let messages = self.0.lock().unwrap();
        let due = messages
            .all
            .iter()
            .filter(|(_, one)| one.visible_at <= messages.now);
        due.map(|(receipt, _)| *receipt).collect()
    }

    /// Deletes what the worker acknowledged, and what SQS would move to the dead-letter queue.
    /// Returns the number of the latter.
    fn settle(&self, event: &SqsEvent, failed: &[String]) -> usize {
        let mut messages = self.0.lock().unwrap();
        let mut dead_letters = 0;
        for record in &event.records {
            let id = record.message_id.clone().unwrap();
            let receipt: u64 = id.parse().unwrap();
            let is_kept = failed.contains(&id);
            let used_up = messages
                .all
                .get(&receipt)
                .is_some_and(|it| it.receive_count >= RECEIVE_LIMIT);
            if !is_kept || used_up {
                messages.all.remove(&receipt);
                dead_letters += usize::from(is_kept);
            }
        }
        dead_letters
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Arguments {
        cause,
        per_second,
        minutes,
    } = Arguments::parse();
    let mut organisation = TestOrganisation::start().await;
    let dataverse = organisation.emulators.dataverse().clone();
    // Service protection counts real seconds, of which the simulation takes only few.
    dataverse.set_setting(Setting::RequestsPerFiveMinutes(usize::MAX));
    dataverse.set_setting(Setting::ExecutionMilliseconds(u64::MAX));
    let queue = Queue::default();
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(Worker::new(
            organisation.another_pipeline().await,
            queue.clone(),
        ));
    }
    refuse(&dataverse, cause, true);
    let (begun, outage) = (organisation.now, minutes * 60);
    let (mut arrived, mut deliveries, mut dead_letters) = (0_u64, 0_u64, 0);
    let mut during = None;
    let mut second = 0;
    loop {
        if second == outage {
            during = Some(dataverse.requests().total);
            refuse(&dataverse, cause, false);
        }
        queue.0.lock().unwrap().now = second;
        if second < outage {
            for _ in 0..per_second {
                let id = format!("m{arrived}");
                organisation.put(ADA, nylas_message(&id, &json!({})));
                let request = SyncRequest {
                    key: key(ADA, &id),
                    trigger: Trigger::Created,
                };
                queue.send(&request, Duration::ZERO).await.unwrap();
                arrived += 1;
            }
        }
        organisation.now = begun + TimeDelta::seconds(second.cast_signed());
        let mut due = queue.due();
        let mut next = 0;
        while let Some(event) = queue.receive(&mut due) {
            deliveries += u64::try_from(event.records.len()).unwrap();
            let run = Invocation {
                jitter_percent: 25,
                ..organisation.begin()
            };
            let worked = workers[next % WORKERS].work(event.clone(), run).await;
            next += 1;
            let failed: Vec<String> = worked
                .response
                .batch_item_failures
                .into_iter()
                .map(|failure| failure.item_identifier)
                .collect();
            dead_letters += queue.settle(&event, &failed);
        }
        if second > outage && queue.0.lock().unwrap().all.is_empty() {
            break;
        }
        assert!(
            second < outage + 86_400,
            "the queue is not empty one day after the outage"
        );
        second += 1;
    }
    let during = during.unwrap_or_default();
    let mut dead = 0;
    let ledger = &organisation.pipeline.ledger;
    for state in [State::Dead, State::Waiting] {
        let left =
            ledger.needing_attention(state, organisation.now + TimeDelta::days(1), 1, |_| true);
        dead += left.await.unwrap().len();
    }
    let rows = u64::try_from(organisation.emails().len()).unwrap();
    println!(
        "{minutes} minutes in which Dataverse rejected every message, {per_second} new messages per second"
    );
    println!("{arrived:>8}  messages arrived");
    println!("{deliveries:>8}  deliveries by the queue");
    println!(
        "{during:>8}  requests to Dataverse during the outage (fewer than {MOST_REQUESTS} are promised for an hour)"
    );
    println!("{dead:>8}  messages dead or waiting at the end");
    println!("{dead_letters:>8}  messages in the dead-letter queue");
    println!("{rows:>8}  rows at the end");
    println!(
        "{:>8}  seconds from the end of the outage until the queue was empty",
        second - outage
    );
    if dead == 0 && dead_letters == 0 && rows == arrived && during < MOST_REQUESTS {
        return ExitCode::SUCCESS;
    }
    println!("not as promised");
    ExitCode::FAILURE
}

fn refuse(dataverse: &emulators::Dataverse, cause: Cause, on: bool) {
    match cause {
        Cause::DisabledUser if on => dataverse.remove_application_user(),
        Cause::DisabledUser => dataverse.add_application_user(),
        Cause::MissingPrivilege => {
            let withheld = if on {
                vec![(Privilege::Create, "activity")]
            } else {
                Vec::new()
            };
            dataverse.set_setting(Setting::Withheld(withheld));
        }
        Cause::UnlistedCode => {
            let refused = on.then_some(emulators::RefusedEmails {
                status: 400,
                code: "0x80099999",
                subject: "",
            });
            dataverse.set_setting(Setting::RefusedEmails(refused));
        }
    }
}
