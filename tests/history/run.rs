//! What Lambda does for the functions, and the faults: timeouts, kills, and the time that passes
//! between them.

use std::time::Duration;

use aws_sdk_sqs::types::Message;
use chrono::{TimeDelta, Utc};
use emulators::{Fault, FaultPlan};
use futures_util::future::join_all;
use local_aws::events::sqs_event;
use local_aws::lambda::{Finished, Function};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};

use crate::test_organisation::TestOrganisation;
use crate::{Defect, Shape};

/// Concurrent invocations. The template's concurrency is four, for machines with more than two
/// cores.
const SEATS: usize = 3;

/// The time after which an invocation is killed in any case.
const CUT: Duration = Duration::from_secs(20);

/// A killed invocation is killed before this many requests to Dataverse, counted over all
/// processes. The limit is progress and not time, so that a fast machine kills as many as a slow
/// one.
const LIVES: u64 = 8;

/// How often the number of requests is checked.
const LOOK: Duration = Duration::from_millis(2);

/// The backfill begins nothing if less time than this is left.
const RESERVE: TimeDelta = TimeDelta::seconds(60);

/// The most rounds for processing the messages on the sync queue.
const LONGEST_DRAIN: usize = 50;

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) invocations: u64,
    pub(crate) cut: u64,
    pub(crate) killed: u64,
    /// Requests to Nylas that the fault plan made fail.
    pub(crate) failed_requests: u64,
}

pub(crate) struct Run<'a> {
    shape: &'a Shape,
    organisation: &'a TestOrganisation,
    pub(crate) figures: Figures,
    pub(crate) findings: Vec<String>,
}

/// How an invocation for a task ended.
enum Outcome {
    Done,
    /// The function returned the task to the queue.
    Back,
    Killed,
}

/// The state that all processes share.
struct Shared {
    figures: Figures,
    /// Running invocations that will be killed.
    doomed: u64,
    findings: Vec<String>,
    /// The number of processes that have a task.
    working: watch::Sender<usize>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(shape: &'a Shape, organisation: &'a TestOrganisation) -> Self {
        Self {
            shape,
            organisation,
            figures: Figures::default(),
            findings: Vec::new(),
        }
    }

    /// Requests the history of all mailboxes as an operator does, and works on the tasks. Returns
    /// the final progress report.
    pub(crate) async fn history(&mut self) -> Option<Value> {
        let mut function = self.organisation.function("backfill").await;
        // One request in a hundred fails; then the operator repeats it.
        let mut begun = function.invoke(TestOrganisation::request(Utc::now())).await;
        if begun.as_ref().is_ok_and(|it| it.get("error").is_some()) {
            begun = function.invoke(TestOrganisation::request(Utc::now())).await;
        }
        let begun = begun.expect("the backfill must answer the request");
        assert!(
            begun["run_id"].is_string(),
            "the backfill must start a run: {begun}"
        );
        let shared = Mutex::new(Shared {
            figures: Figures::default(),
            doomed: 0,
            findings: Vec::new(),
            working: watch::Sender::new(0),
        });
        let mut rng = StdRng::seed_from_u64(self.shape.seed);
        let seats = (0..SEATS).map(|_| {
            let rng = StdRng::seed_from_u64(rng.random());
            seat(self.organisation, self.shape, &shared, rng)
        });
        join_all(seats).await;
        let shared = shared.into_inner();
        self.figures = shared.figures;
        self.findings.extend(shared.findings);
        let answer = function
            .invoke(json!({"run_id": begun["run_id"]}))
            .await
            .ok();
        function.stop().await;
        answer
    }

    /// Processes the messages on the sync queue as soon as their delay is over, without faults.
    pub(crate) async fn drain(&mut self) {
        let nylas = self.organisation.emulators.nylas();
        let injected = nylas.injected();
        // Each process injects one fault besides those of the plan.
        let queued = (SEATS - nylas.faults_left()) as u64;
        self.figures.failed_requests = injected.server_errors + injected.resets_before + queued;
        nylas.set_fault_plan(FaultPlan::default());
        let waiting = waiting(self.organisation).await;
        let mut handed_over = self.organisation.delayed(&self.organisation.sync).await;
        while self
            .organisation
            .receive(&self.organisation.sync)
            .await
            .is_some()
        {
            handed_over += 1;
        }
        if handed_over < waiting.len() {
            self.findings.push(format!(
                "{} messages are waiting, but only {handed_over} requests are on the sync queue",
                waiting.len()
            ));
        }
        let mut worker = self.organisation.function("sync-worker").await;
        for _ in 0..LONGEST_DRAIN {
            let waiting = self::waiting(self.organisation).await;
            if waiting.is_empty() {
                break;
            }
            for some in waiting.chunks(10) {
                worker.succeed(delivered(some)).await;
            }
        }
        worker.stop().await;
    }
}

/// Returns the number of requests to Dataverse so far.
fn requests(organisation: &TestOrganisation) -> u64 {
    organisation.emulators.dataverse().requests().total
}

/// Resolves when Dataverse has received this many requests; never, for `None`.
async fn reached(organisation: &TestOrganisation, number: Option<u64>) {
    let Some(number) = number else {
        return std::future::pending().await;
    };
    let mut looks = tokio::time::interval(LOOK);
    while requests(organisation) < number {
        looks.tick().await;
    }
}

/// Returns the waiting messages, by grant and id.
async fn waiting(organisation: &TestOrganisation) -> Vec<(String, String)> {
    let text = |value: &aws_sdk_dynamodb::types::AttributeValue| value.as_s().unwrap().clone();
    let items = organisation.items().await;
    let waiting = items.iter().filter_map(|item| {
        let grant = text(&item["pk"]).strip_prefix("mailbox#")?.to_owned();
        let id = text(&item["sk"]).strip_prefix("message#")?.to_owned();
        (text(&item["state"]) == "waiting").then_some((grant, id))
    });
    waiting.collect()
}

/// Returns a batch of the sync queue, with its delay over.
fn delivered(messages: &[(String, String)]) -> Value {
    let records = messages.iter().enumerate().map(|(n, (grant, id))| {
        let body = json!({"version": 1, "grant_id": grant, "message_id": id, "trigger": "backfill"});
        json!({
            "messageId": n.to_string(), "receiptHandle": "r", "body": body.to_string(), "attributes": {"ApproximateReceiveCount": "1"},
            "messageAttributes": {}, "eventSource": "aws:sqs", "awsRegion": "eu-north-1",
        })
    });
    json!({"Records": records.collect::<Vec<_>>()})
}

/// Runs one process: takes tasks until there are none, including those that another process may
/// still queue.
async fn seat(
    organisation: &TestOrganisation,
    shape: &Shape,
    shared: &Mutex<Shared>,
    mut rng: StdRng,
) {
    let mut function = organisation.function("backfill").await;
    // So few requests may all succeed by chance, so one fails for each process in any case.
    let mut fault = Some(Fault::Status {
        status: 503,
        code: "provider_error".to_owned(),
        message: "as the harness asked".to_owned(),
        retry_after_seconds: None,
    });
    let mut working = shared.lock().await.working.subscribe();
    loop {
        let task = {
            // Locked while the queue is read, so that no process takes a task between the read and
            // the count.
            let shared = shared.lock().await;
            let task = organisation.receive(&organisation.tasks).await;
            if task.is_some() {
                shared.working.send_modify(|n| *n += 1);
            } else if *shared.working.borrow() == 0 {
                break;
            }
            working.mark_unchanged();
            task
        };
        let Some(task) = task else {
            // Another process may queue its task again when it is done with it.
            working.changed().await.unwrap();
            continue;
        };
        let outcome = invoke(organisation, shape, shared, &mut function, &task, &mut rng).await;
        if let Some(fault) = fault.take() {
            organisation.emulators.nylas().fail_next(fault);
        }
        match outcome {
            Outcome::Done => organisation.delete(&organisation.tasks, &task).await,
            Outcome::Back => organisation.bring_back(&organisation.tasks, &task).await,
            Outcome::Killed if shape.defect == Some(Defect::Redelivery) => {
                organisation.delete(&organisation.tasks, &task).await;
            }
            Outcome::Killed => {
                // The lease expires before the task becomes visible again.
                let body: Value = serde_json::from_str(task.body().unwrap()).unwrap();
                organisation
                    .end_leases(body["grant_id"].as_str().unwrap())
                    .await;
                organisation.bring_back(&organisation.tasks, &task).await;
            }
        }
        if shape.defect == Some(Defect::Cursor) {
            organisation.forget_cursors().await;
        }
        shared.lock().await.working.send_modify(|n| *n -= 1);
    }
    function.stop().await;
}

/// Runs one invocation, which is sometimes stopped or killed.
async fn invoke(
    organisation: &TestOrganisation,
    shape: &Shape,
    shared: &Mutex<Shared>,
    function: &mut Function,
    task: &Message,
    rng: &mut StdRng,
) -> Outcome {
    let work = rng.random_range(shape.work / 2.0..shape.work);
    let deadline =
        Utc::now() + RESERVE + TimeDelta::from_std(Duration::from_secs_f64(work)).unwrap();
    // Kills as many as required and as the limit of requests allows, however slow the machine is:
    // each next invocation is chosen until enough are killed or chosen. If a chosen one ends before
    // its kill, another takes its place.
    let killed_at = {
        let mut shared = shared.lock().await;
        let doomed = shared.figures.killed + shared.doomed < shape.kills;
        shared.doomed += u64::from(doomed);
        doomed.then(|| requests(organisation) + rng.random_range(1..LIVES))
    };
    let running = function.run(sqs_event(std::slice::from_ref(task)), deadline);
    let finished = tokio::select! {
        finished = tokio::time::timeout(CUT, running) => finished.ok(),
        () = reached(organisation, killed_at) => None,
    };
    let mut shared = shared.lock().await;
    shared.figures.invocations += 1;
    shared.doomed -= u64::from(killed_at.is_some());
    let answer = match finished {
        Some(Finished::Answered(answer)) => answer,
        Some(Finished::Died(status)) => {
            shared
                .findings
                .push(format!("backfill ended with {status}"));
            *function = organisation.function("backfill").await;
            return Outcome::Killed;
        }
        None => {
            if killed_at.is_some_and(|at| requests(organisation) >= at) {
                shared.figures.killed += 1;
            } else {
                shared.figures.cut += 1;
            }
            drop(shared);
            function.killer().kill().await;
            *function = organisation.function("backfill").await;
            return Outcome::Killed;
        }
    };
    match answer {
        Ok(answer) if answer["batchItemFailures"] == json!([]) => Outcome::Done,
        Ok(_) => Outcome::Back,
        Err(error) => {
            shared.findings.push(format!("backfill reported {error}"));
            Outcome::Back
        }
    }
}
