//! A place with a process, and what Lambda does for it: invocations, deadlines, and a new process
//! after one died.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::Message;
use chrono::{DateTime, TimeDelta, Utc};
use local_aws::events::sqs_event;
use local_aws::lambda::{Finished, Function};
use rand::rngs::StdRng;
use serde_json::Value;

use crate::cloud::{Cloud, Lines};
use crate::fault_proxy::Seat;
use crate::plan::{Cell, Hold, Mode, Plan, Release};
use crate::private::Private;
use crate::queue::id_of;
use tokio::sync::oneshot;

/// The timeout of a worker in the template.
const TIMEOUT: TimeDelta = TimeDelta::seconds(120);

/// The longest timeout of the other functions in the template.
const LONGEST_TIMEOUT: TimeDelta = TimeDelta::minutes(14);

/// A process and its place.
pub(crate) struct Worker {
    pub(crate) seat: Arc<Seat>,
    /// Drawn from the seed for this place alone, so that it does not depend on the other processes.
    pub(crate) rng: StdRng,
    name: &'static str,
    settings: Vec<(&'static str, String)>,
    function: Option<Function>,
    /// The highest memory use of one of its processes after an invocation, in bytes.
    pub(crate) peak_memory: u64,
    private: Arc<Private>,
}

/// A request that a scenario holds.
pub(crate) struct Held {
    /// Resolves when the request has arrived; fails if the invocation ends without it.
    pub(crate) arrived: oneshot::Receiver<()>,
    pub(crate) release: oneshot::Sender<Release>,
}

impl Worker {
    pub(crate) async fn start(
        mode: Mode,
        cloud: &Cloud,
        private: &Arc<Private>,
        rng: StdRng,
    ) -> Self {
        let seat = Arc::new(Seat::new(mode));
        let lines: Lines = cloud.lines(&seat).await;
        let name = match mode {
            Mode::ChangeSet | Mode::Stepwise => "sync-worker",
            Mode::Backfill => "backfill",
            Mode::Receiver => "webhook-receiver",
        };
        let mut worker = Self {
            settings: cloud.settings(mode, &lines),
            seat,
            rng,
            name,
            function: None,
            peak_memory: 0,
            private: Arc::clone(private),
        };
        worker.replace().await;
        worker
    }

    /// Starts a new process in this place.
    async fn replace(&mut self) {
        self.stop().await;
        self.seat.next();
        let function = Function::start(self.name, &self.settings).await;
        self.seat.time_of(function.killer());
        self.function = Some(function);
    }

    /// Ends the process and searches what it printed.
    pub(crate) async fn stop(&mut self) {
        if let Some(function) = self.function.take() {
            let printed = function.stop().await;
            self.private.printed(self.name, &printed);
        }
    }

    /// Runs one invocation with this plan. Returns `None` if the process was killed by the plan or
    /// at the deadline; a new one is running then.
    ///
    /// # Errors
    /// The process died without being killed, or reported an error.
    pub(crate) async fn invoke(
        &mut self,
        event: Value,
        plan: Plan,
        short: Option<Duration>,
    ) -> Result<Option<Value>, String> {
        let kills = plan.kill.is_some();
        *self.seat.plan.lock().unwrap() = plan;
        let deadline = self.deadline(short);
        let function = self.function.as_mut().unwrap();
        let finished = match short {
            Some(time) => tokio::time::timeout(time, function.run(event, deadline)).await,
            None => Ok(function.run(event, deadline).await),
        };
        let memory = function.peak_memory().unwrap_or_default();
        self.peak_memory = self.peak_memory.max(memory);
        let plan = std::mem::take(&mut *self.seat.plan.lock().unwrap());
        match finished {
            Ok(Finished::Answered(Ok(answer))) => Ok(Some(answer)),
            Ok(Finished::Answered(Err(error))) => Err(format!("{} reported {error}", self.name)),
            Ok(Finished::Died(status)) => {
                self.replace().await;
                if kills && plan.kill.is_none() {
                    Ok(None)
                } else {
                    Err(format!("{} ended with {status}", self.name))
                }
            }
            Err(_) => {
                self.kill().await;
                Ok(None)
            }
        }
    }

    /// Kills the process and starts a new one.
    pub(crate) async fn kill(&mut self) {
        self.seat.kill().await;
        self.replace().await;
    }

    fn deadline(&self, short: Option<Duration>) -> DateTime<Utc> {
        let whole = match self.seat.mode {
            Mode::ChangeSet | Mode::Stepwise => TIMEOUT,
            Mode::Backfill | Mode::Receiver => LONGEST_TIMEOUT,
        };
        Utc::now() + short.map_or(whole, |time| TimeDelta::from_std(time).unwrap())
    }
}

/// Returns the event for a batch.
pub(crate) fn event_of(batch: &[Message]) -> Value {
    sqs_event(batch)
}

/// Returns the messages of a batch that the function did not report as failed.
pub(crate) fn succeeded<'a>(batch: &'a [Message], answer: &Value) -> Vec<&'a Message> {
    let failures = answer["batchItemFailures"].as_array();
    let failures = failures.expect("the answer must be a partial batch response");
    let failed: Vec<&str> = failures
        .iter()
        .filter_map(|failure| failure["itemIdentifier"].as_str())
        .collect();
    batch
        .iter()
        .filter(|message| !failed.contains(&id_of(message).as_str()))
        .collect()
}

/// Returns a plan that holds the first request that reaches `cell`.
pub(crate) fn holding(cell: Cell) -> (Plan, Held) {
    let (here, arrived) = oneshot::channel();
    let (release, order) = oneshot::channel();
    let hold = Hold {
        cell,
        arrived: here,
        release: order,
    };
    let plan = Plan {
        hold: Some(hold),
        ..Plan::default()
    };
    (plan, Held { arrived, release })
}
