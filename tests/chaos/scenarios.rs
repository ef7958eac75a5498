//! Scenarios that chance would rarely produce: two workers process the same message at the same
//! moment, and a worker overruns its lease in the middle of a write.
//!
//! They are played between two rounds, by holding requests of the workers on their connections.
//! Other faults are off, or a scenario might not be completed. A scenario that is not completed
//! starts again with another message.

use std::time::Duration;

use aws_sdk_sqs::types::Message;
use futures_util::FutureExt;

use crate::faults::Strike;
use crate::invoking::strike;
use crate::plan::{Cell, Mode, Plan, Release};
use crate::queue::VISIBILITY;
use crate::run::Run;
use crate::worker::{Held, Worker, event_of, holding, succeeded};

/// The scenarios.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scenario {
    /// The lease of a worker ends while its write is on its way, and a second worker finishes the
    /// message. Then the write fails, and the first worker tries to release the message.
    OverrunAndFail,
    /// The same, but the write succeeds.
    OverrunAndWrite,
    /// Two queue messages for one message are claimed at the same moment.
    TwoDeliveries,
    /// Two copies of one email, in two mailboxes, are written at the same moment.
    TwoCopies,
}

/// How often a scenario is attempted until it is completed.
const TRIES: usize = 4;

pub(crate) const SCENARIOS: [Scenario; 4] = [
    Scenario::OverrunAndFail,
    Scenario::OverrunAndWrite,
    Scenario::TwoDeliveries,
    Scenario::TwoCopies,
];

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OverrunAndFail => "lease overrun, write fails",
            Self::OverrunAndWrite => "lease overrun, write goes through",
            Self::TwoDeliveries => "two deliveries at once",
            Self::TwoCopies => "two copies at once",
        }
    }
}

impl Run {
    /// Plays the scenarios of this round. Over the run, each is played as often as the shape says.
    pub(crate) async fn scenarios(&mut self, round: usize) {
        let all = self.shape.scenarios * SCENARIOS.len();
        // As evenly over the rounds as whole numbers allow.
        let (from, to) = (
            all * round / self.shape.rounds,
            all * (round + 1) / self.shape.rounds,
        );
        if from == to || round >= self.shape.rounds {
            return;
        }
        self.calm().await;
        for number in from..to {
            let scenario = SCENARIOS[number % SCENARIOS.len()];
            for _ in 0..TRIES {
                match self.play_scenario(scenario, number).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(finding) => self.findings.push(finding),
                }
            }
        }
        self.faults.start();
    }

    /// Plays a scenario once and counts it. Returns whether it was completed.
    pub(crate) async fn play_scenario(
        &mut self,
        scenario: Scenario,
        number: usize,
    ) -> Result<bool, String> {
        self.empty_the_queue().await?;
        let played = match scenario {
            Scenario::OverrunAndFail => self.overrun(number, Release::Cut).await,
            Scenario::OverrunAndWrite => self.overrun(number, Release::Forward).await,
            Scenario::TwoDeliveries => self.two_deliveries(number).await,
            Scenario::TwoCopies => self.two_copies(number).await,
        };
        self.cloud.shared.idle().await;
        let mut figures = self.cloud.shared.figures.lock().unwrap();
        if played == Ok(true) {
            *figures.scenarios.entry(scenario.name()).or_default() += 1;
        }
        played
    }

    /// Kills a worker of this kind when it reaches `cell` with a reserved message. Returns false if
    /// no message is left.
    pub(crate) async fn kill_at(&mut self, mode: Mode, cell: Cell) -> Result<bool, String> {
        self.empty_the_queue().await?;
        let Some(index) = self.kept_single() else {
            return Ok(false);
        };
        self.deliver_now(index).await;
        let batch = self.cloud.queue.receive(10).await;
        let of_its_kind = |worker: &&mut Worker| worker.seat.mode == mode;
        let worker = self.workers.iter_mut().find(of_its_kind).unwrap();
        let struck = strike(worker, &self.cloud, &batch, Strike::killed_at(cell, 0)).await;
        self.cloud.shared.idle().await;
        struck.map(|()| true)
    }

    /// Makes a worker process what the queue shows, so that the next batch contains only what is
    /// delivered next.
    pub(crate) async fn empty_the_queue(&mut self) -> Result<(), String> {
        let mut workers = std::mem::take(&mut self.workers);
        let emptied = self.finish(&mut workers[0]).await;
        self.workers = workers;
        emptied
    }

    /// Takes a message that was not delivered yet. It is delivered once more later.
    fn kept_single(&mut self) -> Option<usize> {
        let index = self.corpus.single.pop()?;
        self.left.insert(0, index);
        Some(index)
    }

    /// Returns two workers, another pair each time.
    fn pair(workers: &mut [Worker], number: usize) -> (&mut Worker, &mut Worker) {
        let first = number / SCENARIOS.len() % workers.len();
        let second = (first + 1) % workers.len();
        let [first, second] = workers.get_disjoint_mut([first, second]).unwrap();
        (first, second)
    }

    async fn overrun(&mut self, number: usize, release: Release) -> Result<bool, String> {
        // Delivered only once: another delivery would repair what a late settlement broke.
        let Some(index) = self.corpus.single.pop() else {
            return Ok(false);
        };
        self.deliver_now(index).await;
        let batch = self.cloud.queue.receive(10).await;
        let cell = match self.workers[number / SCENARIOS.len() % self.workers.len()]
            .seat
            .mode
        {
            // First with an Open row, which the other worker completes meanwhile.
            Mode::Stepwise if number < SCENARIOS.len() * self.workers.len() => Cell::BetweenSteps,
            _ => Cell::AfterLookUp,
        };
        let (plan, held) = holding(cell);
        // The workers are taken out of `self`, so that time can pass while one of them is working.
        let mut workers = std::mem::take(&mut self.workers);
        let played = self
            .overrun_with(&mut workers, number, &batch, (plan, held), release)
            .await;
        self.workers = workers;
        played
    }

    async fn overrun_with(
        &mut self,
        workers: &mut [Worker],
        number: usize,
        batch: &[Message],
        (plan, held): (Plan, Held),
        release: Release,
    ) -> Result<bool, String> {
        let (slow, quick) = Self::pair(workers, number);
        let mut answer = Box::pin(slow.invoke(event_of(batch), plan, None));
        let arrived = tokio::select! {
            answer = &mut answer => Err(answer),
            arrived = held.arrived => Ok(arrived),
        };
        let (answer, played) = if let Err(answer) = arrived {
            (answer, false)
        } else {
            let until = self.time.now() + VISIBILITY + Duration::from_secs(1);
            self.let_time_pass_until(until).await;
            let successor = self.finish(quick).await;
            // A worker waits only some seconds for an answer. On a very busy machine it may have
            // given up.
            let early = answer.as_mut().now_or_never();
            held.release.send(release).ok();
            let played = early.is_none();
            let answer = match early {
                Some(answer) => answer,
                None => answer.await,
            };
            successor?;
            (answer, played)
        };
        if let Some(answer) = answer? {
            self.cloud.queue.delete(&succeeded(batch, &answer)).await;
        }
        Ok(played)
    }

    /// Makes a worker process the queue until it is empty.
    async fn finish(&self, worker: &mut Worker) -> Result<(), String> {
        loop {
            let batch = self.cloud.queue.receive(10).await;
            if batch.is_empty() {
                return Ok(());
            }
            let answer = worker.invoke(event_of(&batch), Plan::default(), None);
            if let Some(answer) = answer.await? {
                self.cloud.queue.delete(&succeeded(&batch, &answer)).await;
            }
        }
    }

    async fn two_deliveries(&mut self, number: usize) -> Result<bool, String> {
        let Some(index) = self.kept_single() else {
            return Ok(false);
        };
        self.deliver_now(index).await;
        self.deliver_now(index).await;
        self.at_once(number, Cell::BeforeClaim).await
    }

    async fn two_copies(&mut self, number: usize) -> Result<bool, String> {
        let Some(pair) = self.corpus.pairs.pop() else {
            return Ok(false);
        };
        for index in pair {
            self.left.insert(0, index);
            self.deliver_now(index).await;
        }
        self.at_once(number, Cell::AfterLookUp).await
    }

    /// Two workers receive one queue message each and continue from `cell` at the same moment.
    async fn at_once(&mut self, number: usize, cell: Cell) -> Result<bool, String> {
        let mut batches: Vec<Vec<Message>> = Vec::new();
        for _ in 0..2 {
            batches.push(self.cloud.queue.receive(1).await);
        }
        let (first, second) = Self::pair(&mut self.workers, number);
        let ((plan_a, a), (plan_b, b)) = (holding(cell), holding(cell));
        let invoked = futures_util::future::join(
            first.invoke(event_of(&batches[0]), plan_a, None),
            second.invoke(event_of(&batches[1]), plan_b, None),
        );
        let released = async {
            // An invocation that ends earlier drops its hold; then `arrived` fails.
            let both = (a.arrived.await.is_ok(), b.arrived.await.is_ok());
            a.release.send(Release::Forward).ok();
            b.release.send(Release::Forward).ok();
            both == (true, true)
        };
        let ((answer_a, answer_b), played) = tokio::join!(invoked, released);
        for (batch, answer) in batches.iter().zip([answer_a, answer_b]) {
            if let Some(answer) = answer? {
                self.cloud.queue.delete(&succeeded(batch, &answer)).await;
            }
        }
        Ok(played)
    }
}
