//! Incidents that are played once, between two rounds and without other faults: how many requests
//! and deliveries there are is what they are about.

use std::collections::HashSet;
use std::time::Duration;

use mailverse::retry::RECEIVE_LIMIT;

use crate::corpus::Copy;
use crate::incident::{Incident, MAILBOX, Throttle};
use crate::plan::Plan;
use crate::run::{Besides, Run};
use crate::worker::{event_of, succeeded};

/// Messages of the throttled mailbox that come at once.
const BURST: usize = 30;

/// For how long Nylas throttles it, in seconds.
const PAUSE: u64 = 600;

/// Requests for the mailbox that may come during its pause: those that three workers and the
/// backfill had on their way or were about to send, three each.
const FEW: u64 = 12;

/// Messages that are postponed.
const POSTPONED: usize = 5;

/// Real failures of each: far fewer than make it dead.
const FAILURES: u32 = 3;

/// Seconds that a pause of Dataverse lasts.
const THROTTLED: u64 = 60;

/// First step of the back-off in seconds, by how much each is longer than the one before, and what
/// chance and a whole second may add, in percent.
const BACKOFF: (u64, u64, u64) = (30, 4, 130);

impl Run {
    /// The scenes of this round.
    pub(crate) async fn scenes(&mut self, round: usize) {
        let on = |incident| self.shape.incidents.contains(&incident);
        let played = match round {
            // While most mail has not been delivered yet.
            0 if on(Incident::ThrottledMailbox) => self.throttled_mailbox().await,
            1 if on(Incident::Postponements) => self.postponements().await,
            2 if on(Incident::LargeBodies) => self.large_bodies().await,
            _ => return,
        };
        self.findings.extend(played.err());
        self.faults.start();
    }

    /// Mail of one mailbox comes, and Nylas asks for a pause at the first request for it.
    async fn throttled_mailbox(&mut self) -> Result<(), String> {
        self.calm().await;
        self.empty_the_queue().await?;
        let mut burst = self.take_undelivered(MAILBOX, BURST).await;
        if burst.len() < BURST / 2 {
            return Err(format!("only {} messages to throttle", burst.len()));
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
                "{early} requests for a mailbox came during the pause that Nylas had asked for, more than {FEW}"
            ));
        }
        Ok(())
    }

    /// Messages of a mailbox that the ledger does not know yet, taken out of what is left to
    /// deliver.
    async fn take_undelivered(&mut self, grant: &str, most: usize) -> Vec<usize> {
        let known = self.ledger_by_key().await;
        let corpus = &self.corpus;
        let mut taken = HashSet::new();
        self.left.retain(|index| {
            let copy = &corpus.messages[*index];
            let is_one = copy.grant == grant
                && corpus.mails[copy.mail].race.is_none()
                && !known.contains_key(&copy.key())
                && taken.len() < most;
            !(is_one && taken.insert(*index))
        });
        let mut taken: Vec<usize> = taken.into_iter().collect();
        taken.sort_unstable();
        taken
    }

    /// Dataverse throttles at all deliveries but the last that the queue makes; at that one Nylas
    /// fails; and so on.
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
                    "{key} failed {FAILURES} times and was postponed otherwise, and the ledger says {state} ({})",
                    reason.unwrap_or_default()
                ));
            }
        }
        Ok(())
    }

    /// A batch is more than a worker's memory can hold at once. What does not fit comes back.
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
                .book
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

    /// So many postponed deliveries that the next one is the queue's last.
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

    /// Delivers what the queue shows, each once. What is queued anew meanwhile is for the next
    /// time: a queue would delay it.
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

    /// Lets time pass until all of these are due.
    async fn wait_for(&mut self, keys: &[String]) {
        let due = self.cloud.shared.book.lock().unwrap().due_of(keys);
        if let Some(last) = due.last() {
            self.let_time_pass_until(*last).await;
        }
    }

    /// After so many real failures, a message waits no longer than those call for.
    fn judge_wait(&mut self, keys: &[String], failures: u32) {
        let (first, growth, percent) = BACKOFF;
        let longest = Duration::from_secs(first * growth.pow(failures - 1) * percent / 100);
        let now = self.time.now();
        let due = self.cloud.shared.book.lock().unwrap().due_of(keys);
        if let Some(last) = due.last()
            && *last > now + longest
        {
            self.findings.push(format!(
                "after {failures} real failures a message waits for {} s, and at most {} s are called for",
                last.saturating_sub(now).as_secs(),
                longest.as_secs()
            ));
        }
    }
}
