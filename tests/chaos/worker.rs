//! A seat with a process on it, and what Lambda does for it: invocations, deadlines, and a new process for one that died.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::Message;
use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use serde_json::Value;
use stage::events::sqs_event;
use stage::lambda::{Ended, Function};

use crate::cloud::{Cloud, Lines};
use crate::plan::{Cell, Hold, Mode, Plan, Release};
use crate::private::Private;
use crate::queue::id_of;
use crate::station::Seat;
use tokio::sync::oneshot;

/// Time that the template gives a worker.
const TIMEOUT: TimeDelta = TimeDelta::seconds(120);

/// Time that the template gives the others, at most.
const LONGEST_TIMEOUT: TimeDelta = TimeDelta::minutes(14);

/// A process and its seat.
pub(crate) struct Worker {
    pub(crate) seat: Arc<Seat>,
    /// Drawn from the seed, for this seat alone, so that it does not depend on what the others do.
    pub(crate) rng: StdRng,
    name: &'static str,
    settings: Vec<(&'static str, String)>,
    function: Option<Function>,
    /// The most that one of its processes has had after an invocation, in bytes.
    pub(crate) peak_memory: u64,
    private: Arc<Private>,
}

/// A request that a scenario holds.
pub(crate) struct Held {
    /// Done as soon as the request is there; failed when the invocation is over without it.
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

    /// A new process takes the seat.
    async fn replace(&mut self) {
        self.stop().await;
        self.seat.next();
        let function = Function::start(self.name, &self.settings).await;
        self.seat.taken_by(function.killer());
        self.function = Some(function);
    }

    /// Ends the process and looks at what it printed.
    pub(crate) async fn stop(&mut self) {
        if let Some(function) = self.function.take() {
            let printed = function.stop().await;
            self.private.printed(self.name, &printed);
        }
    }

    /// One invocation under this plan. `None` when the process died of it, or at the deadline; another one has its seat then.
    ///
    /// # Errors
    /// The process died though nobody killed it, or reported an error.
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
        let ended = match short {
            Some(time) => tokio::time::timeout(time, function.run(event, deadline)).await,
            None => Ok(function.run(event, deadline).await),
        };
        let memory = function.peak_memory().unwrap_or_default();
        self.peak_memory = self.peak_memory.max(memory);
        let plan = std::mem::take(&mut *self.seat.plan.lock().unwrap());
        match ended {
            Ok(Ended::Answered(Ok(answer))) => Ok(Some(answer)),
            Ok(Ended::Answered(Err(error))) => Err(format!("{} reported {error}", self.name)),
            Ok(Ended::Died(status)) => {
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

    /// Kills the process; another one takes the seat.
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

/// A batch as an event.
pub(crate) fn event_of(batch: &[Message]) -> Value {
    sqs_event(batch)
}

/// The messages of a batch that the function did not report failed.
pub(crate) fn succeeded<'a>(batch: &'a [Message], answer: &Value) -> Vec<&'a Message> {
    let failures = answer["batchItemFailures"].as_array();
    let failures = failures.expect("a partial batch response");
    let failed: Vec<&str> = failures
        .iter()
        .filter_map(|failure| failure["itemIdentifier"].as_str())
        .collect();
    batch
        .iter()
        .filter(|message| !failed.contains(&id_of(message).as_str()))
        .collect()
}

/// A plan that holds the first request which comes to `cell`.
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
