//! What chance would hardly bring about: two workers at one mail at the same moment, and a worker that overruns its lease in the middle of a write.
//!
//! They are played between two rounds, with the requests of the workers held on their lines. Other faults pause meanwhile, or a scenario would not come to
//! its point. One that does not come to it is begun anew with another message.

use std::time::Duration;

use aws_sdk_sqs::types::Message;

use crate::faults::Strike;
use crate::figures::Figures;
use crate::invoking::strike;
use crate::plan::{Cell, Mode, Plan, Release};
use crate::queue::VISIBILITY;
use crate::run::Run;
use crate::worker::{Held, Worker, event_of, holding, succeeded};

/// What scenarios there are.
#[derive(Debug, Clone, Copy)]
enum Scenario {
    /// A worker's lease ends while its write is on its way, its successor finishes, then the write fails: the worker wants to release the message.
    OverrunAndFail,
    /// The same, and the write goes through.
    OverrunAndWrite,
    /// Two queue messages for one message, claimed at the same moment.
    TwoDeliveries,
    /// One mail in two mailboxes, written at the same moment.
    TwoCopies,
}

/// How often a scenario that does not come to its point is begun anew: faults that a service has in store come to meet it.
const TRIES: usize = 4;

const SCENARIOS: [Scenario; 4] = [
    Scenario::OverrunAndFail,
    Scenario::OverrunAndWrite,
    Scenario::TwoDeliveries,
    Scenario::TwoCopies,
];

impl Scenario {
    fn name(self) -> &'static str {
        match self {
            Self::OverrunAndFail => "lease overrun, write fails",
            Self::OverrunAndWrite => "lease overrun, write goes through",
            Self::TwoDeliveries => "two deliveries at once",
            Self::TwoCopies => "two copies at once",
        }
    }
}

impl Run {
    /// Plays the scenarios of this round: each comes up so often that it is played as often as the shape says.
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
                let played = match scenario {
                    Scenario::OverrunAndFail => self.overrun(number, Release::Cut).await,
                    Scenario::OverrunAndWrite => self.overrun(number, Release::Forward).await,
                    Scenario::TwoDeliveries => self.two_deliveries(number).await,
                    Scenario::TwoCopies => self.two_copies(number).await,
                };
                self.cloud.shared.idle().await;
                let played = played.unwrap_or_else(|finding| {
                    self.findings.push(finding);
                    false
                });
                if played {
                    let mut figures = self.cloud.shared.figures.lock().unwrap();
                    *figures.scenarios.entry(scenario.name()).or_default() += 1;
                    break;
                }
            }
        }
        self.faults.start();
    }

    /// Kills a worker at each boundary at which chance killed none.
    pub(crate) async fn kill_where_nobody_was_killed(&mut self) {
        self.calm().await;
        for number in 0..self.workers.len() {
            let mode = self.workers[number].seat.mode;
            let cells = Cell::MATRIX.into_iter().filter(|cell| cell.is_met_by(mode));
            for cell in cells.flat_map(|cell| [cell; TRIES]) {
                let met = self
                    .cloud
                    .shared
                    .figures
                    .lock()
                    .unwrap()
                    .kills_at(mode, cell)
                    > 0;
                if !met && let Err(finding) = self.kill_at(number, cell).await {
                    self.findings.push(finding);
                }
            }
        }
        // What was kept and not needed is delivered like the rest.
        let kept = self
            .corpus
            .single
            .drain(..)
            .chain(self.corpus.pairs.drain(..).flatten());
        self.left.extend(kept);
    }

    async fn kill_at(&mut self, number: usize, cell: Cell) -> Result<(), String> {
        let Some(index) = self.kept_single() else {
            return Ok(());
        };
        self.deliver_now(index).await;
        let batch = self.cloud.queue.receive(10).await;
        strike(
            &mut self.workers[number],
            &self.cloud,
            &batch,
            Strike::killed_at(cell, 0),
        )
        .await
    }

    /// A message that was not delivered yet; it will be once more.
    fn kept_single(&mut self) -> Option<usize> {
        let index = self.corpus.single.pop()?;
        self.left.insert(0, index);
        Some(index)
    }

    /// Two workers, another pair each time.
    fn pair(workers: &mut [Worker], number: usize) -> (&mut Worker, &mut Worker) {
        let first = number / SCENARIOS.len() % workers.len();
        let second = (first + 1) % workers.len();
        let [first, second] = workers.get_disjoint_mut([first, second]).unwrap();
        (first, second)
    }

    async fn overrun(&mut self, number: usize, release: Release) -> Result<bool, String> {
        // Delivered this once: another delivery would mend what a late settlement spoilt.
        let Some(index) = self.corpus.single.pop() else {
            return Ok(false);
        };
        self.deliver_now(index).await;
        let batch = self.cloud.queue.receive(10).await;
        let cell = match self.workers[number / SCENARIOS.len() % self.workers.len()]
            .seat
            .mode
        {
            // At first with an Open row that somebody else completes meanwhile.
            Mode::Stepwise if number < SCENARIOS.len() * self.workers.len() => Cell::BetweenSteps,
            _ => Cell::AfterLookUp,
        };
        let (plan, held) = holding(cell);
        // The workers are taken out, so that time can pass while one of them is at work.
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
        let played = arrived.is_ok();
        let answer = if let Err(answer) = arrived {
            answer
        } else {
            let until = self.time.now() + VISIBILITY + Duration::from_secs(1);
            self.let_time_pass_until(until).await;
            let successor = self.finish(quick).await;
            held.release.send(release).ok();
            let answer = answer.await;
            successor?;
            answer
        };
        if let Some(answer) = answer? {
            self.cloud.queue.delete(&succeeded(batch, &answer)).await;
        }
        Ok(played)
    }

    /// A worker takes what is in the queue until it is empty.
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

    /// Two workers take one queue message each and go on from `cell` at the same moment.
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
            // An invocation that ends earlier drops its hold, which counts as having come.
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

/// Scenarios that never came to their point.
pub(crate) fn unplayed(figures: &Figures) -> Vec<&'static str> {
    let names = SCENARIOS.map(Scenario::name).into_iter();
    names
        .filter(|name| !figures.scenarios.contains_key(name))
        .collect()
}
