//! The backfill: an operator has requested nine mailboxes, and Lambda runs four invocations
//! concurrently, each with one task of the queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backfill::Backfill;
use chrono::{TimeDelta, Utc};
use mailverse::clients::aws::queue::SyncQueue;
use mailverse::pipeline::Invocation;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::company::{Company, MAILBOXES, WARM_UP, mailbox, pass};
use crate::queue::{Message, Queue};

/// Concurrent invocations, as in the template.
const INVOCATIONS: usize = 4;

/// What was done after the warm-up, by all processes.
#[derive(Default)]
pub(crate) struct Worked {
    /// The length of the measurement.
    pub(crate) time: Duration,
    /// Emails that were written.
    pub(crate) emails: usize,
    /// Operations that Dataverse executed.
    pub(crate) operations: u64,
    /// Requests that Dataverse rejected because a limit was reached.
    pub(crate) throttled: u64,
    /// Pages that were listed.
    pub(crate) pages: u64,
}

impl Worked {
    /// Returns the totals until now.
    fn so_far(company: &Company) -> Self {
        let requests = company.emulators.dataverse().requests();
        Self {
            time: Duration::ZERO,
            emails: company.emulators.dataverse().rows("email").len(),
            operations: requests.operations,
            throttled: requests.throttled,
            pages: company.emulators.nylas().pages(),
        }
    }
}

/// Requests the history of all mailboxes except the live one, as an operator does.
pub(crate) async fn ask(company: &Company) {
    let mailboxes: Vec<String> = (0..MAILBOXES).map(mailbox).collect();
    let request = json!({"mailboxes": mailboxes, "received_after": 1_795_000_000});
    let begin = || Invocation::begin(Utc::now() + TimeDelta::minutes(14));
    let answer = function(company).handle(&request, &begin).await.unwrap();
    let tasks = answer.get("tasks").and_then(Value::as_array);
    assert_eq!(tasks.map(Vec::len), Some(MAILBOXES));
}

/// Works for this long after the warm-up.
pub(crate) async fn run(company: &Arc<Company>, time: Duration) -> Worked {
    let end = Instant::now() + WARM_UP + time;
    let mut processes = JoinSet::new();
    for _ in 0..INVOCATIONS {
        processes.spawn(invocations(Arc::clone(company), end));
    }
    pass(WARM_UP).await;
    let before = Worked::so_far(company);
    pass(time).await;
    let after = Worked::so_far(company);
    processes.join_all().await;
    assert!(
        !company.tasks.is_empty(),
        "the backfill ran out of messages; add more for a longer measurement"
    );
    Worked {
        time,
        emails: after.emails - before.emails,
        operations: after.operations - before.operations,
        throttled: after.throttled - before.throttled,
        pages: after.pages - before.pages,
    }
}

fn function(company: &Company) -> Backfill<Queue> {
    let (sync, tasks) = (company.queue.clone(), company.tasks.clone());
    Backfill::new(company.pipeline(), sync, tasks)
}

/// Runs one invocation after the other in one process, as Lambda does.
async fn invocations(company: Arc<Company>, end: Instant) {
    let backfill = function(&company);
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        let received = tokio::time::timeout(left, company.tasks.receive(1)).await;
        for task in received.unwrap_or_default() {
            invoke(&backfill, &company.tasks, &task, end).await;
        }
    }
}

async fn invoke(backfill: &Backfill<Queue>, tasks: &Queue, task: &Message, end: Instant) {
    let id = task.id.to_string();
    let event = json!({"Records": [{
        "messageId": id, "receiptHandle": id, "body": task.body, "attributes": {"ApproximateReceiveCount": task.receive_count.to_string()},
        "messageAttributes": {}, "eventSource": "aws:sqs", "awsRegion": "eu-north-1",
    }]});
    // An invocation that begins before the end gets enough time; after the end, nothing begins.
    let deadline = Utc::now() + TimeDelta::minutes(14);
    let begin = || {
        let is_over = Instant::now() >= end;
        Invocation::begin(if is_over { Utc::now() } else { deadline })
    };
    let response = Box::pin(backfill.handle(&event, &begin)).await.unwrap();
    if response.get("batchItemFailures") == Some(&json!([])) {
        tasks.delete(&[task.id]);
    } else if !tasks.is_hidden(task.id) {
        // The task was not hidden, so it reappears after the queue's own visibility timeout.
        tasks.hide(&id, Duration::from_secs(960)).await.unwrap();
    }
}
