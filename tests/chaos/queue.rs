//! The sync queue as Lambda's poller sees it, and a record of its hidden messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message,
    MessageSystemAttributeName,
};
use serde_json::Value;

use crate::fault_proxy::Shared;
use crate::time::Time;

/// The visibility timeout, unless a worker sets another one: as in `template.yaml`.
pub(crate) const VISIBILITY: Duration = Duration::from_secs(300);

/// The messages that were received and not deleted.
#[derive(Default)]
pub(crate) struct Book {
    time: Time,
    /// By message id: the last receipt, and when the message becomes visible again.
    hidden: HashMap<String, (String, Duration)>,
    /// Message ids by receipt, including older receipts.
    receipts: HashMap<String, String>,
    /// The key of the message that each message id is about, as in the ledger.
    keys: HashMap<String, String>,
    /// By key: the total time for which it was hidden on request, in seconds.
    pub(crate) asked: HashMap<String, u64>,
    /// Every body that was sent or received, once for each time.
    pub(crate) bodies: Vec<String>,
}

impl Book {
    pub(crate) fn keeping(time: Time) -> Self {
        Self {
            time,
            ..Self::default()
        }
    }

    pub(crate) fn sent(&mut self, body: &str) {
        self.bodies.push(body.to_owned());
    }

    /// Records that a worker hid a message for this many seconds.
    pub(crate) fn hidden(&mut self, receipt: &str, seconds: u64) {
        let until = self.time.now() + Duration::from_secs(seconds);
        if let Some(id) = self.receipts.get(receipt)
            && let Some((_, hidden)) = self.hidden.get_mut(id)
        {
            *hidden = until;
            if let Some(key) = self.keys.get(id) {
                *self.asked.entry(key.clone()).or_default() += seconds;
            }
        }
    }

    /// Returns when the hidden messages with these keys become visible, the earliest first.
    pub(crate) fn due_of(&self, keys: &[String]) -> Vec<Duration> {
        let about = |id: &String| self.keys.get(id).is_some_and(|key| keys.contains(key));
        let hidden = self.hidden.iter().filter(|(id, _)| about(id));
        let mut due: Vec<Duration> = hidden.map(|(_, (_, until))| *until).collect();
        due.sort_unstable();
        due
    }

    fn received(&mut self, message: &Message) {
        let (id, receipt) = (id_of(message), receipt_of(message));
        self.receipts.insert(receipt.clone(), id.clone());
        let body = message.body().unwrap_or_default();
        if let Ok(body) = serde_json::from_str::<Value>(body)
            && let (Some(grant), Some(of)) =
                (body["grant_id"].as_str(), body["message_id"].as_str())
        {
            self.keys.insert(id.clone(), format!("{grant}/{of}"));
        }
        self.hidden
            .insert(id, (receipt, self.time.now() + VISIBILITY));
        self.bodies.push(format!("{message:?}"));
    }

    fn deleted(&mut self, receipt: &str) {
        if let Some(id) = self.receipts.get(receipt) {
            self.hidden.remove(id);
        }
    }

    /// Returns when each hidden message becomes visible, the earliest first.
    pub(crate) fn due(&self) -> Vec<Duration> {
        let mut due: Vec<Duration> = self.hidden.values().map(|(_, until)| *until).collect();
        due.sort_unstable();
        due
    }

    /// Removes the messages that are due. Returns their receipts.
    fn take_due(&mut self) -> Vec<String> {
        let now = self.time.now();
        let due = self.hidden.extract_if(|_, (_, until)| *until <= now);
        let mut receipts: Vec<String> = due.map(|(_, (receipt, _))| receipt).collect();
        receipts.sort_unstable();
        receipts
    }
}

/// The sync queue and its dead-letter queue.
#[derive(Clone)]
pub(crate) struct Queue {
    pub(crate) client: aws_sdk_sqs::Client,
    pub(crate) url: String,
    pub(crate) dead_letters: String,
    pub(crate) shared: Arc<Shared>,
}

impl Queue {
    /// Receives up to `most` messages.
    pub(crate) async fn receive(&self, most: i32) -> Vec<Message> {
        let batch = self.receive_from(&self.url, most).await;
        let mut reserve = self.shared.reserve.lock().unwrap();
        for message in &batch {
            reserve.received(message);
            let what = format!("received for time {}", receive_count(message));
            self.tell(message, &what);
        }
        batch
    }

    async fn receive_from(&self, url: &str, most: i32) -> Vec<Message> {
        let _alone = self.shared.queue_gate.lock().await;
        let call = self.client.receive_message().queue_url(url);
        let call = call
            .max_number_of_messages(most)
            .message_system_attribute_names(MessageSystemAttributeName::All);
        call.send().await.unwrap().messages.unwrap_or_default()
    }

    /// Deletes messages that were processed.
    pub(crate) async fn delete(&self, messages: &[&Message]) {
        self.delete_from(&self.url, messages).await;
        let mut reserve = self.shared.reserve.lock().unwrap();
        for message in messages {
            reserve.deleted(&receipt_of(message));
            self.tell(message, "acknowledged");
        }
    }

    fn tell(&self, message: &Message, what: &str) {
        let body = message.body().unwrap_or_default();
        self.shared
            .event_log
            .tell_of_body(body, &format!("{what}, {}", id_of(message)));
    }

    async fn delete_from(&self, url: &str, messages: &[&Message]) {
        for some in messages.chunks(10) {
            let entries = some.iter().enumerate().map(|(n, message)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(n.to_string());
                entry.receipt_handle(receipt_of(message)).build().unwrap()
            });
            let _alone = self.shared.queue_gate.lock().await;
            let call = self.client.delete_message_batch().queue_url(url);
            let call = call.set_entries(Some(entries.collect()));
            // A receipt that is too old deletes nothing, as in SQS: the message is delivered again.
            call.send().await.unwrap();
        }
    }

    /// Makes messages that are due visible again. Returns how many.
    pub(crate) async fn bring_back(&self) -> usize {
        let due = self.shared.reserve.lock().unwrap().take_due();
        for some in due.chunks(10) {
            let entries = some.iter().enumerate().map(|(n, receipt)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(n.to_string());
                let entry = entry.receipt_handle(receipt).visibility_timeout(0);
                entry.build().unwrap()
            });
            let _alone = self.shared.queue_gate.lock().await;
            let call = self
                .client
                .change_message_visibility_batch()
                .queue_url(&self.url);
            let call = call.set_entries(Some(entries.collect()));
            // A message that moved to the dead-letter queue in the meantime has no valid receipt.
            call.send().await.unwrap();
        }
        due.len()
    }

    /// Returns the dead letters. They stay in their queue until they are [redriven](Self::redrive).
    pub(crate) async fn dead_letters(&self) -> Vec<Message> {
        let mut letters = Vec::new();
        loop {
            let some = self.receive_from(&self.dead_letters, 10).await;
            if some.is_empty() {
                return letters;
            }
            letters.extend(some);
        }
    }

    /// Moves a dead letter back to the sync queue, as an operator does.
    pub(crate) async fn redrive(&self, letter: &Message) {
        self.send(letter.body().unwrap_or_default()).await;
        self.delete_from(&self.dead_letters, &[letter]).await;
    }

    async fn send(&self, body: &str) {
        let _alone = self.shared.queue_gate.lock().await;
        let call = self.client.send_message().queue_url(&self.url);
        call.message_body(body).send().await.unwrap();
    }
}

pub(crate) fn id_of(message: &Message) -> String {
    message.message_id().unwrap().to_owned()
}

pub(crate) fn receipt_of(message: &Message) -> String {
    message.receipt_handle().unwrap().to_owned()
}

/// Returns how often the message was received.
pub(crate) fn receive_count(message: &Message) -> u32 {
    let attributes = message.attributes.as_ref().unwrap();
    let count = attributes.get(&MessageSystemAttributeName::ApproximateReceiveCount);
    count.and_then(|count| count.parse().ok()).unwrap_or(1)
}
