//! The end of a run: faults stop, the queues drain, a scheduled run queues stranded messages, and
//! an operator redrives the dead letters.

use serde_json::Value;

use crate::invoking::list;
use crate::queue::VISIBILITY;
use crate::run::{Besides, Run};

/// The most rounds that the drain may take: far more than the deliveries of any message.
const LONGEST_DRAIN: usize = 300;

impl Run {
    /// Runs everything from the last fault until nothing is left to do.
    pub(crate) async fn end(&mut self) {
        self.calm().await;
        self.begin_anew().await;
        self.drain("the drain").await;
        // What a backfill had claimed when it died is processed by the next one; its request may be
        // in the dead-letter queue by then.
        self.let_time_pass_until(self.time.now() + VISIBILITY).await;
        self.begin_anew().await;
        self.cloud.shared.races.lock().unwrap().come_all();
        let listed = list(&mut self.backfill, &self.cloud, &self.faults).await;
        self.findings.extend(listed.err());
        self.drain("the last listing").await;
        // A message may wait without a request because its worker died on the last delivery. A
        // scheduled run queues it once it is overdue.
        self.let_what_waits_become_overdue().await;
        self.begin_anew().await;
        let listed = list(&mut self.backfill, &self.cloud, &self.faults).await;
        self.findings.extend(listed.err());
        self.drain("what was stranded").await;
        self.redrive().await;
    }

    /// Starts new processes for all workers. The old ones use the machine's clock and would
    /// remember for minutes that a token was rejected.
    async fn begin_anew(&mut self) {
        for worker in self.workers.iter_mut().chain([&mut self.backfill]) {
            worker.kill().await;
        }
    }

    /// Runs rounds without faults until the queue is empty.
    async fn drain(&mut self, what: &str) {
        self.cloud
            .shared
            .event_log
            .tell_of_all(&format!("start of {what}"));
        for _ in 0..LONGEST_DRAIN {
            let chunk = std::mem::take(&mut self.left);
            self.round(chunk, Besides::default()).await;
            if self.left.is_empty() && self.cloud.shared.reserve.lock().unwrap().due().is_empty() {
                return;
            }
            self.let_time_pass().await;
        }
        let left = self.cloud.shared.reserve.lock().unwrap().due().len();
        self.findings.push(format!(
            "{what} did not end within {LONGEST_DRAIN} rounds: {left} queue messages are still hidden"
        ));
    }

    /// Checks the dead letters, then redrives them as an operator does once the cause is fixed.
    async fn redrive(&mut self) {
        let letters = self.cloud.queue.dead_letters().await;
        let items = self.ledger_by_key().await;
        let mut given_up = Vec::new();
        let told = |what| self.cloud.shared.event_log.tell_of_all(what);
        told("the dead letters are checked");
        for letter in &letters {
            let body: Value = serde_json::from_str(letter.body().unwrap_or_default()).unwrap();
            let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
            let key = format!("{}/{}", text("grant_id"), text("message_id"));
            self.private
                .search("the dead letters", &format!("{letter:?}"));
            let item = items.get(&key);
            let state = item.map_or("nothing", |item| item.state.as_str());
            // A message that was given up may have been processed again since, with another
            // outcome. A finished message gets here if a worker died while acknowledging one more
            // delivery of it.
            let may_be_here = match state {
                "written" | "skipped" => true,
                "dead" => item.is_some_and(|item| item.reason.is_some()),
                _ => false,
            };
            if !may_be_here {
                self.findings.push(format!(
                    "{key} is in the dead-letter queue, but the ledger has {state} without a reason"
                ));
            }
            given_up.push(key);
        }
        for index in &self.corpus.stubborn {
            let key = self.corpus.messages[*index].key();
            if !given_up.contains(&key) {
                self.findings.push(format!(
                    "{key} could not be fetched for days, but is not in the dead-letter queue"
                ));
            }
        }
        self.cloud.shared.figures.lock().unwrap().dead_letters = letters.len() as u64;
        self.look_at_ledger().await;
        self.cloud.shared.stubborn.lock().unwrap().clear();
        for letter in &letters {
            self.cloud.queue.redrive(letter).await;
        }
        self.drain("the redrive").await;
        let left = self.cloud.queue.dead_letters().await.len();
        if left > 0 {
            self.findings.push(format!(
                "{left} messages are in the dead-letter queue again after a redrive"
            ));
        }
    }
}
