//! Incidents that are played once, between two rounds and without other faults, because they are
//! about the number of requests and deliveries.

use std::collections::HashSet;
use std::time::Duration;

use mailverse::clients::retry::RECEIVE_LIMIT;

use crate::corpus::Copy;
use crate::incident::{Incident, MAILBOX, Throttle};
use crate::plan::Plan;
use crate::run::{Besides, Run};
use crate::worker::{event_of, succeeded};

/// Messages of the throttled mailbox that arrive together.
const BURST: usize = 30;

/// The time for which Nylas throttles the mailbox, in seconds.
const PAUSE: u64 = 600;

/// The most requests for the mailbox during its pause: those that three workers and the backfill
/// had already sent or were about to send, three each.
const FEW: u64 = 12;

/// The number of messages that are postponed.
const POSTPONED: usize = 5;

/// The number of real failures of each: far fewer than make it dead.
const FAILURES: u32 = 3;

/// The length of a pause of Dataverse, in seconds.
const THROTTLED: u64 = 60;

/// The first delay of the backoff in seconds, the factor from each delay to the next, and the most
/// that random jitter and rounding to whole seconds may make of it, in percent.
const BACKOFF: (u64, u64, u64) = (30, 4, 130);

impl Run {
    /// Plays the scenes of this round.
    pub(crate) async fn scenes(&mut self, round: usize) {
        let on = |incident| self.shape.incidents.contains(&incident);
        let played = match round {
            // While most messages have not been delivered yet.
            0 if on(Incident::ThrottledMailbox) => self.throttled_mailbox().await,
            1 if on(Incident::Postponements) => self.postponements().await,
            2 if on(Incident::LargeBodies) => self.large_bodies().await,
            _ => return,
        };
        self.findings.extend(played.err());
        self.faults.start();
    }

    /// Delivers messages of one mailbox. Nylas requests a pause at the first request for it.
    async fn throttled_mailbox(&mut self) -> Result<(), String> {
        self.calm().await;
        self.empty_the_queue().await?;
        let mut burst = self.take_undelivered(MAILBOX, BURST).await;
        if burst.len() < BURST / 2 {
            return Err(format!(
                "the corpus has only {} messages to throttle",
                burst.len()
            ));
        }
        self.cloud.shared.incidents.lock().unwrap().throttle = Some(Throttle::of(PAUSE));
        // Three times within the pause.
        for listing in [true, false, false] {
            let chunk = std::mem::take(&mut burst);
            let besides = Besides {
                listing,
                ..Besides::default()
            };
            self.round(chunk, besides).await;
            let until = self.time.now() + Duration::from_secs(PAUSE / 5);
            self.let_time_pass_until(until).await;
        }
        let throttle = self.cloud.shared.incidents.lock().unwrap().throttle.take();
        let early = throttle.map_or(0, |throttle| throttle.early);
        let until = self.time.now() + Duration::from_secs(PAUSE);
        self.let_time_pass_until(until).await;
        if early > FEW {
            return Err(format!(
                "{early} requests for a mailbox were sent during the pause that Nylas requested; at most {FEW} are allowed"
            ));
        }
        Ok(())
    }

    /// Takes messages of a mailbox that the ledger does not have yet out of the remaining
    /// deliveries.
    async fn take_undelivered(&mut self, grant: &str, most: usize) -> Vec<usize> {
        let known = self.ledger_by_key().await;
        let corpus = &self.corpus;
        let mut taken = HashSet::new();
        self.left.retain(|index| {
            let copy = &corpus.messages[*index];
            let is_one = copy.grant == grant
                && corpus.emails[copy.email].race.is_none()
                && !known.contains_key(&copy.key())
                && taken.len() < most;
            !(is_one && taken.insert(*index))
        });
        let mut taken: Vec<usize> = taken.into_iter().collect();
        taken.sort_unstable();
        taken
    }

    /// Dataverse throttles all deliveries except the last one of the queue, at which Nylas fails.
    /// This is repeated.
    async fn postponements(&mut self) -> Result<(), String> {
        self.calm().await;
        self.empty_the_queue().await?;
        let kept = self.corpus.single.len().saturating_sub(POSTPONED);
        let chosen = self.corpus.single.split_off(kept);
        let copies = chosen.iter().map(|index| &self.corpus.messages[*index]);
        let (ids, keys): (Vec<_>, Vec<_>) =
            copies.map(|copy| (copy.id.clone(), copy.key())).unzip();
        for index in &chosen {
            self.deliver_now(*index).await;
        }
        for failures in 1..=FAILURES {
            self.postpone(&keys).await?;
            self.cloud
                .shared
                .stubborn
                .lock()
                .unwrap()
                .extend(ids.clone());
            self.pass().await?;
            self.cloud
                .shared
                .stubborn
                .lock()
                .unwrap()
                .retain(|id| !ids.contains(id));
            self.judge_wait(&keys, failures);
            self.wait_for(&keys).await;
        }
        self.postpone(&keys).await?;
        self.pass().await?;
        let items = self.ledger_by_key().await;
        for key in &keys {
            let item = items.get(key);
            let state = item.map_or("nothing", |item| item.state.as_str());
            if state != "written" {
                self.died += 1;
                let reason = item.and_then(|item| item.reason.as_deref());
                self.findings.push(format!(
                    "{key} failed {FAILURES} times and was otherwise postponed, but the ledger has {state} ({})",
                    reason.unwrap_or_default()
                ));
            }
        }
        Ok(())
    }

    /// Delivers a batch that is larger than a worker's memory. The messages that do not fit are
    /// delivered again.
    async fn large_bodies(&mut self) -> Result<(), String> {
        self.calm().await;
        self.empty_the_queue().await?;
        let large = std::mem::take(&mut self.corpus.large);
        let copies = large.iter().map(|index| &self.corpus.messages[*index]);
        let keys: Vec<String> = copies.map(Copy::key).collect();
        for index in &large {
            self.deliver_now(*index).await;
        }
        for _ in &large {
            self.pass().await?;
            self.cloud
                .shared
                .incidents
                .lock()
                .unwrap()
                .meets(Incident::LargeBodies);
            if self
                .cloud
                .shared
                .reserve
                .lock()
                .unwrap()
                .due_of(&keys)
                .is_empty()
            {
                break;
            }
            self.wait_for(&keys).await;
        }
        Ok(())
    }

    /// Postpones deliveries until the next one is the last of the queue.
    async fn postpone(&mut self, keys: &[String]) -> Result<(), String> {
        for _ in 1..RECEIVE_LIMIT {
            *self.cloud.shared.storm.lock().unwrap() = (u64::MAX, Some(THROTTLED));
            self.pass().await?;
            self.cloud
                .shared
                .incidents
                .lock()
                .unwrap()
                .meets(Incident::Postponements);
            self.wait_for(keys).await;
        }
        *self.cloud.shared.storm.lock().unwrap() = (0, None);
        Ok(())
    }

    /// Delivers what the queue shows, each message once. Messages that are queued again meanwhile
    /// are left for the next pass: a queue would delay them.
    async fn pass(&mut self) -> Result<(), String> {
        let mut batches = Vec::new();
        loop {
            let batch = self.cloud.queue.receive(10).await;
            if batch.is_empty() {
                break;
            }
            batches.push(batch);
        }
        for batch in &batches {
            let invoked = self.workers[0].invoke(event_of(batch), Plan::default(), None);
            if let Some(answer) = invoked.await? {
                let done = succeeded(batch, &answer);
                self.cloud.queue.delete(&done).await;
            }
        }
        Ok(())
    }

    /// Lets time pass until all messages with these keys are due.
    async fn wait_for(&mut self, keys: &[String]) {
        let due = self.cloud.shared.reserve.lock().unwrap().due_of(keys);
        if let Some(last) = due.last() {
            self.let_time_pass_until(*last).await;
        }
    }

    /// Checks that a message waits no longer than its real failures require.
    fn judge_wait(&mut self, keys: &[String], failures: u32) {
        let (first, growth, percent) = BACKOFF;
        let longest = Duration::from_secs(first * growth.pow(failures - 1) * percent / 100);
        let now = self.time.now();
        let due = self.cloud.shared.reserve.lock().unwrap().due_of(keys);
        if let Some(last) = due.last()
            && *last > now + longest
        {
            self.findings.push(format!(
                "after {failures} real failures a message waits for {} s; at most {} s are allowed",
                last.saturating_sub(now).as_secs(),
                longest.as_secs()
            ));
        }
    }
}
