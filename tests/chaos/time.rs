//! The clock of the harness: the machine's clock, plus the time that the harness let pass.
//!
//! The processes use the machine's clock. Time passes for them by moving what they wait for: leases
//! and pauses end earlier, hidden messages become visible.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::{StreamExt, stream};
use mailverse::ledger::LEASE;
use mailverse::ledger::attention_index::OVERDUE;
use rand::Rng;

use crate::cloud::TABLE;
use crate::queue::VISIBILITY;
use crate::run::Run;

/// The clock. Clones share the same time.
#[derive(Debug, Clone)]
pub(crate) struct Time {
    start: Instant,
    passed: Arc<Mutex<Duration>>,
}

impl Default for Time {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            passed: Arc::default(),
        }
    }
}

impl Time {
    /// Returns the time since the start.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed() + *self.passed.lock().unwrap()
    }

    /// Returns the time since the start on the machine's clock.
    pub(crate) fn real(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn pass(&self, time: Duration) {
        *self.passed.lock().unwrap() += time;
    }
}

impl Run {
    /// Lets time pass until at least about half of the queue's hidden messages are due. Not always
    /// all of them: two queue messages for the same message would meet again and again, and
    /// postpone each other.
    pub(crate) async fn let_time_pass(&mut self) {
        let due = self.cloud.shared.reserve.lock().unwrap().due();
        let Some(last) = due.len().checked_sub(1) else {
            return;
        };
        let until = due[self.rng.random_range(last / 2..=last)];
        self.let_time_pass_until(until).await;
    }

    /// Stops all faults, and ends what workers wait for: pauses, and the renewal of a rejected
    /// token. A process whose token was rejected only looks for another one a minute later by the
    /// machine's clock, so it is replaced.
    pub(crate) async fn calm(&mut self) {
        self.faults.stop();
        for pause in self.pauses().await {
            let call = self.cloud.ledger.delete_item().table_name(TABLE);
            let call = call.key("pk", pause["pk"].clone());
            call.key("sk", pause["sk"].clone()).send().await.unwrap();
        }
        self.refresh_token().await;
        for worker in self.workers.iter_mut().chain([&mut self.backfill]) {
            if worker.seat.was_refused() {
                worker.kill().await;
            }
        }
        self.cloud.shared.idle().await;
    }

    /// Lets time pass for the leases, the pauses and the queue.
    pub(crate) async fn let_time_pass_until(&mut self, until: Duration) {
        let by = until.saturating_sub(self.time.now()) + Duration::from_millis(1);
        self.time.pass(by);
        self.cloud.shared.figures.lock().unwrap().jumps += 1;
        self.cloud
            .shared
            .races
            .lock()
            .unwrap()
            .come_by(self.time.now());
        let by = i64::try_from(by.as_millis()).unwrap();
        self.end_leases(by).await;
        self.end_pauses(by).await;
        self.age_mails_with_files(by).await;
        self.cloud.queue.bring_back().await;
    }

    /// Lets so much time pass that every waiting message is overdue. No worker may be running.
    pub(crate) async fn let_what_waits_become_overdue(&mut self) {
        let time = (OVERDUE + LEASE).to_std().unwrap() + VISIBILITY;
        self.let_time_pass_until(self.time.now() + time).await;
        let by = i64::try_from(time.as_millis()).unwrap();
        for item in self.cloud.items().await {
            if item
                .get("attention")
                .and_then(|it| it.as_s().ok())
                .map(String::as_str)
                != Some("waiting")
            {
                continue;
            }
            for name in ["since_ms", "retry_at_ms"] {
                let at = item
                    .get(name)
                    .and_then(|it| it.as_n().ok()?.parse::<i64>().ok());
                let Some(at) = at else { continue };
                let call = self.cloud.ledger.update_item().table_name(TABLE);
                let call = call
                    .key("pk", item["pk"].clone())
                    .key("sk", item["sk"].clone())
                    .update_expression("SET #name = :new")
                    .expression_attribute_names("#name", name)
                    .expression_attribute_values(":new", AttributeValue::N((at - by).to_string()));
                call.send().await.unwrap();
            }
        }
    }

    /// Makes every lease end earlier by this many milliseconds. Conditional on the previous value,
    /// so that no write of a worker is overwritten.
    async fn end_leases(&self, by: i64) {
        let mut history = self.cloud.shared.history.lock().await;
        let leases = history.leases();
        let moves = stream::iter(&leases).map(async |(key, token, until)| {
            let (grant, message) = key.split_once('/').unwrap();
            let call = self.cloud.ledger.update_item().table_name(TABLE);
            let call = call
                .key("pk", AttributeValue::S(format!("mailbox#{grant}")))
                .key("sk", AttributeValue::S(format!("message#{message}")))
                .update_expression("SET lease_until_ms = :new")
                .condition_expression("lease_until_ms = :old AND claim_token = :token")
                .expression_attribute_values(":new", AttributeValue::N((until - by).to_string()))
                .expression_attribute_values(":old", AttributeValue::N(until.to_string()))
                .expression_attribute_values(":token", AttributeValue::S(token.clone()));
            call.send().await.is_ok()
        });
        let done: Vec<bool> = moves.buffered(10).collect().await;
        for ((key, _, until), finished) in leases.iter().zip(done) {
            if finished {
                history.moved(key, until - by);
            }
        }
    }

    /// Returns the pauses that workers share: of a Dataverse user, of a mailbox, or of anything
    /// else.
    async fn pauses(&self) -> Vec<HashMap<String, AttributeValue>> {
        let is_pause = |item: &HashMap<String, AttributeValue>| {
            let pk = item.get("pk").and_then(|pk| pk.as_s().ok());
            pk.is_some_and(|pk| pk.starts_with("rate_limit"))
        };
        let items = self.cloud.items().await;
        items.into_iter().filter(is_pause).collect()
    }

    /// Makes each pause and each rate limit reservation end earlier by this many milliseconds.
    async fn end_pauses(&self, by: i64) {
        for pause in self.pauses().await {
            let ends = pause
                .keys()
                .filter(|name| matches!(name.as_str(), "paused_until_ms" | "tat_ms"));
            self.move_back(&pause, ends, by).await;
        }
    }

    /// Makes messages with unavailable files older, by moving every timestamp of their items back.
    async fn age_mails_with_files(&self, by: i64) {
        let emails = self.cloud.shared.incidents.lock().unwrap().emails.clone();
        if emails.is_empty() {
            return;
        }
        for item in self.cloud.items().await {
            let text = |name: &str| item.get(name).and_then(|value| value.as_s().ok());
            let (Some(pk), Some(sk)) = (text("pk"), text("sk")) else {
                continue;
            };
            let key = pk.strip_prefix("mailbox#").zip(sk.strip_prefix("message#"));
            let is_one = key.is_some_and(|(grant, id)| emails.contains(&format!("{grant}/{id}")));
            if is_one && !item.contains_key("claim_token") {
                let moments = item.keys().filter(|name| name.ends_with("_ms"));
                self.move_back(&item, moments, by).await;
            }
        }
    }

    /// Moves timestamps of an item back if they are still unchanged.
    async fn move_back(
        &self,
        item: &HashMap<String, AttributeValue>,
        moments: impl Iterator<Item = &String>,
        by: i64,
    ) {
        for name in moments {
            let Some(AttributeValue::N(old)) = item.get(name) else {
                continue;
            };
            let new = old.parse::<i64>().unwrap() - by;
            let call = self.cloud.ledger.update_item().table_name(TABLE);
            let call = call
                .key("pk", item["pk"].clone())
                .key("sk", item["sk"].clone())
                .update_expression("SET #moment = :new")
                .condition_expression("#moment = :old")
                .expression_attribute_names("#moment", name)
                .expression_attribute_values(":old", AttributeValue::N(old.clone()))
                .expression_attribute_values(":new", AttributeValue::N(new.to_string()));
            // A worker may have changed it in the meantime.
            call.send().await.ok();
        }
    }
}
